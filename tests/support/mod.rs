//! What several integration tests share.

#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod batches;
pub mod cuda;
pub mod fake;
pub mod goldens;
pub mod npy;
pub mod perplexity;
