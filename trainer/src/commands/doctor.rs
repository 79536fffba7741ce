//! `patchmill-train doctor`: this machine's resources for a run, and any problems with them.
//!
//! **Invariant:** it changes nothing and needs no GPU; every problem comes with a remedy.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use schemas::run::Dtype;
use tch::{Cuda, Device, Kind, Tensor};

use crate::device::cuda;
use crate::shim;

/// The findings.
pub struct Report {
    /// Name and value, in printing order.
    pub facts: Vec<(&'static str, String)>,
    /// Problems, each with its remedy.
    pub problems: Vec<String>,
}

impl Report {
    fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.facts.push((name, value.into()));
    }

    /// The report as text, a fact a line.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let infallible = "writing to a String cannot fail";
        for (name, value) in &self.facts {
            writeln!(text, "{name:<18} {value}").expect(infallible);
        }
        for problem in &self.problems {
            writeln!(text, "problem: {problem}").expect(infallible);
        }
        if self.problems.is_empty() {
            text.push_str("no problem found\n");
        }
        text
    }
}

/// Looks at libtorch, devices, dtypes, threads, shared memory and limits.
pub fn examine() -> Result<Report> {
    let mut report = Report { facts: Vec::new(), problems: Vec::new() };
    libtorch(&mut report);
    gpu(&mut report);
    dtypes(&mut report)?;
    threads(&mut report);
    memory(&mut report)?;
    limits(&mut report)?;
    Ok(report)
}

fn libtorch(report: &mut Report) {
    report.fact("libtorch", shim::torch_version());
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for library in ["libtorch_cpu.so", "libtorch_cuda.so"] {
        let path = maps.lines().filter_map(|line| line.split_once('/')).map(|(_, path)| path);
        let path =
            path.filter(|path| path.ends_with(library)).map(|path| format!("/{path}")).next();
        report.fact(
            if library == "libtorch_cpu.so" { "libtorch_cpu" } else { "libtorch_cuda" },
            path.unwrap_or_else(|| "not loaded (this build computes on the CPU)".to_owned()),
        );
    }
    report.fact("onednn", if tch::utils::has_mkldnn() { "yes" } else { "no" });
}

fn gpu(report: &mut Report) {
    let built_with_cuda = tch::utils::has_cudart();
    report.fact("cuda code", if shim::cuda::is_built() { "built in" } else { "not built in" });
    let driver = fs::read_to_string(cuda::DRIVER_VERSION_PATH);
    report.fact(
        "nvidia driver",
        driver.as_ref().map_or("none", |text| text.lines().next().unwrap_or("unknown")),
    );
    let count = Cuda::device_count();
    report.fact("cuda devices", count.to_string());
    devices(report, count);
    if let Ok(visible) = std::env::var("CUDA_VISIBLE_DEVICES") {
        report.fact("CUDA_VISIBLE_DEVICES", visible);
    }
    match (built_with_cuda, driver.is_ok(), count) {
        (false, true, _) | (true, true, 0) => report.problems.push(cuda::why_missing()),
        (true, false, _) => {
            report.problems.push(format!("{}; until then runs go to the CPU", cuda::why_missing()));
        }
        _ => {}
    }
}

/// The properties of each GPU, and the settings of all of them.
fn devices(report: &mut Report, count: i64) {
    for index in 0..usize::try_from(count).unwrap_or(0) {
        let found = match shim::cuda::properties(index) {
            Ok(found) => found,
            Err(err) => {
                report.problems.push(format!("cuda:{index} cannot be asked: {err}"));
                continue;
            }
        };
        let peak = cuda::peak(&found.name, Dtype::Bf16).map_or_else(
            || "peak unknown: no MFU".to_owned(),
            |peak| format!("{:.0} TFLOP/s in bf16 ({})", peak.flops_per_sec / 1e12, peak.source),
        );
        report.fact(
            "cuda device",
            format!(
                "cuda:{index} {}, {}, {} multiprocessors, capability {}.{}, {peak}",
                found.name,
                gib(found.memory_bytes),
                found.multiprocessors,
                found.capability.0,
                found.capability.1
            ),
        );
    }
    let precision = shim::context::matmul_precision();
    let precision = precision.map_or_else(|err| err.to_string(), |found| format!("{found:?}"));
    report.fact("fp32 on cuda", precision);
    let expandable = shim::context::expandable_segments();
    let expandable = expandable.map_or_else(|err| err.to_string(), |on| on.to_string());
    report.fact("expandable memory", expandable);
}

/// Multiplies small matrices in each dtype on each device and compares with fp32 on the CPU.
fn dtypes(report: &mut Report) -> Result<()> {
    let mut devices = vec![Device::Cpu];
    let cuda_count = usize::try_from(Cuda::device_count()).unwrap_or(0);
    devices.extend((0..cuda_count).map(Device::Cuda));
    let a = Tensor::arange(64 * 64, (Kind::Float, Device::Cpu)).sin().view([64, 64]);
    let expected = a.matmul(&a);
    for device in devices {
        for (name, kind, tolerance) in [("fp32", Kind::Float, 1e-2), ("bf16", Kind::BFloat16, 1.0)]
        {
            let result = a
                .f_to_device(device)
                .and_then(|a| a.f_to_kind(kind))
                .and_then(|a| a.f_matmul(&a))
                .and_then(|c| c.f_to_device(Device::Cpu));
            let line = match result {
                Ok(product) => {
                    let error = (product.to_kind(Kind::Float) - &expected).abs().max();
                    let error = f64::try_from(error)?;
                    if error > tolerance {
                        report.problems.push(format!(
                            "{name} on {device:?} is wrong by {error:.3}: don't train with it"
                        ));
                    }
                    format!("{name} works on {device:?} (64x64 product off by {error:.1e})")
                }
                Err(err) => {
                    let text = err.to_string();
                    let first = text.lines().next().unwrap_or_default();
                    report.problems.push(format!("{name} fails on {device:?}: {first}"));
                    format!("{name} fails on {device:?}")
                }
            };
            report.fact("dtype", line);
        }
    }
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let native: Vec<&str> = ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]
        .into_iter()
        .filter(|flag| flags.split(' ').any(|found| found == *flag))
        .collect();
    report.fact("cpu", native.join(" "));
    if !native.iter().any(|flag| flag.ends_with("bf16")) {
        report.fact("cpu bf16", "emulated: fp32 is faster on this CPU");
    }
    Ok(())
}

fn threads(report: &mut Report) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    report.fact("cores", cores.to_string());
    report.fact("torch threads", tch::get_num_threads().to_string());
    if let Ok(text) = std::env::var("OMP_NUM_THREADS") {
        report.fact("OMP_NUM_THREADS", text.clone());
        if text.parse().is_ok_and(|threads: usize| threads > cores) {
            report.problems.push(format!(
                "OMP_NUM_THREADS is {text}, but only {cores} cores are available: \
                 set it to {cores} or unset it"
            ));
        }
    }
}

fn memory(report: &mut Report) -> Result<()> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    for name in ["MemTotal:", "MemAvailable:"] {
        if let Some(kib) = kib(name) {
            let label = if name == "MemTotal:" { "memory" } else { "memory available" };
            report.fact(label, gib(kib * 1024));
        }
    }
    match pipeline::disk::atomic::free_bytes(std::path::Path::new("/dev/shm")) {
        Ok(bytes) => {
            report.fact("/dev/shm free", gib(bytes));
            if bytes < 64 << 20 {
                report.problems.push(format!(
                    "/dev/shm has {} free: several ranks on one machine need 64 MiB \
                     (container: --shm-size=1g)",
                    gib(bytes)
                ));
            }
        }
        Err(err) => report.problems.push(format!("/dev/shm is not usable: {err}")),
    }
    Ok(())
}

fn limits(report: &mut Report) -> Result<()> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    for (name, label, least) in [
        ("Max open files", "open files", 1024),
        ("Max locked memory", "locked memory", 0),
        ("Max address space", "address space", 0),
        ("Max file size", "file size", 0),
    ] {
        let Some(line) = limits.lines().find(|line| line.starts_with(name)) else { continue };
        let soft = line[name.len()..].split_whitespace().next().unwrap_or("unknown");
        report.fact(label, soft);
        if soft.parse().is_ok_and(|soft: u64| soft < least) {
            report.problems.push(format!(
                "only {soft} {label} are allowed; \
                 a corpus of many shards needs more: `ulimit -n {least}`"
            ));
        }
        if label != "open files" && label != "locked memory" && soft != "unlimited" {
            report.problems.push(format!(
                "{label} is limited to {soft} bytes; \
                 mapped corpora and checkpoints may fail: `ulimit` in this shell"
            ));
        }
    }
    Ok(())
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}
