//! Lets the binaries of `tests` and of `benches` find libtorch, when the feature `trainer` brings
//! it in.

fn main() {
    println!("cargo::rerun-if-env-changed=DEP_PATCHMILL_SHIM_LIBTORCH_LIB");
    println!("cargo::rerun-if-env-changed=DEP_PATCHMILL_SHIM_CUDART_LIB");
    let Some(lib) = std::env::var_os("DEP_PATCHMILL_SHIM_LIBTORCH_LIB") else { return };
    let lib = std::path::PathBuf::from(lib);
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    if lib.join("libtorch_cuda.so").exists() {
        // Nothing refers to its symbols, so the linker would drop it, and CUDA would silently be
        // missing.
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed,-ltorch_cuda,--as-needed");
    }
    if let Some(cudart) = std::env::var_os("DEP_PATCHMILL_SHIM_CUDART_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", std::path::Path::new(&cudart).display());
    }
}
