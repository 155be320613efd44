//! Whether there is a CUDA device.

/// Says so where there is none, or where the library was built without CUDA.
pub fn no_device() -> bool {
    match qwen3moe::cuda::probe(0) {
        Ok(_) => false,
        Err(error @ (qwen3moe::Error::NoDevice(_) | qwen3moe::Error::DriverTooOld(_))) => {
            println!("skipped: no CUDA device: {error}");
            true
        }
        Err(error) => panic!("the device does not work: {error}"),
    }
}
