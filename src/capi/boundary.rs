//! The one way from C into the library and back.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::status::qm_status;
use crate::error::{Error, Result};

/// Threads of this library carry names with this prefix.
const THREAD_PREFIX: &str = "qm-";

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static PANIC_PLACE: RefCell<String> = const { RefCell::new(String::new()) };
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

/// Runs `body` and turns a panic into [`Error::Panic`].
pub(super) fn catch<T>(body: impl FnOnce() -> T) -> Result<T> {
    silence_panics();
    let depth = |change: fn(u32) -> u32| DEPTH.try_with(|d| d.set(change(d.get())));
    let _ = depth(|d| d.saturating_add(1));
    let result = catch_unwind(AssertUnwindSafe(body)).map_err(|payload| {
        let place = PANIC_PLACE.try_with(|place| place.take()).unwrap_or_default();
        Error::Panic(format!("{}{place}", message(payload.as_ref())))
    });
    let _ = depth(|d| d.saturating_sub(1));
    result
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Keeps the standard library from printing panics of this library to the host's standard error: those inside a
/// boundary, whose place goes into the error text instead, and those on the library's own threads. Panics of others (a
/// Rust program that uses the crate and the C interface) go to the hook that was there before.
fn silence_panics() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let inside = DEPTH.try_with(Cell::get).is_ok_and(|depth| depth > 0);
            let own_thread = std::thread::current().name().is_some_and(|name| name.starts_with(THREAD_PREFIX));
            if inside {
                let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
                let _ = PANIC_PLACE.try_with(|slot| slot.replace(place));
            } else if !own_thread {
                previous(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
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
