//! GGUF files, version 2 and 3.

mod metadata;

pub use metadata::{Metadata, Value};
