//! The worker threads of one model.
//!
//! Work comes as numbered tasks that threads draw from one ticket counter, several at a time at first and one at a time
//! towards the end (guided self-scheduling): neighbours read neighbouring memory, and few draws meet at the counter. The
//! thread that asks takes part, and waits for the tasks, not for the threads: one that the operating system holds up delays
//! nobody unless it has drawn a task.
//! Between the rounds of a step workers spin, because waking a thread takes longer than most rounds; when the step is
//! over, or nothing came for [`PATIENCE`], they sleep.

use std::any::Any;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::affinity::{Core, bind, cores};
use crate::error::{Error, Result};

/// How long a worker waits for the next round before it sleeps.
const PATIENCE: Duration = Duration::from_micros(500);
/// Turns of a waiting loop before the processor is offered to other threads.
const SPINS: u32 = 2000;

/// Worker threads that share out numbered tasks.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Scratch of the thread that asks; holding it also makes rounds wait for each other.
    scratch: Mutex<Scratch>,
    /// Where the asking thread belongs, if threads are bound to cores.
    core: Option<Core>,
}

/// Keeps what is written often by some threads and read by others in lines of its own.
#[repr(align(128))]
struct Apart<T>(T);

struct Shared {
    threads: usize,
    /// Tasks of the round in the upper half, tickets drawn in the lower: one word, so that a ticket is always of the
    /// round it was counted in.
    tickets: Apart<AtomicU64>,
    /// The round's job; stable from a valid ticket's draw until that task is counted as done.
    job: AtomicPtr<Job>,
    done: Apart<AtomicUsize>,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The step is over: sleep at once.
    resting: AtomicBool,
    stop: AtomicBool,
    asleep: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

/// A closure without its type and lifetime.
struct Job {
    work: *const (),
    call: unsafe fn(*const (), usize, &mut Scratch),
}

/// Memory that a thread keeps from task to task.
#[derive(Default)]
pub struct Scratch {
    /// Decoded weights.
    pub weights: Vec<f32>,
    /// Sums of one strip for each input, by slot.
    pub strip: Vec<[f32; 16]>,
    /// Those of another strip, or of several.
    pub second_strip: Vec<[f32; 16]>,
    /// Quantised activations that were gathered.
    pub panels: Vec<u32>,
    /// Anything else.
    pub values: Vec<f32>,
    /// Anything else, beside `values`.
    pub more: Vec<f32>,
}

/// The first `len` values of `buffer`, grown where it is shorter; what they hold is unspecified.
pub fn at_least(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A task that panicked left nothing behind a lock that a later one relies on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads`, the asking thread being one of them. Each is bound to a physical core of its own if there are
    /// that many.
    ///
    /// # Errors
    /// [`Error::Internal`] when the operating system starts no thread.
    pub fn new(threads: usize) -> Result<Self> {
        let mut cores = cores();
        if cores.len() < threads {
            cores.clear();
        }
        let shared = Arc::new(Shared {
            threads,
            tickets: Apart(AtomicU64::new(0)),
            job: AtomicPtr::new(ptr::null_mut()),
            done: Apart(AtomicUsize::new(0)),
            panic: Mutex::new(None),
            resting: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            bed: Mutex::new(()),
            bell: Condvar::new(),
        });
        let mut pool = Self { shared, workers: Vec::new(), scratch: Mutex::default(), core: cores.first().cloned() };
        for worker in 1..threads {
            let (shared, core) = (Arc::clone(&pool.shared), cores.get(worker).cloned());
            let thread = std::thread::Builder::new().name(format!("qm-worker-{worker}")).spawn(move || {
                core.iter().for_each(bind);
                shared.serve();
            });
            // On an error the drop ends the threads that were started.
            let thread = thread.map_err(|e| Error::Internal(format!("cannot start {threads} worker threads: {e}")))?;
            pool.workers.push(thread);
        }
        Ok(pool)
    }

    /// Number of threads that share the work, the asking one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Binds the calling thread to the core that was kept for it: to be called by a thread of the library that will ask
    /// for all work.
    pub fn attach(&self) {
        self.core.iter().for_each(bind);
    }

    /// Calls `work` once for every task in `0..tasks`, spread over the threads, and waits for all. `work` must not ask
    /// this pool for more.
    ///
    /// # Panics
    /// With what a task panicked with, once all are done; with more tasks than tickets, which is a defect.
    pub fn run<F: Fn(usize, &mut Scratch) + Sync>(&self, tasks: usize, work: F) {
        let mut scratch = lock(&self.scratch);
        if tasks <= 1 || self.workers.is_empty() {
            for task in 0..tasks {
                work(task, &mut scratch);
            }
            return;
        }
        unsafe fn call<F: Fn(usize, &mut Scratch)>(work: *const (), task: usize, scratch: &mut Scratch) {
            // SAFETY: `work` points to the `F` of the `run` that made the job, which returns after its last call.
            unsafe { (*work.cast::<F>())(task, scratch) }
        }
        let job = Job { work: (&raw const work).cast(), call: call::<F> };
        self.shared.round(&job, tasks, &mut scratch);
        if let Some(panic) = lock(&self.shared.panic).take() {
            drop(scratch);
            resume_unwind(panic);
        }
    }

    /// Lets the workers sleep until the next round: the step is over.
    pub fn rest(&self) {
        self.shared.resting.store(true, Ordering::Relaxed);
    }

    /// Calls `work(i, chunk, scratch)` for every `chunk` of `len` values of `data` (the last may be shorter).
    pub fn run_chunks<T: Send>(&self, data: &mut [T], len: usize, work: impl Fn(usize, &mut [T], &mut Scratch) + Sync) {
        let chunks: Vec<Mutex<&mut [T]>> = data.chunks_mut(len.max(1)).map(Mutex::new).collect();
        self.run(chunks.len(), |i, scratch| work(i, &mut lock(&chunks[i]), scratch));
    }
}

impl Shared {
    /// One round: publishes `job`, takes part, and returns when all its tasks are done.
    fn round(&self, job: &Job, tasks: usize, scratch: &mut Scratch) {
        assert!(tasks < 1 << 31, "{tasks} tasks in a round");
        self.job.store(ptr::from_ref(job).cast_mut(), Ordering::Relaxed);
        self.done.0.store(0, Ordering::Relaxed);
        self.resting.store(false, Ordering::Relaxed);
        // Publishes the lines above to whoever draws a ticket. Sequentially consistent with `asleep`: either a worker that
        // goes to sleep sees the round, or this thread sees the worker.
        self.tickets.0.store((tasks as u64) << 32, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.bed));
            self.bell.notify_all();
        }
        self.work(scratch);
        let mut wait = Wait::default();
        while self.done.0.load(Ordering::Acquire) < tasks {
            wait.turn();
        }
    }

    /// Whether a ticket is left.
    fn is_open(&self, order: Ordering) -> bool {
        let tickets = self.tickets.0.load(order);
        tickets >> 32 > tickets & 0xffff_ffff
    }

    /// Tickets of this thread's own; `None` where none is left.
    fn draw(&self) -> Option<Range<usize>> {
        let mut tickets = self.tickets.0.load(Ordering::Relaxed);
        loop {
            let (tasks, first) = ((tickets >> 32) as usize, (tickets & 0xffff_ffff) as usize);
            let left = tasks.checked_sub(first).filter(|left| *left > 0)?;
            let draw = (left / (2 * self.threads)).max(1);
            let drawn = tickets + draw as u64;
            match self.tickets.0.compare_exchange_weak(tickets, drawn, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(first..first + draw),
                Err(now) => tickets = now,
            }
        }
    }

    /// Draws tickets and does their tasks until none is left.
    fn work(&self, scratch: &mut Scratch) {
        while let Some(tasks) = self.draw() {
            // SAFETY: these tickets are valid, so their round waits for `done` below, and until then keeps the job alive
            // and publishes no other.
            let job = unsafe { &*self.job.load(Ordering::Relaxed) };
            let drawn = tasks.len();
            for task in tasks {
                // SAFETY: `call` belongs to `work`, see `Pool::run`.
                let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.work, task, scratch) }));
                if let Err(panic) = outcome {
                    *lock(&self.panic) = Some(panic);
                }
            }
            self.done.0.fetch_add(drawn, Ordering::Release);
        }
    }

    /// The life of a worker.
    fn serve(&self) {
        let mut scratch = Scratch::default();
        let mut wait = Wait::default();
        while !self.stop.load(Ordering::Relaxed) {
            if self.is_open(Ordering::Relaxed) {
                self.work(&mut scratch);
                wait = Wait::default();
            } else if self.resting.load(Ordering::Relaxed) || wait.turn() > PATIENCE {
                self.sleep();
                wait = Wait::default();
            }
        }
    }

    fn sleep(&self) {
        let mut bed = lock(&self.bed);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while !self.stop.load(Ordering::Relaxed) && !self.is_open(Ordering::SeqCst) {
            bed = self.bell.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A waiting loop that starts with short turns.
#[derive(Default)]
struct Wait {
    turns: u32,
    since: Option<Instant>,
}

impl Wait {
    /// Passes a moment; how long the loop has waited, looked up now and then.
    fn turn(&mut self) -> Duration {
        self.turns += 1;
        spin_loop();
        if !self.turns.is_multiple_of(64) {
            return Duration::ZERO;
        }
        if self.turns > SPINS {
            // Somebody else may need this processor, perhaps the very thread that this one waits for.
            std::thread::yield_now();
        }
        self.since.get_or_insert_with(Instant::now).elapsed()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        drop(lock(&self.shared.bed));
        self.shared.bell.notify_all();
        for worker in self.workers.drain(..) {
            // A panic in a task was caught and handed to whoever asked.
            let _ = worker.join();
        }
    }
}

/// A float buffer that several tasks fill at the same time, each its own part.
#[derive(Clone, Copy)]
pub struct SharedOutput<'a> {
    data: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer is that of an exclusive borrow, and the callers of its methods touch separate parts.
unsafe impl Send for SharedOutput<'_> {}
// SAFETY: as above.
unsafe impl Sync for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    /// Shares `data` for the lifetime of the exclusive borrow.
    pub fn new(data: &'a mut [f32]) -> Self {
        Self { data: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// The `len` values from `index` on.
    ///
    /// # Safety
    /// While the result lives, nothing else touches these values.
    ///
    /// # Panics
    /// When they are not all there, which is a defect.
    #[inline(always)]
    pub unsafe fn part(&self, index: usize, len: usize) -> &'a mut [f32] {
        assert!(index <= self.len && len <= self.len - index, "{len} values from {index} of {}", self.len);
        // SAFETY: the part lies in the borrowed buffer; the caller has it for itself.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(index), len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once_in_every_round() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            for round in 0..2000 {
                let tasks = [0, 1, 2, 3, 17, 100][round % 6];
                if round % 50 == 0 {
                    pool.rest();
                }
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, |i, _| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn a_pool_survives_panicking_tasks_and_hands_the_panic_on() {
        let pool = Pool::new(2).unwrap();
        for _ in 0..20 {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(40, |i, _| assert_ne!(i % 13, 2, "on purpose"))));
            assert!(result.is_err());
            let mut data = vec![0.0; 7];
            pool.run_chunks(&mut data, 2, |i, chunk, _| chunk.fill(i as f32));
            assert_eq!(data, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0]);
        }
    }

    #[test]
    fn rounds_that_two_threads_ask_for_do_not_mix() {
        let pool = Pool::new(3).unwrap();
        std::thread::scope(|scope| {
            for asker in 0..2usize {
                let pool = &pool;
                scope.spawn(move || {
                    for _ in 0..500 {
                        let sum = AtomicUsize::new(0);
                        pool.run(10 + asker, |i, _| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), (0..10 + asker).sum::<usize>());
                    }
                });
            }
        });
    }

    #[test]
    fn workers_sleep_when_a_step_is_over_and_when_nothing_comes() {
        let pool = Pool::new(3).unwrap();
        for end_the_step in [true, false] {
            pool.run(9, |_, _| {});
            if end_the_step {
                pool.rest();
            }
            while pool.shared.asleep.load(Ordering::SeqCst) < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
