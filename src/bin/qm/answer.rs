//! Reading a stream to its end, and what it cost.

use std::io::Write;
use std::time::Duration;

use qwen3moe::{Event, Stream, StreamStats};

use crate::failure::Outcome;
use crate::interrupt;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself.
    Finished,
    /// By Ctrl-C.
    Interrupted,
}

/// Copies a stream's text to `out` as it comes, and into `text`. Ctrl-C ends the stream.
pub fn copy(stream: &Stream, out: &mut impl Write, text: &mut String) -> Outcome<Ended> {
    loop {
        match stream.next(Some(Duration::from_millis(50)))? {
            Event::Text(piece) => {
                text.push_str(&piece);
                out.write_all(piece.as_bytes())?;
                out.flush()?;
            }
            Event::Pending => {}
            Event::Done(_) => return Ok(Ended::Finished),
        }
        if interrupt::requested() {
            stream.cancel();
            return Ok(Ended::Interrupted);
        }
    }
}

/// Tokens per second, or nothing where the time is too short to say.
pub fn rate(tokens: u64, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

/// Tokens that [`StreamStats::decode`] was spent on: it begins with the first token.
pub fn decoded(stats: &StreamStats) -> u64 {
    stats.generated_tokens.saturating_sub(1)
}

/// One line of counts and speeds.
pub fn summary(stats: &StreamStats) -> String {
    let per_second = |rate: Option<f64>| rate.map_or(String::new(), |r| format!(" ({r:.1} tok/s)"));
    format!(
        "prompt {} tokens{}, answer {} tokens{}",
        stats.prompt_tokens,
        per_second(rate(stats.prefilled_tokens, stats.prefill)),
        stats.generated_tokens,
        per_second(rate(decoded(stats), stats.decode)),
    )
}
