//! The C interface: the only part that knows C.
//!
//! One file a C object; `include/qwen3moe.h` is generated from them, so their doc comments are the manual for C
//! programmers. Every `extern "C"` function is argument checks and a handful of lines inside one
//! [`boundary`](boundary::boundary), which turns errors and panics into statuses.
//!
//! * [`status`] and [`version`]: codes and facts about the library.
//! * [`options`]: what a caller chooses; [`load`]: from files to a model.
//! * [`model`], [`stats`], [`text`]: what can be asked of a model.
//! * [`stream`] is for generations.
//! * `boundary`, `arguments`, `buffer` and `extensible` are what all of them are made of.

#![allow(non_camel_case_types)]

mod arguments;
mod boundary;
mod buffer;
mod extensible;
pub mod load;
pub mod model;
pub mod options;
pub mod stats;
pub mod status;
pub mod stream;
pub mod text;
pub mod version;
