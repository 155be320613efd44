//! Memory whose size a file decides: refused by an error where the machine has none, never by an abort.

use crate::error::{Error, Result};

/// An empty list with room for `count` items.
///
/// # Errors
/// [`Error::OutOfHostMemory`] naming `what`.
pub(super) fn list<T>(count: u64, what: &str) -> Result<Vec<T>> {
    let refused = || Error::OutOfHostMemory {
        what: what.to_string(),
        bytes: count.saturating_mul(std::mem::size_of::<T>() as u64),
    };
    let mut list = Vec::new();
    let items = usize::try_from(count).map_err(|_| refused())?;
    list.try_reserve_exact(items).map_err(|_| refused())?;
    Ok(list)
}

/// `len` zero bytes.
///
/// # Errors
/// [`Error::OutOfHostMemory`] naming `what`.
pub(super) fn zeroed(len: u64, what: &str) -> Result<Vec<u8>> {
    let mut bytes = list(len, what)?;
    bytes.resize(len as usize, 0);
    Ok(bytes)
}
