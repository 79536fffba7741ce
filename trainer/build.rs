//! Compiles the C++ shim and passes on where libtorch lies.
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
        .file("shim/optimizer.cpp")
        .file("shim/random.cpp")
        .compile("patchmill_shim");
}
