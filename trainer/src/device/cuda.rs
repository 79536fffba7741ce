//! GPU defaults of the process, peak figures of GPUs, and reasons for a missing GPU.
//!
//! **Invariant:** fp32 means fp32: products of fp32 matrices are never made in TF32.

use std::ffi::CStr;

use schemas::run::Dtype;
use tch::Cuda;

use crate::shim::ShimError;
use crate::shim::context::{self, MatmulPrecision};
use crate::shim::cuda;

/// Expandable segments leave fewer holes where the sizes of tensors change, as at the switch of
/// phases.
const ALLOCATOR_DEFAULT: &CStr = c"expandable_segments:True";
/// The file with the driver's version.
pub const DRIVER_VERSION_PATH: &str = "/proc/driver/nvidia/version";

/// Sets the process's defaults, before anything is allocated on a GPU: the allocator's, unless the
/// environment sets them (`PYTORCH_ALLOC_CONF`), and IEEE products for fp32.
pub fn set_defaults() -> Result<(), ShimError> {
    context::set_allocator_default(ALLOCATOR_DEFAULT)?;
    context::set_matmul_precision(MatmulPrecision::Ieee)
}

/// Why libtorch sees fewer GPUs than requested, and the remedy.
pub fn why_missing() -> String {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_else(|_| "unset".to_owned());
    if !cuda::is_built() {
        "this program was built against the CPU libtorch: build it with \
         `./bootstrap.sh --cuda build`"
            .to_owned()
    } else if !std::path::Path::new(DRIVER_VERSION_PATH).exists() {
        format!(
            "this program has CUDA, but no NVIDIA driver is loaded ({DRIVER_VERSION_PATH} is \
             absent): install the driver, or run on a machine that has one"
        )
    } else if Cuda::device_count() == 0 {
        format!(
            "driver and CUDA are present, but no device is visible: check nvidia-smi and \
             CUDA_VISIBLE_DEVICES ({visible})"
        )
    } else {
        format!("visible devices are numbered from cuda:0; CUDA_VISIBLE_DEVICES is {visible}")
    }
}

/// Peak speed of a GPU, according to its maker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Dense products; an addition counts as an operation too.
    pub flops_per_sec: f64,
    /// The source of the figure.
    pub source: &'static str,
}

/// Part of a device's name; dense TFLOP/s in bf16 on tensor cores with fp32 sums, and in fp32
/// without TF32; source. More specific names come first. For some devices makers print bf16 figures
/// with sparsity, twice these.
const PEAKS: [(&str, f64, f64, &str); 12] = [
    ("B200", 2250.0, 75.0, "NVIDIA Blackwell datasheet (HGX B200, per GPU)"),
    ("H200 NVL", 835.0, 60.0, "NVIDIA H200 datasheet"),
    ("H200", 989.4, 67.0, "NVIDIA H200 datasheet"),
    ("GH200", 989.4, 67.0, "NVIDIA GH200 datasheet"),
    ("H100 PCIe", 756.0, 51.0, "NVIDIA H100 datasheet"),
    ("H100 NVL", 835.0, 60.0, "NVIDIA H100 datasheet"),
    ("H100", 989.4, 67.0, "NVIDIA H100 datasheet (SXM)"),
    ("A100", 312.0, 19.5, "NVIDIA A100 datasheet"),
    ("L40S", 362.05, 91.6, "NVIDIA L40S datasheet"),
    ("A10", 125.0, 31.2, "NVIDIA A10 datasheet"),
    ("L4", 121.0, 30.3, "NVIDIA L4 datasheet"),
    ("RTX 4090", 165.2, 82.6, "NVIDIA Ada GPU architecture paper, appendix A"),
];

/// The peak of the device with this name, for a model's products in `dtype`; `None` if the device
/// is not in the table.
pub fn peak(device_name: &str, dtype: Dtype) -> Option<Peak> {
    // Whole words are compared: `A100` must not match `A10`, nor `L40S` match `L4`.
    let words: Vec<&str> = device_name.split([' ', '-']).collect();
    let is_named = |part: &str| {
        let part: Vec<&str> = part.split(' ').collect();
        words.windows(part.len()).any(|window| window == part)
    };
    let &(_, bf16, fp32, source) = PEAKS.iter().find(|(part, ..)| is_named(part))?;
    let teraflops = match dtype {
        Dtype::Bf16 => bf16,
        Dtype::Fp32 => fp32,
    };
    Some(Peak { flops_per_sec: teraflops * 1e12, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_drivers_give_them_find_their_peak() {
        for (name, expected) in [
            ("NVIDIA H100 80GB HBM3", Some(989.4e12)),
            ("NVIDIA H100 PCIe", Some(756e12)),
            ("NVIDIA H200", Some(989.4e12)),
            ("NVIDIA A100-SXM4-80GB", Some(312e12)),
            ("NVIDIA A10", Some(125e12)),
            ("NVIDIA L40S", Some(362.05e12)),
            ("NVIDIA L4", Some(121e12)),
            ("NVIDIA GeForce RTX 4090", Some(165.2e12)),
            ("Some other device", None),
        ] {
            let found = peak(name, Dtype::Bf16).map(|peak| peak.flops_per_sec);
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn fp32_products_are_ieee_after_the_defaults() {
        set_defaults().unwrap();
        assert_eq!(context::matmul_precision().unwrap(), MatmulPrecision::Ieee);
        let by_environment = ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"];
        if by_environment.iter().all(|name| std::env::var_os(name).is_none()) {
            assert!(context::expandable_segments().unwrap());
        }
    }
}
