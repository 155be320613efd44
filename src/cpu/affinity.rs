//! Which cores this process may use, and threads bound to them.

/// The processors (as the operating system numbers them) of one physical core that this process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core(Vec<usize>);

/// Physical cores that this process may use, in the order of their first processors; empty where that is not known.
pub fn cores() -> Vec<Core> {
    let mut cores: Vec<((String, String), Core)> = Vec::new();
    for processor in allowed() {
        let read = |name| {
            std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{processor}/topology/{name}"))
                .unwrap_or_default()
        };
        let mut id = (read("physical_package_id"), read("core_id"));
        if id.1.is_empty() {
            id = (String::new(), processor.to_string());
        }
        match cores.iter_mut().find(|(known, _)| *known == id) {
            Some((_, core)) => core.0.push(processor),
            None => cores.push((id, Core(vec![processor]))),
        }
    }
    cores.into_iter().map(|(_, core)| core).collect()
}

/// Processors that the calling thread may run on.
#[cfg(target_os = "linux")]
fn allowed() -> Vec<usize> {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is as large as the length says.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Vec::new();
    }
    // SAFETY: every number is below the set's size.
    (0..libc::CPU_SETSIZE as usize).filter(|&processor| unsafe { libc::CPU_ISSET(processor, &set) }).collect()
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Vec<usize> {
    Vec::new()
}

/// Binds the calling thread to `core`. A refusal costs speed only, so it is not reported.
#[cfg(target_os = "linux")]
pub fn bind(core: &Core) {
    // SAFETY: all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &processor in core.0.iter().filter(|&&processor| processor < libc::CPU_SETSIZE as usize) {
        // SAFETY: the number is below the set's size.
        unsafe { libc::CPU_SET(processor, &mut set) };
    }
    // SAFETY: `set` is as large as the length says; 0 is the calling thread.
    let _ = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

#[cfg(not(target_os = "linux"))]
pub fn bind(_: &Core) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_bound_thread_may_use_its_core_only() {
        let cores = cores();
        assert!(!cores.is_empty());
        let all: Vec<usize> = cores.iter().flat_map(|core| core.0.clone()).collect();
        assert_eq!(all.len(), allowed().len(), "every processor belongs to one core");
        let last = cores.last().unwrap().clone();
        let found = std::thread::spawn(move || {
            bind(&last);
            (allowed(), last)
        });
        let (found, last) = found.join().unwrap();
        assert_eq!(found, last.0);
    }
}
