//! What the machine has: memory that a load may take, and cores to compute with.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cpu;

/// Bytes of host memory that this process can still take: what the kernel holds to be available, or less where a control
/// group (a container) sets a limit. `None` where neither is known.
pub(super) fn available_memory() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field(&text, "MemAvailable:"));
    let machine = machine.map(|kilobytes| kilobytes.saturating_mul(1024));
    let groups = fs::read_to_string("/proc/self/cgroup").ok();
    let group = groups.and_then(|groups| group_memory(&groups, Path::new("/sys/fs/cgroup")));
    machine.into_iter().chain(group).min()
}

/// The least that any control group above this process leaves, of the hierarchy mounted at `mount`.
fn group_memory(groups: &str, mount: &Path) -> Option<u64> {
    // Version 2 has the line "0::/path"; version 1 one a controller, "9:memory:/path".
    let lines = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.trim_start_matches('/');
        match controllers {
            "" => Some((mount.to_path_buf(), path, ["memory.max", "memory.current"])),
            _ if controllers.split(',').any(|c| c == "memory") => {
                Some((mount.join("memory"), path, ["memory.limit_in_bytes", "memory.usage_in_bytes"]))
            }
            _ => None,
        }
    });
    lines
        .flat_map(|(root, path, files)| {
            let leaf = root.join(path);
            let folders: Vec<PathBuf> =
                leaf.ancestors().take_while(|f| f.starts_with(&root)).map(Path::to_path_buf).collect();
            folders.into_iter().filter_map(move |folder| folder_memory(&folder, files))
        })
        .min()
}

/// Limit less use; the page cache of files counts as free, since the kernel drops it first. No limit ("max") is `None`.
fn folder_memory(folder: &Path, [limit, usage]: [&str; 2]) -> Option<u64> {
    let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let limit = number(limit)?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let cache = ["inactive_file", "active_file"].iter().filter_map(|name| field(&stat, name)).sum::<u64>();
    Some(limit.saturating_sub(number(usage)?.saturating_sub(cache)))
}

/// The number behind `name` in a file of lines "name number".
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    lines.find_map(|mut words| if words.next() == Some(name) { words.next()?.parse().ok() } else { None })
}

/// Worker threads that suit the machine: one a physical core, within what this process may use.
pub(super) fn default_threads() -> usize {
    // Counts a control group's share of the processors, too.
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    match cpu::cores().len() {
        0 => allowed,
        cores => cores.min(allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_control_group_counts_and_file_cache_is_free() {
        let mount = tempfile::tempdir().unwrap();
        let leaf = mount.path().join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        let write = |folder: &Path, name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        write(&leaf, "memory.max", "max\n");
        write(&leaf, "memory.current", "50\n");
        write(&mount.path().join("a"), "memory.max", "1000\n");
        write(&mount.path().join("a"), "memory.current", "700\n");
        write(&mount.path().join("a"), "memory.stat", "anon 400\ninactive_file 200\nactive_file 100\n");
        assert_eq!(group_memory("0::/a/b\n", mount.path()), Some(600));
        assert_eq!(group_memory("0::/\n", mount.path()), None);
        assert_eq!(group_memory("nonsense", mount.path()), None);
    }

    #[test]
    fn version_one_control_groups_count_too() {
        let mount = tempfile::tempdir().unwrap();
        let leaf = mount.path().join("memory/box");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(leaf.join("memory.limit_in_bytes"), "1000").unwrap();
        fs::write(leaf.join("memory.usage_in_bytes"), "100").unwrap();
        assert_eq!(group_memory("4:cpu,cpuacct:/x\n9:memory:/box\n", mount.path()), Some(900));
    }
}
