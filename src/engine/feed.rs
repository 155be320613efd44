//! What the engine's thread and the reader of a stream share.
//!
//! The engine writes through a [`Writer`]; the reader polls a [`Feed`]. The one lock holds a few strings for the time of
//! a copy, and a reader that must not wait only ever tries it: should the engine be interrupted inside, the reader
//! answers "nothing yet".

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::{Event, FinishReason, StreamStats};
use crate::error::{Error, Result};

/// The shared state of one stream.
pub(super) struct Feed {
    inbox: Mutex<Inbox>,
    news: Condvar,
    cancelled: AtomicBool,
    submitted: Instant,
    /// 0 until they are counted.
    prompt_tokens: AtomicU64,
    prefilled: AtomicU64,
    generated: AtomicU64,
    /// Nanoseconds from `submitted`, [`NEVER`] until it happened.
    started: AtomicU64,
    first_token: AtomicU64,
    last_token: AtomicU64,
    finish: AtomicU8,
}

#[derive(Default)]
struct Inbox {
    /// Text that the reader has not taken.
    text: String,
    /// All ids generated.
    tokens: Vec<u32>,
    end: Option<Result<FinishReason>>,
}

const NEVER: u64 = u64::MAX;

impl Feed {
    pub(super) fn new() -> Self {
        Self {
            inbox: Mutex::default(),
            news: Condvar::new(),
            cancelled: AtomicBool::new(false),
            submitted: Instant::now(),
            prompt_tokens: AtomicU64::new(0),
            prefilled: AtomicU64::new(0),
            generated: AtomicU64::new(0),
            started: AtomicU64::new(NEVER),
            first_token: AtomicU64::new(NEVER),
            last_token: AtomicU64::new(NEVER),
            finish: AtomicU8::new(0),
        }
    }

    /// See [`super::Stream::next`].
    pub(super) fn next(&self, timeout: Option<Duration>) -> Result<Event> {
        if timeout == Some(Duration::ZERO) {
            return match self.inbox.try_lock() {
                Ok(mut inbox) => inbox.take(),
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
                Err(TryLockError::WouldBlock) => Ok(Event::Pending),
            };
        }
        // A timeout beyond what the clock can express is as good as none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut inbox = self.lock();
        loop {
            match inbox.take() {
                Ok(Event::Pending) => {}
                event => return event,
            }
            inbox = match deadline {
                None => self.news.wait(inbox).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(Event::Pending);
                    }
                    self.news.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(super) fn tokens(&self) -> Vec<u32> {
        self.lock().tokens.clone()
    }

    pub(super) fn stats(&self) -> StreamStats {
        let time = |at: &AtomicU64| match at.load(Ordering::Relaxed) {
            NEVER => None,
            nanoseconds => Some(Duration::from_nanos(nanoseconds)),
        };
        let started = time(&self.started);
        let first = time(&self.first_token);
        let last = time(&self.last_token);
        let now = self.submitted.elapsed();
        StreamStats {
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            prefilled_tokens: self.prefilled.load(Ordering::Relaxed),
            generated_tokens: self.generated.load(Ordering::Relaxed),
            queued: started.unwrap_or(now),
            prefill: started.map_or(Duration::ZERO, |started| first.unwrap_or(now).saturating_sub(started)),
            decode: first.zip(last).map_or(Duration::ZERO, |(first, last)| last.saturating_sub(first)),
            finish: FinishReason::from_code(self.finish.load(Ordering::Relaxed)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.submitted.elapsed().as_nanos()).unwrap_or(NEVER - 1)
    }
}

impl Inbox {
    fn take(&mut self) -> Result<Event> {
        if !self.text.is_empty() {
            return Ok(Event::Text(std::mem::take(&mut self.text)));
        }
        match &self.end {
            None => Ok(Event::Pending),
            Some(end) => end.clone().map(Event::Done),
        }
    }
}

impl FinishReason {
    fn code(self) -> u8 {
        match self {
            FinishReason::EndOfSequence => 1,
            FinishReason::Stop => 2,
            FinishReason::Length => 3,
            FinishReason::Deadline => 4,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        use FinishReason::{Deadline, EndOfSequence, Length, Stop};
        [EndOfSequence, Stop, Length, Deadline].into_iter().find(|reason| reason.code() == code)
    }
}

/// The engine's end of a feed. A stream whose writer goes without a word ends with an error, so that no reader waits for
/// an engine that is no more.
pub(super) struct Writer {
    feed: Arc<Feed>,
}

impl Writer {
    pub(super) fn new(feed: Arc<Feed>) -> Self {
        Self { feed }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.feed.is_cancelled()
    }

    /// The prompt has `tokens` tokens.
    pub(super) fn prompt(&self, tokens: usize) {
        self.feed.prompt_tokens.store(tokens as u64, Ordering::Relaxed);
    }

    /// The request leaves the line.
    pub(super) fn started(&self) {
        self.feed.started.store(self.feed.now(), Ordering::Relaxed);
    }

    /// `rows` more rows of the prompt are processed.
    pub(super) fn prefilled(&self, rows: usize) {
        self.feed.prefilled.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// A token was generated, and with it `text` became certain.
    pub(super) fn token(&self, token: u32, text: &str) {
        let now = self.feed.now();
        if self.feed.generated.fetch_add(1, Ordering::Relaxed) == 0 {
            self.feed.first_token.store(now, Ordering::Relaxed);
        }
        self.feed.last_token.store(now, Ordering::Relaxed);
        let mut inbox = self.feed.lock();
        inbox.tokens.push(token);
        inbox.text.push_str(text);
        drop(inbox);
        if !text.is_empty() {
            self.feed.news.notify_all();
        }
    }

    /// The generation ended; `text` was held back until now.
    pub(super) fn end(&self, text: &str, end: Result<FinishReason>) {
        if self.feed.started.load(Ordering::Relaxed) == NEVER {
            self.started();
        }
        if let Ok(reason) = end {
            self.feed.finish.store(reason.code(), Ordering::Relaxed);
        }
        let mut inbox = self.feed.lock();
        inbox.text.push_str(text);
        inbox.end.get_or_insert(end);
        drop(inbox);
        self.feed.news.notify_all();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut inbox = self.feed.lock();
        inbox.end.get_or_insert_with(|| Err(Error::Internal("the engine dropped the request".into())));
        drop(inbox);
        self.feed.news.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Arc<Feed>, Writer) {
        let feed = Arc::new(Feed::new());
        (feed.clone(), Writer::new(feed))
    }

    #[test]
    fn text_comes_before_the_end_and_the_end_stays() {
        let (feed, writer) = pair();
        writer.token(1, "one ");
        writer.token(2, "");
        writer.end("two", Err(Error::Cancelled));
        drop(writer);
        assert_eq!(feed.next(None), Ok(Event::Text("one two".into())));
        assert_eq!(feed.next(None), Err(Error::Cancelled));
        assert_eq!(feed.next(Some(Duration::ZERO)), Err(Error::Cancelled));
        assert_eq!(feed.tokens(), [1, 2]);
    }

    #[test]
    fn a_poll_answers_while_the_engine_holds_the_lock() {
        let (feed, writer) = pair();
        let held = feed.lock();
        assert_eq!(feed.next(Some(Duration::ZERO)), Ok(Event::Pending));
        drop(held);
        writer.end("", Ok(FinishReason::Length));
        assert_eq!(feed.next(Some(Duration::ZERO)), Ok(Event::Done(FinishReason::Length)));
        assert_eq!(feed.stats().finish, Some(FinishReason::Length));
    }

    #[test]
    fn a_reader_of_a_lost_engine_gets_an_error() {
        let (feed, writer) = pair();
        let reader = std::thread::spawn(move || feed.next(None));
        drop(writer);
        assert!(matches!(reader.join().unwrap(), Err(Error::Internal(_))));
    }
}
