//! What this process takes of the machine, where the system tells.

use std::fs;

/// The number of a line "name: number kB" of /proc/self/status, in bytes.
fn status_bytes(name: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The most memory that this process ever had in RAM at once, in bytes.
pub fn peak_memory() -> Option<u64> {
    status_bytes("VmHWM")
}

/// Starts [`peak_memory`] anew from what is in RAM now. Where the system refuses, the old peak stays.
pub fn forget_peak_memory() {
    // "5" resets the peak: proc(5).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// What a process can leak.
#[derive(Debug, Clone)]
pub struct Holdings {
    /// Bytes in RAM.
    pub memory: u64,
    /// Open file descriptors.
    pub files: usize,
    /// Threads.
    pub threads: usize,
}

impl Holdings {
    /// The larger of each.
    pub fn max(&self, other: &Self) -> Self {
        Self {
            memory: self.memory.max(other.memory),
            files: self.files.max(other.files),
            threads: self.threads.max(other.threads),
        }
    }
}

/// What this process holds now.
pub fn holdings() -> Option<Holdings> {
    // Reading the folder takes a descriptor, the same one more each time.
    let entries = |folder: &str| Some(fs::read_dir(folder).ok()?.count());
    Some(Holdings {
        memory: status_bytes("VmRSS")?,
        files: entries("/proc/self/fd")?,
        threads: entries("/proc/self/task")?,
    })
}
