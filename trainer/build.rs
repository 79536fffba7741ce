//! Compiles the C++ shim and passes on where libtorch lies.
//!
//! Dependent packages read that place as `DEP_PATCHMILL_SHIM_LIBTORCH_LIB`, so that their own binaries find the
//! shared libraries too: a link argument reaches only the package that prints it. In the CUDA flavour they also read
//! `DEP_PATCHMILL_SHIM_CUDART_LIB`, the folder of the CUDA runtime.

use std::path::{Path, PathBuf};

fn main() {
    let lib = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from).expect(
        "torch-sys is a direct dependency, so its build script has said where libtorch lies",
    );
    let include = lib.parent().expect("libtorch's libraries lie in a folder of it").join("include");

    println!("cargo::metadata=LIBTORCH_LIB={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());

    println!("cargo::rerun-if-changed=shim");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").opt_level(2).debug(false);
    build.define("NDEBUG", None); // as libtorch was built: some of its types have other members without it
    for folder in [&include, &include.join("torch/csrc/api/include")] {
        build.flag("-isystem").flag(folder);
    }
    let mut sources = vec!["error", "autograd", "optimizer", "random", "context", "ops"];
    if lib.join("libtorch_cuda.so").exists() {
        sources.extend(["cuda_device", "cuda_graph", "cuda_host", "cuda_stream"]);
        link_cuda(&lib, &mut build);
    } else {
        sources.push("cuda_absent");
    }
    build.files(sources.iter().map(|name| format!("shim/{name}.cpp"))).compile("patchmill_shim");
}

/// The headers and libraries of the CUDA runtime, which the wheels put beside torch's folder.
fn link_cuda(lib: &Path, build: &mut cc::Build) {
    // Nothing need refer to a symbol of it, so the linker would drop it, and CUDA would be missing without a word.
    println!("cargo::rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
    let runtime = lib.join("../../nvidia/cu13");
    let runtime = runtime.canonicalize().unwrap_or_else(|err| {
        panic!(
            "{}: {err}; the CUDA flavour needs the CUDA runtime's wheels beside torch: \
             run `./bootstrap.sh --cuda setup`, or point LIBTORCH at a folder that it made",
            runtime.display()
        )
    });
    build.flag("-isystem").flag(runtime.join("include"));
    let runtime_lib = runtime.join("lib");
    println!("cargo::metadata=CUDART_LIB={}", runtime_lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", runtime_lib.display());
    println!("cargo::rustc-link-search=native={}", runtime_lib.display());
    println!("cargo::rustc-link-lib=dylib=torch_cuda");
    println!("cargo::rustc-link-lib=dylib=c10_cuda");
    println!("cargo::rustc-link-lib=dylib:+verbatim=libcudart.so.13");
}
