//! How fast this machine reads memory: the limit that decoding is held against.
//!
//! Threads sum disjoint pieces of one buffer that no cache holds, with vector loads and software prefetch, on 2 MB pages
//! where the system has some.

use std::sync::Barrier;
use std::time::Instant;

use serde_json::json;

use super::spread::Spread;

/// Passes over the buffer; the median counts.
const PASSES: usize = 7;
/// Words of one round of the loop: four lines of 64 bytes.
const ROUND: usize = 32;
/// Bytes between the line that is summed and the line that is asked for.
const AHEAD: usize = 4096;

/// Bytes a second, read by all threads together.
pub struct Bandwidth {
    pub all_threads: Spread,
    pub one_thread: Spread,
    pub buffer_bytes: usize,
}

impl Bandwidth {
    pub fn json(&self) -> serde_json::Value {
        json!({
            "all_threads": self.all_threads.json(),
            "one_thread": self.one_thread.json(),
            "buffer_bytes": self.buffer_bytes,
        })
    }
}

/// A size that no cache of this machine holds any useful part of, if memory has room for it: `wanted`, or four times the
/// last-level cache where that is more; a quarter of what is available at most.
pub fn buffer_bytes(wanted: u64) -> usize {
    let least = last_level_cache().unwrap_or(0).saturating_mul(4);
    let most = available_memory().map_or(u64::MAX, |bytes| bytes / 4);
    usize::try_from(wanted.max(least).min(most)).unwrap_or(usize::MAX)
}

fn last_level_cache() -> Option<u64> {
    let caches = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    let size = |text: String| Some(text.trim().strip_suffix('K')?.parse::<u64>().ok()? * 1024);
    caches.flatten().filter_map(|c| size(std::fs::read_to_string(c.path().join("size")).ok()?)).max()
}

fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Measures with a buffer of `bytes`; nothing where the system has no memory for it.
pub fn measure(bytes: usize, threads: usize) -> Option<Bandwidth> {
    let mut buffer = Buffer::new(bytes)?;
    // Each thread touches what it will read, so that a machine with several memory nodes puts it there.
    let words = buffer.words_mut();
    let piece = words.len().div_ceil(threads).next_multiple_of(ROUND);
    std::thread::scope(|scope| {
        for (i, piece) in words.chunks_mut(piece).enumerate() {
            scope.spawn(move || piece.fill(i as u64 + 1));
        }
    });
    let words = buffer.words();
    Some(Bandwidth {
        all_threads: passes(&words.chunks(piece).collect::<Vec<_>>()),
        one_thread: passes(&[&words[..piece.min(words.len())]]),
        buffer_bytes: bytes,
    })
}

/// Bytes a second of several passes over all pieces, a thread each.
fn passes(pieces: &[&[u64]]) -> Spread {
    let barrier = Barrier::new(pieces.len());
    let read = |piece: &[u64]| -> Vec<(Instant, Instant)> {
        let pass = |_| {
            barrier.wait();
            let start = Instant::now();
            std::hint::black_box(sum(piece));
            (start, Instant::now())
        };
        (0..PASSES).map(pass).collect()
    };
    let times: Vec<Vec<(Instant, Instant)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = pieces.iter().map(|piece| scope.spawn(|| read(piece))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let bytes = 8 * pieces.iter().map(|piece| piece.len()).sum::<usize>();
    let rate = |pass: usize| {
        let start = times.iter().filter_map(|t| Some(t.get(pass)?.0)).min()?;
        let end = times.iter().filter_map(|t| Some(t.get(pass)?.1)).max()?;
        Some(bytes as f64 / (end - start).as_secs_f64())
    };
    Spread::new((0..PASSES).filter_map(rate).collect())
}

fn sum(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(words: &[u64]) -> u64 {
            sum_rounds(words)
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has AVX2.
            return unsafe { avx2(words) };
        }
    }
    sum_rounds(words)
}

#[inline(always)]
fn sum_rounds(words: &[u64]) -> u64 {
    let mut sums = [0u64; ROUND];
    for round in words.as_chunks::<ROUND>().0 {
        for line in round.chunks(8) {
            prefetch(line.as_ptr().wrapping_byte_add(AHEAD));
        }
        for (sum, word) in sums.iter_mut().zip(round) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[inline(always)]
fn prefetch(address: *const u64) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and it reads nothing that the program could see: an address
        // beyond the end has no effect.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Anonymous memory, on huge pages where the system has some.
struct Buffer {
    address: *mut libc::c_void,
    bytes: usize,
}

/// Alignment that lets the kernel use huge pages from the first byte on.
const HUGE_PAGE: usize = 2 << 20;

impl Buffer {
    fn new(bytes: usize) -> Option<Self> {
        let bytes = bytes.checked_next_multiple_of(HUGE_PAGE)?.checked_add(HUGE_PAGE)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at a place of the kernel's choice touches no memory of the program.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return None;
        }
        #[cfg(target_os = "linux")]
        // SAFETY: the range is the mapping made above; the advice changes no contents. It may be refused, which costs speed.
        unsafe {
            libc::madvise(address, bytes, libc::MADV_HUGEPAGE);
        }
        Some(Self { address, bytes })
    }

    /// The huge pages within the mapping, as words.
    fn range(&self) -> (*mut u64, usize) {
        let skip = self.address.align_offset(HUGE_PAGE).min(HUGE_PAGE);
        (self.address.wrapping_byte_add(skip).cast(), (self.bytes - HUGE_PAGE) / 8)
    }

    fn words(&self) -> &[u64] {
        let (start, len) = self.range();
        // SAFETY: the range lies inside the mapping, which is zeroed, readable, and nobody else's while `self` lives.
        unsafe { std::slice::from_raw_parts(start, len) }
    }

    fn words_mut(&mut self) -> &mut [u64] {
        let (start, len) = self.range();
        // SAFETY: as in `words`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping is this buffer's own, and unmapped once.
        unsafe {
            libc::munmap(self.address, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_buffer_is_summed() {
        let mut buffer = Buffer::new(5 << 20).unwrap();
        let words = buffer.words_mut();
        assert_eq!(words.len() * 8, 6 << 20);
        words.iter_mut().enumerate().for_each(|(i, word)| *word = i as u64);
        let n = words.len() as u64;
        assert_eq!(sum(words), n * (n - 1) / 2);
    }

    #[test]
    fn all_threads_together_and_one_alone_are_measured() {
        let found = measure(8 << 20, 3).unwrap();
        assert!(found.all_threads.median > 0.0 && found.one_thread.median > 0.0);
    }
}
