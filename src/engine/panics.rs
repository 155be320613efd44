//! Panics become errors, and print nothing.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::error::{Error, Result};

/// Threads of this library carry names with this prefix.
const THREAD_PREFIX: &str = "qm-";

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `body` and turns a panic into [`Error::Panic`].
pub(crate) fn catch<T>(body: impl FnOnce() -> T) -> Result<T> {
    silence();
    let depth = |change: fn(u32) -> u32| DEPTH.try_with(|d| d.set(change(d.get())));
    let _ = depth(|d| d.saturating_add(1));
    let result = catch_unwind(AssertUnwindSafe(body)).map_err(|payload| {
        let place = PLACE.try_with(|place| place.take()).unwrap_or_default();
        Error::Panic(format!("{}{place}", message(payload.as_ref())))
    });
    let _ = depth(|d| d.saturating_sub(1));
    result
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Keeps the standard library from printing panics of this library to the host's standard error: those inside of
/// [`catch`], whose place goes into the error's text instead, and those on the library's own threads. All others go to the
/// hook that was there before.
pub(crate) fn silence() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let inside = DEPTH.try_with(Cell::get).is_ok_and(|depth| depth > 0);
            let own_thread = std::thread::current().name().is_some_and(|name| name.starts_with(THREAD_PREFIX));
            if inside {
                let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
                let _ = PLACE.try_with(|slot| slot.replace(place));
            } else if !own_thread {
                previous(info);
            }
        }));
    });
}
