//! Tokens that the device chooses, against those of the host's sampler.

use super::super::args::{SampleResult, SampleRow};
use super::super::device::DeviceInfo;
use super::super::memory::{DeviceMemory, Planner};
use super::super::sample::{Sample, SampleParts, ends, seen};
use super::super::testing::{Buffer, Gpu};
use super::values;
use crate::error::Result;
use crate::model::{Choice, Sampler, Sampling};

/// Streams that choose on the device, each with a sampler on the host beside it.
struct Streams {
    gpu: Gpu,
    sample: Sample,
    _memory: DeviceMemory,
    vocab: usize,
    streams: Vec<(Sampling, Sampler)>,
}

/// Tokens that end a text.
const ENDS: [u32; 3] = [0, 7, 40];

impl Streams {
    /// A stream for each of `settings` behind a prompt of its own; with as many blocks as a device of so many
    /// multiprocessors runs.
    fn open(vocab: usize, settings: &[Sampling], multiprocessors: u32) -> Option<Self> {
        let gpu = Gpu::open()?;
        let bytes = {
            let mut planner = Planner::default();
            SampleParts::plan(&mut planner, settings.len(), vocab);
            planner.bytes() as usize
        };
        let everything = Planner::default().take::<u8>(bytes);
        let mut planner = Planner::default();
        let slots = settings.len();
        let parts = SampleParts::plan(&mut planner, slots, vocab);
        let memory = DeviceMemory::take(&gpu.context, planner.bytes(), "a test").unwrap();
        gpu.stream.fill(memory.part(everything).unwrap(), 0xff).unwrap();
        let device = DeviceInfo { multiprocessors, ..gpu.context.device().clone() };
        let sample = Sample::new(&gpu.modules, &device, (&memory, &parts), vocab, &gpu.stream).unwrap();
        gpu.put(&ends(&ENDS, vocab), sample.ends());
        let mut streams = Vec::new();
        for (slot, sampling) in settings.iter().enumerate() {
            let prompt: Vec<u32> = (0..60).map(|i| (i * i * 31 + slot as u32 * 17) % vocab as u32).collect();
            let mut counts = vec![1; vocab];
            seen(&prompt, &mut counts);
            gpu.put(&counts, sample.history(slot).unwrap());
            streams.push((*sampling, Sampler::new(*sampling, vocab, &prompt, &ENDS).unwrap()));
        }
        Some(Self { gpu, sample, _memory: memory, vocab, streams })
    }

    /// The next token of every stream by its row of `logits`, on the device and on the host.
    fn step(&mut self, logits: &[f32]) -> Vec<(Result<u32>, Result<u32>)> {
        let rows: Vec<SampleRow> = self
            .streams
            .iter()
            .enumerate()
            .map(|(slot, (sampling, host))| SampleRow::new(&Choice { sampling: *sampling, index: host.chosen() }, slot))
            .collect();
        let words: Vec<u32> = rows.iter().flat_map(|row| row.words()).collect();
        let (told, on_device) = (self.gpu.upload(&words), self.gpu.upload(logits));
        let results: Buffer<u32> = self.gpu.poisoned(4 * rows.len());
        let (told, results_) = (told.slice.cast(), results.slice.cast::<SampleResult>());
        self.sample.run(&self.gpu.stream, told, on_device.slice, results_).unwrap();
        let results = self.gpu.download(results.slice);
        let chosen = self.gpu.download(self.sample.chosen());
        let vocab = self.vocab;
        let hosts = self.streams.iter_mut().zip(logits.chunks(vocab)).zip(results.as_chunks::<4>().0).enumerate();
        hosts
            .map(|(i, (((_, host), logits), words))| {
                let found = SampleResult::of_words(*words).token();
                assert_eq!(found.clone().unwrap_or(0), chosen[i], "what the next step looks up");
                (found, host.sample(&mut logits.to_vec()))
            })
            .collect()
    }
}

/// Logits of `rows` rows: spread out, in steps so that many are equal, or all equal but for a few.
fn logits(kind: usize, seed: u32, rows: usize, vocab: usize) -> Vec<f32> {
    let random = values(seed, rows * vocab);
    let shape = |x: &f32| match kind % 4 {
        0 => 12.0 * x * x * x.abs() + 3.0 * x,
        1 => (12.0 * x).round() / 2.0,
        2 => {
            if x.abs() > 0.99 {
                1.0
            } else {
                0.0
            }
        }
        _ => 1e30 * x,
    };
    random.iter().map(shape).collect()
}

/// All combinations, in an order in which neighbours differ in much; where the most likely token is taken, of penalties only.
fn combinations() -> Vec<Sampling> {
    let cuts = [(1.0, 0.0), (0.9, 0.0), (0.3, 0.0), (1.0, 0.05), (0.95, 0.02), (1e-9, 1.0)];
    let penalties = [(1.0, 0.0, 0.0), (1.3, 0.4, 0.2), (0.8, 0.0, -0.3)];
    let draws = [0.7, 1.6].into_iter().flat_map(|temperature| {
        let of_k = [0, 5, 40, 700].into_iter().flat_map(move |top_k| cuts.map(|cut| (temperature, top_k, cut)));
        of_k.collect::<Vec<_>>()
    });
    let greedy = [(0.0, 40, cuts[1]), (0.7, 1, cuts[0])];
    let all: Vec<_> = draws.chain(greedy).flat_map(|setting| penalties.map(|penalty| (setting, penalty))).collect();
    let count = all.len();
    let sampling = |i: usize| {
        let ((temperature, top_k, (top_p, min_p)), penalty) = all[i * 37 % count];
        let (repetition_penalty, presence_penalty, frequency_penalty) = penalty;
        let (min_tokens, seed) = (i % 3, 1000 + i as u64 * 77);
        Sampling {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            min_tokens,
            seed,
        }
    };
    (0..count).map(sampling).collect()
}

fn compare(vocab: usize, settings: &[Sampling], multiprocessors: u32, steps: usize) {
    let Some(mut streams) = Streams::open(vocab, settings, multiprocessors) else { return };
    for step in 0..steps {
        let logits = logits(step, (vocab + step) as u32, settings.len(), vocab);
        for (i, (found, expected)) in streams.step(&logits).into_iter().enumerate() {
            assert_eq!(found, expected, "vocabulary of {vocab}, step {step}, {:?}", settings[i]);
        }
    }
}

#[test]
fn the_device_chooses_the_tokens_of_the_hosts_sampler_for_all_settings() {
    for (vocab, rows, multiprocessors, steps) in [(1000, 40, 132, 4), (31, 64, 1, 3), (1, 64, 132, 1), (4099, 7, 16, 2)]
    {
        for settings in combinations().chunks(rows) {
            compare(vocab, settings, multiprocessors, steps);
        }
    }
}

#[test]
fn the_device_chooses_the_tokens_of_the_hosts_sampler_from_a_whole_vocabulary() {
    let usual = Sampling { temperature: 0.7, top_k: 20, top_p: 0.8, seed: 3, ..Sampling::default() };
    let settings = [
        usual,
        Sampling { temperature: 0.0, ..usual },
        Sampling { top_k: 0, top_p: 0.95, ..usual },
        Sampling { top_k: 0, top_p: 1.0, temperature: 1.0, ..usual },
        Sampling { top_k: 0, top_p: 1.0, min_p: 0.05, repetition_penalty: 1.1, ..usual },
        Sampling { top_k: 2000, top_p: 0.999, temperature: 2.0, ..usual },
        Sampling { top_k: 64, min_p: 0.02, presence_penalty: 0.5, ..usual },
    ];
    compare(151_936, &settings, 132, 3);
}

#[test]
fn what_a_row_leaves_of_one_choice_is_nothing_to_the_next_of_its_slot() {
    let plain = Sampling::default();
    let greedy = Sampling { temperature: 0.0, ..plain };
    let all = [greedy, Sampling { top_p: 0.5, ..plain }, Sampling { top_k: 5, ..plain }, plain];
    let Some(mut streams) = Streams::open(1000, &all, 132) else { return };
    for step in 0..12 {
        // Each slot goes through all settings, and fails in some steps.
        for (i, (sampling, host)) in streams.streams.iter_mut().enumerate() {
            *sampling = all[(i + step) % all.len()];
            *host = Sampler::new(*sampling, 1000, &[], &ENDS).unwrap();
        }
        let mut logits = logits(0, 20 + step as u32, all.len(), 1000);
        if step % 3 == 1 {
            logits[step % all.len() * 1000 + 333] = f32::NAN;
        }
        for (i, (found, expected)) in streams.step(&logits).into_iter().enumerate() {
            assert_eq!(found, expected, "step {step}, slot {i}");
        }
    }
}

#[test]
fn rows_that_cannot_choose_say_why_and_leave_the_others_alone() {
    let plain = Sampling::default();
    let settings = [
        plain,
        Sampling { top_k: 5, ..plain },
        Sampling { temperature: 0.0, ..plain },
        Sampling { top_p: 0.5, ..plain },
        plain,
    ];
    let Some(mut streams) = Streams::open(1000, &settings, 132) else { return };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for wrong in 0..4 {
            let mut logits = logits(0, 9, settings.len(), 1000);
            logits[wrong * 1000 + 333] = bad;
            logits[wrong * 1000 + 777] = f32::NAN;
            for (i, (found, expected)) in streams.step(&logits).into_iter().enumerate() {
                assert_eq!(found, expected, "{bad} in row {wrong}");
                assert_eq!(found.is_err(), i == wrong);
            }
        }
    }
    // Where every token ends the text, and none may.
    let early = Sampling { min_tokens: 5, ..plain };
    let settings = [early, Sampling { top_k: 5, ..early }, Sampling { temperature: 0.0, ..early }];
    let Some(mut streams) = Streams::open(1, &settings, 132) else { return };
    for (found, expected) in streams.step(&[1.0, 2.0, 3.0]) {
        assert!(found.is_err());
        assert_eq!(found, expected);
    }
}
