//! Logits into the next token: `transformers`' processors in their order, then a draw.
//!
//! Order (`GenerationMixin._get_logits_processor`): repetition penalty, minimum length, presence and frequency penalties
//! (the place of a caller's own processors), temperature, top-k, top-p, min-p. Each sees what the one before it left.
//!
//! This is also the definition for devices that choose tokens themselves (`kernels/sample`), bit by bit: a token's weight
//! and all sums are whole numbers (see [`super::likelihood`]), equally likely tokens stand in the order of their ids, and
//! a draw goes through the candidates from the most likely one down where top-k or top-p cut, by id where neither does.

use std::cmp::Ordering;

use super::likelihood::{drawn, least_weight, mass, share, weight};
use super::philox;
use super::sampling::Sampling;
use crate::error::{Error, Result};

/// Chooses the tokens of one stream. What it chooses depends on the logits, the stream's own tokens and the seed only.
/// Takes all its memory when made.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    eos_ids: Vec<u32>,
    vocab: usize,
    /// Tokens chosen so far; the counter of the draws.
    chosen: u64,
    history: History,
    kept: Vec<Candidate>,
    /// Room for [`kth_largest`].
    largest: Vec<f32>,
}

/// A token that can be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Of [`super::likelihood::ONE`]: its probability as a share of the most likely one's.
    weight: u64,
    logit: f32,
    id: u32,
}

/// Which tokens the stream has seen, for the penalties; empty where there are none.
#[derive(Debug, Clone, Default)]
struct History {
    /// Each token of the prompt and the output, once.
    distinct: Vec<u32>,
    /// By token: how often it is in the output, and [`IN_PROMPT`].
    counts: Vec<u32>,
}

/// The bit of a token of the prompt.
pub const IN_PROMPT: u32 = 1 << 31;

impl Sampler {
    /// Bytes for each token of the vocabulary at most: candidates, counts, seen tokens, and room for the largest logits.
    pub const BYTES_PER_TOKEN: u64 = (size_of::<Candidate>() + 2 * size_of::<u32>() + size_of::<f32>()) as u64;

    /// A sampler at the end of `prompt`, for logits of `vocab` tokens. `eos_ids` are what `min_tokens` keeps away.
    ///
    /// # Errors
    /// [`Error::OutOfHostMemory`].
    pub fn new(sampling: Sampling, vocab: usize, prompt: &[u32], eos_ids: &[u32]) -> Result<Self> {
        let mut history = History::default();
        if sampling.has_penalties() {
            history = History { distinct: room(vocab)?, counts: room(vocab)? };
            history.counts.resize(vocab, 0);
            prompt.iter().for_each(|token| history.record(*token, |count| count | IN_PROMPT));
        }
        let kept = if sampling.is_greedy() { Vec::new() } else { room(vocab)? };
        let largest = room((sampling.top_k as usize).saturating_mul(2).min(vocab))?;
        Ok(Self { sampling, eos_ids: eos_ids.to_vec(), vocab, chosen: 0, history, kept, largest })
    }

    /// Tokens chosen so far.
    pub fn chosen(&self) -> u64 {
        self.chosen
    }

    /// The next token by the `logits` of the last one, which are changed on the way.
    ///
    /// # Errors
    /// [`Error::Internal`] where a logit is not finite, or `min_tokens` leaves no token.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        // Without an early exit the whole check is vector instructions.
        if !logits.iter().fold(true, |finite, logit| finite & logit.is_finite()) {
            let (id, logit) = logits.iter().enumerate().find(|(_, logit)| !logit.is_finite()).unwrap_or((0, &f32::NAN));
            return Err(not_finite(id as u32, *logit));
        }
        self.penalise(logits);
        let most = most_likely(logits).filter(|(_, logit)| logit.is_finite());
        let (most_likely, most) = most.ok_or_else(none_left)?;
        let id = if self.sampling.is_greedy() {
            most_likely
        } else {
            let total = self.keep(logits, most);
            self.draw(total).unwrap_or(most_likely)
        };
        self.chosen += 1;
        self.history.record(id, |count| count.saturating_add(1));
        Ok(id)
    }

    fn penalise(&self, logits: &mut [f32]) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, min_tokens, .. } = self.sampling;
        for &token in &self.history.distinct {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            let times = self.history.counts[token as usize] & !IN_PROMPT;
            *logit = if *logit < 0.0 { *logit * repetition_penalty } else { *logit / repetition_penalty };
            if times > 0 {
                *logit -= frequency_penalty * times as f32 + presence_penalty;
            }
            // Where infinities met, the least number.
            *logit = if logit.is_nan() { f32::MIN } else { logit.clamp(f32::MIN, f32::MAX) };
        }
        if self.chosen < min_tokens as u64 {
            for &eos in &self.eos_ids {
                if let Some(logit) = logits.get_mut(eos as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Fills `kept` with the tokens that temperature, top-k, top-p and min-p leave, where `most` is the largest logit. Their
    /// weight in all.
    fn keep(&mut self, logits: &[f32], most: f32) -> u64 {
        let Sampling { temperature, top_k, min_p, .. } = self.sampling;
        // Relative to the largest logit no temperature is too small to divide by. The weight is the probability before
        // the common divisor, which top-p alone needs.
        let weigh = |(id, logit): (usize, &f32)| {
            let weight = weight((logit - most) / temperature);
            Candidate { weight, logit: *logit, id: id as u32 }
        };
        let kept = &mut self.kept;
        kept.clear();
        if self.sampling.cuts_to_k(logits.len()) {
            let least = kth_largest(logits, top_k as usize, &mut self.largest);
            kept.extend(logits.iter().enumerate().filter(|(_, logit)| **logit >= least).map(weigh));
        } else {
            kept.extend(logits.iter().enumerate().map(weigh));
        }
        let sum = |kept: &[Candidate]| kept.iter().map(|candidate| candidate.weight).sum::<u64>();
        let all = sum(kept);
        let least = least_weight(min_p);
        kept.retain(|candidate| candidate.weight >= least);
        let nucleus = share(self.sampling.top_p);
        if nucleus > 0
            && let Some(last) = reach(kept, mass(nucleus, all))
        {
            kept.truncate(last + 1);
        }
        sum(kept)
    }

    /// One of `kept`, which weigh `total`.
    fn draw(&mut self, total: u64) -> Option<u32> {
        let target = drawn(philox::bits(self.sampling.seed, self.chosen), total);
        let kept = &mut self.kept;
        if self.sampling.cuts_to_k(self.vocab) || self.sampling.top_p < 1.0 {
            return reach(kept, target + 1).map(|place| kept[place].id);
        }
        let mut sum = 0;
        let reached = kept.iter().find(|candidate| {
            sum += candidate.weight;
            sum > target
        });
        reached.map(|candidate| candidate.id)
    }
}

/// What is wrong where a model's logits are no numbers.
pub fn not_finite(token: u32, logit: f32) -> Error {
    Error::Internal(format!("the logit of token {token} is {logit}"))
}

/// What is wrong where every token ends the text and none may.
pub fn none_left() -> Error {
    Error::Internal("no token is left to choose".into())
}

/// An empty vector with room for `len` items.
fn room<T>(len: usize) -> Result<Vec<T>> {
    let mut items = Vec::new();
    let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
    let refused = |_| Error::OutOfHostMemory { what: "the sampler of a stream".into(), bytes };
    items.try_reserve_exact(len).map_err(refused)?;
    Ok(items)
}

impl Sampling {
    /// Whether top-k keeps fewer than all of `vocab` tokens.
    pub fn cuts_to_k(&self, vocab: usize) -> bool {
        self.top_k > 0 && (self.top_k as usize) < vocab
    }
}

impl Candidate {
    /// The most likely first, among equals the lowest id.
    fn order(&self, other: &Self) -> Ordering {
        other.logit.partial_cmp(&self.logit).unwrap_or(Ordering::Equal).then(self.id.cmp(&other.id))
    }
}

impl History {
    fn record(&mut self, token: u32, change: impl Fn(u32) -> u32) {
        if let Some(count) = self.counts.get_mut(token as usize) {
            if *count == 0 {
                self.distinct.push(token);
            }
            *count = change(*count);
        }
    }
}

/// The largest logit and its token, the lowest id among equals.
fn most_likely(logits: &[f32]) -> Option<(u32, f32)> {
    // Eight maxima side by side are vector instructions; one would wait for itself.
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = logits.chunks_exact(lanes.len());
    let rest = chunks.remainder().iter();
    for chunk in chunks {
        for (lane, logit) in lanes.iter_mut().zip(chunk) {
            *lane = if *logit > *lane { *logit } else { *lane };
        }
    }
    let most = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, logit| most.max(*logit));
    let id = logits.iter().position(|logit| *logit == most)?;
    Some((id as u32, most))
}

/// The value that `k` logits reach, in one pass: those above the `k`-th largest so far are collected in `largest`, which
/// is cut back to `k` whenever it holds twice as many. `k` is at least 1 and at most the number of logits.
fn kth_largest(logits: &[f32], k: usize, largest: &mut Vec<f32>) -> f32 {
    fn cut(largest: &mut Vec<f32>, k: usize) -> f32 {
        let (_, least, _) = largest.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        let least = *least;
        largest.truncate(k);
        least
    }
    largest.clear();
    let mut least = f32::NEG_INFINITY;
    for &logit in logits {
        if logit > least || largest.len() < k {
            largest.push(logit);
            if largest.len() == 2 * k {
                least = cut(largest, k);
            }
        }
    }
    cut(largest, k)
}

/// The first place, in the order of likelihood, with which the weights reach `mass`; `kept` is in that order up to there.
///
/// It comes early as a rule, so it is looked for among the largest 64, then among four times as many, and so on: the
/// sorting of a whole vocabulary is the last resort.
fn reach(kept: &mut [Candidate], mass: u64) -> Option<usize> {
    let mut looked = 64;
    loop {
        let sorted = looked.min(kept.len());
        if sorted < kept.len() {
            kept.select_nth_unstable_by(sorted, Candidate::order);
        }
        kept[..sorted].sort_unstable_by(Candidate::order);
        let mut sum = 0;
        let reaches = |candidate: &Candidate| {
            sum += candidate.weight;
            sum >= mass
        };
        let place = kept[..sorted].iter().position(reaches);
        if place.is_some() || sorted == kept.len() {
            return place;
        }
        looked *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(sampling: Sampling, vocab: usize, prompt: &[u32], eos_ids: &[u32]) -> Sampler {
        Sampler::new(sampling, vocab, prompt, eos_ids).unwrap()
    }

    fn floats(value: &serde_json::Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    }

    fn tokens(value: &serde_json::Value) -> Vec<u32> {
        value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
    }

    /// Probabilities of the next token after `generated`, all of the vocabulary.
    fn probabilities(mut sampler: Sampler, generated: &[u32], mut logits: Vec<f32>) -> Vec<f32> {
        for token in generated {
            sampler.history.record(*token, |count| count + 1);
        }
        let mut out = vec![0.0; logits.len()];
        sampler.penalise(&mut logits);
        if sampler.sampling.is_greedy() {
            out[most_likely(&logits).unwrap().0 as usize] = 1.0;
            return out;
        }
        let total = sampler.keep(&logits, most_likely(&logits).unwrap().1);
        for candidate in &sampler.kept {
            out[candidate.id as usize] = candidate.weight as f32 / total as f32;
        }
        out
    }

    #[test]
    fn probabilities_are_those_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/sampler.json");
        let goldens: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for case in goldens["cases"].as_array().unwrap() {
            let settings = &case["settings"];
            let float = |name: &str, default| settings[name].as_f64().map_or(default, |v| v as f32);
            let options = Sampling {
                temperature: float("temperature", 1.0),
                top_k: settings["top_k"].as_u64().map_or(0, |k| k as u32),
                top_p: float("top_p", 1.0),
                min_p: float("min_p", 0.0),
                repetition_penalty: float("repetition_penalty", 1.0),
                presence_penalty: float("presence_penalty", 0.0),
                frequency_penalty: float("frequency_penalty", 0.0),
                ..Sampling::default()
            };
            let logits = floats(&case["logits"]);
            let sampler = sampler(options, logits.len(), &tokens(&case["prompt"]), &[]);
            let found = probabilities(sampler, &tokens(&case["generated"]), logits);
            for (id, (found, expected)) in found.iter().zip(floats(&case["probabilities"])).enumerate() {
                let same = (found - expected).abs() < 1e-5 && (*found == 0.0) == (expected == 0.0);
                assert!(same, "{settings}: token {id}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn greedy_takes_the_lowest_id_among_equals() {
        for options in
            [Sampling { temperature: 0.0, ..Sampling::default() }, Sampling { top_k: 1, ..Sampling::default() }]
        {
            let mut sampler = sampler(options, 4, &[], &[]);
            assert_eq!(sampler.sample(&mut [1.0, 3.0, 3.0, 2.0]).unwrap(), 1);
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let mut sampler = sampler(Sampling { seed: 5, ..Sampling::default() }, 3, &[], &[]);
        let mut counts = [0; 3];
        for _ in 0..20_000 {
            let logits = [0.5f32, 0.3, 0.2].map(f32::ln);
            counts[sampler.sample(&mut logits.clone()).unwrap() as usize] += 1;
        }
        for (count, expected) in counts.iter().zip([10_000i32, 6_000, 4_000]) {
            assert!((count - expected).abs() < 300, "{counts:?}");
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_and_another_does_not() {
        let run = |seed| {
            let options = Sampling { seed, top_p: 0.99, ..Sampling::default() };
            let mut sampler = sampler(options, 500, &[], &[]);
            let logits: Vec<f32> = (0..500).map(|i| (i * 37 % 101) as f32 / 50.0).collect();
            (0..50).map(|_| sampler.sample(&mut logits.clone()).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn a_flat_distribution_is_cut_at_its_mass() {
        let options = Sampling { top_p: 0.5, ..Sampling::default() };
        let mut sampler = sampler(options, 5000, &[], &[]);
        sampler.keep(&vec![1.0; 5000], 1.0);
        let mut ids: Vec<u32> = sampler.kept.iter().map(|candidate| candidate.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..2500).collect::<Vec<_>>());
    }

    #[test]
    fn top_k_keeps_the_k_largest_and_their_equals() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 250) as f32).collect();
        for k in [2, 3, 17, 500, 999] {
            let mut sampler = sampler(Sampling { top_k: k, temperature: 100.0, ..Sampling::default() }, 1000, &[], &[]);
            sampler.keep(&logits, 249.0);
            let mut sorted = logits.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let least = sorted[k as usize - 1];
            let expected: Vec<u32> = (0..1000).filter(|id| logits[*id as usize] >= least).collect();
            let kept: Vec<u32> = sampler.kept.iter().map(|candidate| candidate.id).collect();
            assert_eq!(kept, expected, "top_k {k}");
        }
    }

    #[test]
    fn end_of_sequence_waits_for_the_minimum() {
        let options = Sampling { min_tokens: 2, temperature: 0.0, ..Sampling::default() };
        let mut sampler = sampler(options, 3, &[], &[0, 2]);
        let chosen: Vec<u32> = (0..3).map(|_| sampler.sample(&mut [5.0, 1.0, 4.0]).unwrap()).collect();
        assert_eq!(chosen, [1, 1, 0]);
    }

    #[test]
    fn a_logit_that_is_no_number_is_an_error() {
        let mut sampler = sampler(Sampling::default(), 3, &[], &[]);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = sampler.sample(&mut [1.0, bad, 0.0]).unwrap_err();
            assert_eq!(error, Error::Internal(format!("the logit of token 1 is {bad}")));
        }
        assert!(sampler.sample(&mut []).is_err());
    }

    #[test]
    fn a_sampler_takes_no_more_memory_than_it_is_counted_with() {
        let options = Sampling { repetition_penalty: 1.1, top_k: 900, top_p: 0.99, ..Sampling::default() };
        let mut sampler = sampler(options, 1000, &[1, 2, 2], &[]);
        for step in 0..50 {
            let mut logits: Vec<f32> = (0..1000).map(|i| ((i * 37 + step * 11) % 101) as f32 / 50.0).collect();
            sampler.sample(&mut logits).unwrap();
        }
        let bytes = 16 * sampler.kept.capacity()
            + 4 * (sampler.largest.capacity()
                + sampler.history.distinct.capacity()
                + sampler.history.counts.capacity());
        assert!(bytes as u64 <= 1000 * Sampler::BYTES_PER_TOKEN, "{bytes}");
    }

    #[test]
    fn a_sampler_beyond_all_memory_is_an_error() {
        let refused = Sampler::new(Sampling::default(), usize::MAX / 2, &[], &[]);
        assert!(matches!(refused, Err(Error::OutOfHostMemory { .. })));
    }

    #[test]
    fn extreme_settings_still_choose() {
        let extremes = [
            Sampling { temperature: 1e-38, ..Sampling::default() },
            Sampling { temperature: 1e38, top_k: u32::MAX, ..Sampling::default() },
            Sampling { repetition_penalty: 1e-38, ..Sampling::default() },
            Sampling { frequency_penalty: 3e38, presence_penalty: 3e38, ..Sampling::default() },
            Sampling { min_p: 1.0, top_p: 1e-30, ..Sampling::default() },
        ];
        for options in extremes {
            let mut sampler = sampler(options, 4, &[0, 1], &[]);
            for _ in 0..4 {
                let chosen = sampler.sample(&mut [3e38, -3e38, 7.0, 0.0]);
                assert!(chosen.is_ok_and(|id| id < 4), "{options:?}");
            }
        }
        let mut masked = sampler(Sampling { min_tokens: 1, ..Sampling::default() }, 2, &[], &[0, 1]);
        assert!(masked.sample(&mut [1.0, 2.0]).is_err(), "where every token ends the text, none is left");
    }
}
