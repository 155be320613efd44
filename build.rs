//! Names the shared library for the loader, compiles the CUDA kernels, and hands facts of the build to the code.

#[path = "kernels/build.rs"]
mod kernels;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for (name, fact) in [("QM_TARGET", "TARGET"), ("QM_PROFILE", "PROFILE")] {
        println!("cargo::rustc-env={name}={}", std::env::var(fact).unwrap_or_default());
    }
    // Programs record this name and not the file that they were linked with, so that an incompatible later library,
    // which has another number, is never loaded by mistake. The number is QM_ABI_VERSION.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libqwen3moe.so.0");
        // A plugin that closes the library right after the last free must not unmap code that ending threads still run.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    if let Err(error) = kernels::build() {
        println!("cargo::error={error}");
    }
}
