//! Whether there is a CUDA device.

/// Says so where there is none, or where the library was built without CUDA.
pub fn no_device() -> bool {
    let error = qwen3moe::cuda::probe(0).err();
    if let Some(error) = &error {
        println!("skipped: no CUDA device: {error}");
    }
    error.is_some()
}
