//! Compiles the C++ shim, its kernels once for each level of the instruction set, and passes on where libtorch lies.
//!
//! Dependent packages read that place as `DEP_PATCHMILL_SHIM_LIBTORCH_LIB`, so that their own binaries find the
//! shared libraries too: a link argument reaches only the package that prints it.

use std::path::PathBuf;

fn main() {
    let lib = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).expect(
        "torch-sys is a direct dependency, so its build script has said where libtorch lies",
    );
    let include = lib.parent().expect("libtorch's libraries lie in a folder of it").join("include");

    println!("cargo::metadata=LIBTORCH_LIB={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    if lib.join("libtorch_cuda.so").exists() {
        // Nothing refers to a symbol of it, so the linker would drop it, and CUDA would be missing without a word.
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
    }

    println!("cargo::rerun-if-changed=shim");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .flag("-isystem")
        .flag(&include)
        .flag("-isystem")
        .flag(include.join("torch/csrc/api/include"))
        .file("shim/error.cpp")
        .file("shim/autograd.cpp")
        .file("shim/fused.cpp")
        .file("shim/levels.cpp")
        .file("shim/memory.cpp")
        .file("shim/optimizer.cpp")
        .file("shim/profile.cpp")
        .file("shim/random.cpp")
        .objects(kernels())
        .compile("patchmill_shim");
}

/// Name and `-march` of each level of the instruction set that `shim/kernels.cpp` is compiled for.
fn levels() -> &'static [(&'static str, Option<&'static str>)] {
    match std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("x86_64") => &[
            ("baseline", None),
            ("x86_64_v3", Some("-march=x86-64-v3")),
            ("x86_64_v4", Some("-march=x86-64-v4")),
        ],
        _ => &[("baseline", None)],
    }
}

/// Objects of `shim/kernels.cpp`, one a level; each in a folder of its own, since they have one name.
fn kernels() -> Vec<PathBuf> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let compile = |&(level, march): &(&str, Option<&str>)| {
        let folder = out.join(level);
        std::fs::create_dir_all(&folder).expect("OUT_DIR can be written");
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(3).debug(false).define("PATCHMILL_LEVEL", level);
        build.flag("-fopenmp-simd").flag("-fno-math-errno").flag("-fno-trapping-math");
        if let Some(march) = march {
            build.flag(march).flag_if_supported("-mprefer-vector-width=512");
        }
        build.out_dir(folder).file("shim/kernels.cpp").compile_intermediates()
    };
    levels().iter().flat_map(compile).collect()
}
