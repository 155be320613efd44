//! A panic of the library prints nothing: the host's own hook hears of its own threads only.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use qwen3moe::{Error, Model};
use support::fake::{self, Sizes};

#[test]
fn a_panic_of_the_library_is_not_told_to_the_hook_and_the_hosts_own_is() {
    let told: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let list = told.clone();
    std::panic::set_hook(Box::new(move |_| {
        list.lock().unwrap().push(std::thread::current().name().map(str::to_owned));
    }));
    let (mut parts, control) = fake::parts(&Sizes::default());
    parts.log = Some(Arc::new(|_, _| panic!("in the log function")));
    let model = Model::start(parts).unwrap();
    control.panic_next.store(true, Ordering::SeqCst);
    assert!(matches!(model.eval(&[1]), Err(Error::Panic(what)) if what.starts_with("the test asked for it at ")));
    drop(model);
    let host = std::thread::Builder::new().name("host".into()).spawn(|| panic!("the host's")).unwrap();
    assert!(host.join().is_err());
    let _ = std::panic::take_hook();
    assert_eq!(*told.lock().unwrap(), [Some("host".to_owned())]);
}
