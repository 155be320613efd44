//! Streams that generate at the same time.

use std::time::{Duration, Instant};

use qwen3moe::{Model, StreamStats};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::{greedy, prompt_of, read};
use crate::failure::{Failure, Outcome};

/// Tokens of each stream's prompt.
pub const PROMPT: usize = 16;

/// Tokens a second that `count` streams of `generate` tokens each write in sum, from the first token of any to the last.
pub fn measure(model: &Model, random: &mut Xoshiro256PlusPlus, count: usize, generate: usize) -> Outcome<f64> {
    let start = Instant::now();
    let begin = |_| {
        let begun = start.elapsed();
        Ok((begun, model.stream(&prompt_of(model, random, PROMPT), &greedy(generate))?))
    };
    let streams = (0..count).map(begin).collect::<Outcome<Vec<_>>>()?;
    // Each is read by a thread of its own, as hosts do: none waits for another one's reader.
    let stats: Vec<Outcome<(Duration, StreamStats)>> = std::thread::scope(|scope| {
        let readers: Vec<_> = streams
            .into_iter()
            .map(|(begun, stream)| scope.spawn(move || read(&stream).map(|stats| (begun, stats))))
            .collect();
        let failed = || Err(Failure::new("a reader of a stream failed"));
        readers.into_iter().map(|reader| reader.join().unwrap_or_else(|_| failed())).collect()
    });
    let stats = stats.into_iter().collect::<Outcome<Vec<_>>>()?;
    let firsts = stats.iter().map(|(begun, s)| *begun + s.queued + s.prefill);
    let lasts = stats.iter().map(|(begun, s)| *begun + s.queued + s.prefill + s.decode);
    let time = lasts.max().unwrap_or_default().saturating_sub(firsts.min().unwrap_or_default());
    let tokens: u64 = stats.iter().map(|(_, s)| s.generated_tokens.saturating_sub(1)).sum();
    Ok(tokens as f64 / time.as_secs_f64())
}
