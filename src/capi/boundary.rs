//! The one way from C into the library and back.

use std::cell::RefCell;

use super::status::qm_status;
pub(super) use crate::engine::catch;
use crate::error::Result;

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs the body of a function that returns a status. An error or a panic becomes its code, and its text the calling
/// thread's last error.
pub(super) fn boundary(body: impl FnOnce() -> Result<qm_status>) -> qm_status {
    let error = match catch(body) {
        Ok(Ok(status)) => return status,
        Ok(Err(error)) | Err(error) => error,
    };
    // A host may call while its thread's storage is being torn down: then there is no last error, and no panic.
    let _ = LAST_ERROR.try_with(|last| {
        if let Ok(mut last) = last.try_borrow_mut() {
            *last = error.to_string();
        }
    });
    error.status()
}

/// Runs the body of a function that cannot fail; `fallback` is its value should it panic all the same.
pub(super) fn quietly<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch(body).unwrap_or(fallback)
}

/// Hands the calling thread's last error to `read`.
pub(super) fn last_error<T>(read: impl Fn(&str) -> T) -> T {
    LAST_ERROR
        .try_with(|last| last.try_borrow().map(|text| read(&text)).unwrap_or_else(|_| read("")))
        .unwrap_or_else(|_| read(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::capi::status::{QM_ERR_CANCELLED, QM_ERR_PANIC, QM_OK};

    #[test]
    fn a_panic_becomes_a_status_and_a_text_with_its_place() {
        assert_eq!(boundary(|| panic!("broken {}", 7)), QM_ERR_PANIC);
        let text = last_error(str::to_owned);
        assert!(text.starts_with("internal error (panic): broken 7 at "), "{text}");
        assert!(text.contains("boundary.rs:"), "{text}");
    }

    #[test]
    fn the_last_error_stays_through_successes_and_belongs_to_one_thread() {
        assert_eq!(boundary(|| Err(Error::Cancelled)), QM_ERR_CANCELLED);
        assert_eq!(boundary(|| Ok(QM_OK)), QM_OK);
        assert_eq!(last_error(str::to_owned), "cancelled");
        let other = std::thread::spawn(|| last_error(str::to_owned)).join();
        assert_eq!(other.ok().as_deref(), Some(""));
    }

    #[test]
    fn a_call_from_a_destructor_of_thread_storage_still_returns_its_status() {
        struct CallsLate(std::sync::mpsc::Sender<qm_status>);
        impl Drop for CallsLate {
            fn drop(&mut self) {
                let _ = self.0.send(boundary(|| Err(Error::Cancelled)));
                let _ = self.0.send(boundary(|| panic!("late")));
            }
        }
        thread_local!(static LATE: RefCell<Option<CallsLate>> = const { RefCell::new(None) });
        let (sender, statuses) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            LATE.with(|late| *late.borrow_mut() = Some(CallsLate(sender)));
            boundary(|| Err(Error::Cancelled))
        });
        assert_eq!(thread.join().ok(), Some(QM_ERR_CANCELLED));
        assert_eq!(statuses.iter().collect::<Vec<_>>(), [QM_ERR_CANCELLED, QM_ERR_PANIC]);
    }
}
