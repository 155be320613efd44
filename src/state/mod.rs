//! What a sequence remembers, as bookkeeping: which KV pages and which recurrent slot belong to it.
//!
//! The memory itself is the backend's; this module hands out indices into it from pools that are sized once, at load.
//! A pool that is empty is an answer, not a failure: the caller decides what waits or ends.

mod kv_format;
mod pool;

pub use kv_format::KvFormat;
pub use pool::{Pools, StateLayout};

/// What one sequence holds: a slot for its recurrent states and a page for every [`StateLayout::page_tokens`] positions.
///
/// Made by [`Pools::open`], grown by [`Pools::reserve`], given back by [`Pools::close`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Index of the DeltaNet and convolution states.
    pub slot: usize,
    /// KV pages in the order of positions: position `p` lies in page `pages[p / page_tokens]`.
    pub pages: Vec<u32>,
}
