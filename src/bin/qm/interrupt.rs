//! Ctrl-C: the first asks the command to stop, a second before it has stopped ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

/// The one thing a signal handler may touch.
static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_interrupt(_signal: libc::c_int) {
    if REQUESTED.swap(true, Ordering::Relaxed) {
        // SAFETY: `_exit` is async-signal-safe.
        unsafe { libc::_exit(130) }
    }
}

/// Takes over Ctrl-C from the system.
pub fn install() {
    let handler: extern "C" fn(libc::c_int) = on_interrupt;
    // SAFETY: the handler calls async-signal-safe functions only, and lives as long as the program.
    unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
}

/// Ctrl-C was pressed since the last [`clear`].
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Forgets a Ctrl-C that was dealt with.
pub fn clear() {
    REQUESTED.store(false, Ordering::Relaxed);
}
