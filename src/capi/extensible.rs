//! Structs that grow: a caller and a library of different ages understand each other by the struct's size.
//!
//! Fields are only ever appended. An older caller's struct is shorter, and the missing fields keep their defaults; a newer
//! caller's is longer, and the fields that this library does not know must be zero, which means "not used".

use super::arguments::not_null;
use crate::error::{Error, Result};

/// No struct of this interface will ever be this large: a larger size is memory that was never initialised.
const LARGEST: usize = 4096;

/// A `repr(C)` struct that begins with `uint32_t struct_size`.
///
/// # Safety
/// `repr(C)` without padding, the first field is the `u32` size, and every bit pattern that C can produce is a value.
pub(super) unsafe trait Extensible: Copy {
    /// The name in C.
    const NAME: &'static str;
    /// The size in the first version of the library that had the struct.
    const FIRST_SIZE: usize;

    /// Checks a size that a caller gave.
    fn check_size(size: usize) -> Result<()> {
        if (Self::FIRST_SIZE..=LARGEST).contains(&size) {
            return Ok(());
        }
        Err(Error::AbiMismatch(format!(
            "{}: a size of {size} bytes, expected {} (at least {}): pass sizeof, and call the init function of options",
            Self::NAME,
            size_of::<Self>(),
            Self::FIRST_SIZE,
        )))
    }
}

/// The caller's options over the defaults; NULL stands for the defaults.
///
/// # Safety
/// `pointer` is NULL or points to a struct of as many bytes as its `struct_size` says.
pub(super) unsafe fn read_options<T: Extensible + Default>(pointer: *const T) -> Result<T> {
    let mut value = T::default();
    if pointer.is_null() {
        return Ok(value);
    }
    let bytes = pointer.cast::<u8>();
    // SAFETY: every extensible struct begins with its size.
    let size = unsafe { bytes.cast::<u32>().read_unaligned() } as usize;
    T::check_size(size)?;
    let known = size.min(size_of::<T>());
    for at in known..size {
        // SAFETY: within the struct's own size.
        if unsafe { bytes.add(at).read() } != 0 {
            return Err(Error::AbiMismatch(format!(
                "{}: byte {at} of {size} is not zero, but this library knows only the first {known}: \
                 the program was built for a newer one and uses an option that this one does not have",
                T::NAME,
            )));
        }
    }
    // SAFETY: both are at least `known` bytes long, and every bit pattern is a value.
    unsafe { std::ptr::copy_nonoverlapping(bytes, (&raw mut value).cast(), known) };
    Ok(value)
}

/// Writes the defaults to the caller's struct of `size` bytes.
///
/// # Safety
/// `pointer` is NULL or valid for writes of `size` bytes.
pub(super) unsafe fn init_options<T: Extensible + Default>(pointer: *mut T, size: usize, name: &str) -> Result<()> {
    // SAFETY: as the caller promises.
    unsafe { write(pointer, size, &T::default(), name, size) }
}

/// Writes a result to the caller's struct of `size` bytes; its `struct_size` says how many bytes have a meaning.
///
/// # Safety
/// `pointer` is NULL or valid for writes of `size` bytes.
pub(super) unsafe fn write_output<T: Extensible>(pointer: *mut T, size: usize, value: &T, name: &str) -> Result<()> {
    // SAFETY: as the caller promises.
    unsafe { write(pointer, size, value, name, size.min(size_of::<T>())) }
}

/// Finds out before long work whether [`write_output`] could write.
pub(super) fn check_output<T: Extensible>(pointer: *mut T, size: usize, name: &str) -> Result<()> {
    not_null(pointer, name)?;
    T::check_size(size)
}

/// # Safety
/// `pointer` is NULL or valid for writes of `size` bytes.
unsafe fn write<T: Extensible>(pointer: *mut T, size: usize, value: &T, name: &str, stored: usize) -> Result<()> {
    check_output(pointer, size, name)?;
    let known = size.min(size_of::<T>());
    let bytes = pointer.cast::<u8>();
    // SAFETY: `known <= size` bytes are the caller's, and the rest up to `size` too. `stored` is at most LARGEST.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const *value).cast(), bytes, known);
        bytes.add(known).write_bytes(0, size - known);
        bytes.cast::<u32>().write_unaligned(stored as u32);
    }
    Ok(())
}

/// The size of what `field` reads.
pub(super) const fn size_of_field<S, F>(_field: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// Declares a struct extensible, and asserts its size and the offset of each of its fields at compile time.
macro_rules! extensible {
    ($name:ident, first: $first:literal, size: $size:literal, { $($field:ident: $offset:literal),+ $(,)? }) => {
        // SAFETY: `repr(C)`; the assertions show that the first field is the size and that the fields leave no gaps.
        unsafe impl $crate::capi::extensible::Extensible for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST_SIZE: usize = $first;
        }
        const _: () = {
            assert!(size_of::<$name>() == $size);
            let mut end = 0;
            $(
                assert!(std::mem::offset_of!($name, $field) == $offset);
                assert!($offset == end, "a gap before the field");
                // Never called: what it returns has the type of the field.
                end += $crate::capi::extensible::size_of_field(|value: &$name| &value.$field);
            )+
            assert!(end == $size, "a gap at the end");
        };
    };
}
pub(super) use extensible;

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct options {
        struct_size: u32,
        first: u32,
        second: u64,
    }
    extensible!(options, first: 8, size: 16, { struct_size: 0, first: 4, second: 8 });

    impl Default for options {
        fn default() -> Self {
            Self { struct_size: 16, first: 1, second: 2 }
        }
    }

    #[repr(C)]
    struct Newer {
        known: options,
        unknown: u64,
    }

    #[test]
    fn an_older_caller_gets_the_defaults_of_what_it_does_not_know() -> Result<()> {
        let older = options { struct_size: 8, first: 7, second: u64::MAX };
        // SAFETY: a struct of 8 bytes at least.
        assert_eq!(unsafe { read_options(&older) }?, options { struct_size: 8, first: 7, second: 2 });
        let mut target = options { struct_size: 0, first: 0, second: u64::MAX };
        // SAFETY: as above.
        unsafe { init_options(&mut target, 8, "options") }?;
        assert_eq!(target, options { struct_size: 8, first: 1, second: u64::MAX });
        Ok(())
    }

    #[test]
    fn a_newer_caller_may_not_use_what_this_library_does_not_know() -> Result<()> {
        let known = options { struct_size: 24, first: 7, second: 9 };
        let mut newer = Newer { known, unknown: 0 };
        // SAFETY: a struct of 24 bytes.
        assert_eq!(unsafe { read_options::<options>((&raw const newer).cast()) }?, known);
        newer.unknown = 1 << 63;
        // SAFETY: as above.
        let refused = unsafe { read_options::<options>((&raw const newer).cast()) };
        assert!(matches!(refused, Err(Error::AbiMismatch(text)) if text.contains("byte 23 of 24")));
        // SAFETY: as above.
        unsafe { write_output::<options>((&raw mut newer).cast(), 24, &options::default(), "out") }?;
        assert_eq!((newer.known, newer.unknown), (options::default(), 0));
        Ok(())
    }

    #[test]
    fn sizes_that_no_version_ever_had_are_refused() {
        for size in [0, 4, 7, 4097, u32::MAX] {
            let value = options { struct_size: size, first: 0, second: 0 };
            // SAFETY: a size out of range is refused before anything else is read.
            assert!(matches!(unsafe { read_options(&value) }, Err(Error::AbiMismatch(_))), "{size}");
        }
    }
}
