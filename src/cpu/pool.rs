//! The worker threads of one model.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};

/// Worker threads that share out numbered tasks. Idle threads sleep.
pub struct Pool {
    workers: rayon::ThreadPool,
    /// Behind `workers`: its drop tells the threads to end, this one's waits until they have.
    _threads: Joined,
    scratch: Vec<Mutex<Scratch>>,
}

/// Threads that are waited for when this goes.
#[derive(Default)]
struct Joined(Vec<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        for thread in self.0.drain(..) {
            // A worker that panicked has told the step that it worked for.
            let _ = thread.join();
        }
    }
}

/// Memory that a thread keeps from task to task.
#[derive(Default)]
pub struct Scratch {
    /// Decoded weights.
    pub weights: Vec<f32>,
    /// Sums of one strip for each input, by slot.
    pub strip: Vec<[f32; 16]>,
    /// Anything else.
    pub values: Vec<f32>,
    /// Anything else that lives as long as `values`.
    pub more: Vec<f32>,
}

/// The first `len` values of `buffer`, grown where it is shorter; what they hold is unspecified.
pub fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl Pool {
    /// Starts `threads` workers.
    ///
    /// # Errors
    /// [`Error::Internal`] when the operating system starts no thread.
    pub fn new(threads: usize) -> Result<Self> {
        let mut joined = Joined::default();
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .spawn_handler(|worker| {
                let name = format!("qm-worker-{}", worker.index());
                joined.0.push(std::thread::Builder::new().name(name).spawn(|| worker.run())?);
                Ok(())
            })
            .build()
            .map_err(|e| Error::Internal(format!("cannot start {threads} worker threads: {e}")))?;
        Ok(Self { workers, _threads: joined, scratch: (0..threads).map(|_| Mutex::default()).collect() })
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.scratch.len()
    }

    /// Calls `work` once for every task in `0..tasks`, spread over the workers, and waits for all.
    pub fn run(&self, tasks: usize, work: impl Fn(usize, &mut Scratch) + Sync) {
        let next = AtomicUsize::new(0);
        let serve = |worker: usize| {
            let Some(scratch) = self.scratch.get(worker) else { return };
            // A task that panicked left nothing in the scratch that a later one relies on.
            let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task >= tasks {
                    return;
                }
                work(task, &mut scratch);
            }
        };
        if tasks <= 1 || self.threads() == 1 {
            serve(0);
        } else {
            self.workers.broadcast(|context| serve(context.index()));
        }
    }

    /// Calls `work(i, chunk, scratch)` for every `chunk` of `len` values of `data` (the last may be shorter).
    pub fn run_chunks(&self, data: &mut [f32], len: usize, work: impl Fn(usize, &mut [f32], &mut Scratch) + Sync) {
        let chunks: Vec<Mutex<&mut [f32]>> = data.chunks_mut(len.max(1)).map(Mutex::new).collect();
        self.run(chunks.len(), |i, scratch| {
            let mut chunk = chunks[i].lock().unwrap_or_else(PoisonError::into_inner);
            work(i, &mut chunk, scratch);
        });
    }
}

/// A float buffer that several tasks fill at the same time, each value at most once in a run.
#[derive(Clone, Copy)]
pub struct SharedOutput<'a>(&'a [AtomicU32]);

impl<'a> SharedOutput<'a> {
    /// Shares `data` for the lifetime of the exclusive borrow.
    pub fn new(data: &'a mut [f32]) -> Self {
        let (pointer, len) = (data.as_mut_ptr().cast::<AtomicU32>(), data.len());
        // SAFETY: `AtomicU32` has the size, alignment and bit validity of `f32`, and the exclusive borrow is held for 'a.
        Self(unsafe { std::slice::from_raw_parts(pointer, len) })
    }

    /// Writes one value; a plain store on every processor.
    #[inline(always)]
    pub fn set(self, index: usize, value: f32) {
        self.0[index].store(value.to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap();
            for tasks in [0, 1, 2, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |i, _| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn a_pool_survives_a_panicking_task() {
        let pool = Pool::new(2).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(4, |i, _| assert_ne!(i, 2, "on purpose"));
        }));
        assert!(result.is_err());
        let mut data = vec![0.0; 7];
        pool.run_chunks(&mut data, 2, |i, chunk, _| chunk.fill(i as f32));
        assert_eq!(data, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0]);
    }
}
