//! Compiles the C++ shim, with its kernels once for each level of the instruction set, and passes
//! on the location of libtorch.
//!
//! Dependent packages read this location as `DEP_PATCHMILL_SHIM_LIBTORCH_LIB`, so their own
//! binaries find the shared libraries too: a link argument reaches only the package that prints it.
//! In the CUDA flavour they also read `DEP_PATCHMILL_SHIM_CUDART_LIB`, the folder of the CUDA
//! runtime.

use std::path::{Path, PathBuf};

fn main() {
    let lib = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).expect(
        "torch-sys is a direct dependency, so its build script has named libtorch's folder",
    );
    let include = lib.parent().expect("libtorch's libraries are in a folder of it").join("include");

    println!("cargo::metadata=LIBTORCH_LIB={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());

    println!("cargo::rerun-if-changed=shim");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(false);
    // libtorch was built with it; without it some types have other members.
    build.define("NDEBUG", None);
    // libtorch's loops over threads are templates: without OpenMP they silently run on one thread.
    // GNU's runtime is already linked; another compiler's would be a second one.
    let compiler = build.get_compiler();
    if compiler.is_like_gnu() && !compiler.is_like_clang() {
        build.flag("-fopenmp");
    } else {
        println!(
            "cargo::warning=the shim's loops run on one thread: only g++ \
             compiles them for libtorch's threads"
        );
    }
    // libtorch was built with it.
    build.define("USE_DISTRIBUTED", None);
    for folder in [&include, &include.join("torch/csrc/api/include"), Path::new("shim/gloo")] {
        build.flag("-isystem").flag(folder);
    }
    build.flag("-iquote").flag("shim");
    let mut sources: Vec<String> = [
        "error",
        "attention",
        "autograd",
        "checkpoint",
        "fused",
        "group",
        "kernels/levels",
        "memory",
        "optimizer",
        "product",
        "random",
        "context",
        "ops",
    ]
    .map(str::to_owned)
    .into();
    if lib.join("libtorch_cuda.so").exists() {
        let parts = ["device", "graph", "group", "host", "stream"];
        sources.extend(parts.map(|part| format!("cuda/{part}")));
        link_cuda(&lib, &mut build);
    } else {
        sources.push("cuda/absent".to_owned());
    }
    build.files(sources.iter().map(|name| format!("shim/{name}.cpp")));
    build.objects(kernels()).compile("patchmill_shim");
}

/// The headers and libraries of the CUDA runtime, which the wheels put next to torch's folder.
fn link_cuda(lib: &Path, build: &mut cc::Build) {
    // Nothing needs to refer to its symbols, so the linker would drop it, and CUDA would silently
    // be missing.
    println!("cargo::rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
    let runtime = lib.join("../../nvidia/cu13");
    let runtime = runtime.canonicalize().unwrap_or_else(|err| {
        panic!(
            "{}: {err}; the CUDA flavour needs the CUDA runtime's wheels next to torch: \
             run `./bootstrap.sh --cuda setup`, or point LIBTORCH at a folder that it made",
            runtime.display()
        )
    });
    for include in [runtime.join("include"), runtime.join("../nccl/include")] {
        build.flag("-isystem").flag(include);
    }
    let runtime_lib = runtime.join("lib");
    println!("cargo::metadata=CUDART_LIB={}", runtime_lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", runtime_lib.display());
    println!("cargo::rustc-link-search=native={}", runtime_lib.display());
    println!("cargo::rustc-link-lib=dylib=torch_cuda");
    println!("cargo::rustc-link-lib=dylib=c10_cuda");
    println!("cargo::rustc-link-lib=dylib:+verbatim=libcudart.so.13");
}

/// Name and flags of each instruction set level `shim/kernels/kernels.cpp` is compiled for.
fn levels() -> &'static [(&'static str, &'static [&'static str])] {
    match std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => &[
            ("baseline", &[]),
            ("x86_64_v3", &["-march=x86-64-v3"]),
            ("x86_64_v4", &["-march=x86-64-v4"]),
            ("x86_64_v4_bf16", &["-march=x86-64-v4", "-mavx512bf16"]),
        ],
        _ => &[("baseline", &[])],
    }
}

/// Objects of `shim/kernels/kernels.cpp`, one for each level. Each is in its own folder because all
/// have the same name.
fn kernels() -> Vec<PathBuf> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let compile = |&(level, flags): &(&str, &[&str])| {
        let folder = out.join(level);
        std::fs::create_dir_all(&folder).expect("OUT_DIR can be written");
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(3).debug(false).define("PATCHMILL_LEVEL", level);
        build.flag("-fopenmp-simd").flag("-fno-math-errno").flag("-fno-trapping-math");
        // Without it GCC turns each bound of `exponential` into a branch, and vectorizes SwiGLU by
        // computing both sides.
        build.flag_if_supported("-fno-thread-jumps");
        for flag in flags {
            build.flag(flag);
        }
        if !flags.is_empty() {
            build.flag_if_supported("-mprefer-vector-width=512");
        }
        build.out_dir(folder).file("shim/kernels/kernels.cpp").compile_intermediates()
    };
    levels().iter().flat_map(compile).collect()
}
