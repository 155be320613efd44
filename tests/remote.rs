//! Weights that are sent to another processor's memory: the same image as in the host's own, in pieces.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::ops::Range;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use qwen3moe::model::{Checkpoint, LoadProgress, Origin, Place, Remote, Source, WeightPlan, pack, read_spec, send};
use qwen3moe::{Error, Result};
use support::goldens::cases;

/// A memory that notes what it gets, and that fails at the piece of a number.
struct Memory {
    image: Mutex<Vec<u8>>,
    ranges: Mutex<Vec<Range<usize>>>,
    fails_at: usize,
    ended: AtomicUsize,
}

impl Memory {
    fn new(bytes: usize, fails_at: usize) -> Self {
        Self { image: Mutex::new(vec![0; bytes]), ranges: Mutex::default(), fails_at, ended: AtomicUsize::new(0) }
    }
}

impl Remote for Memory {
    type Lane = Vec<u8>;

    fn lane(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn put(
        &self,
        lane: &mut Vec<u8>,
        place: &Place,
        range: Range<usize>,
        pack: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        assert!(place.range.start <= range.start && range.end <= place.range.end, "{range:?} of {place:?}");
        lane.clear();
        lane.resize(range.len(), 0);
        pack(lane)?;
        let mut ranges = self.ranges.lock().unwrap();
        if ranges.len() == self.fails_at {
            return Err(Error::Internal("no more room".into()));
        }
        self.image.lock().unwrap()[range.clone()].copy_from_slice(lane);
        ranges.push(range);
        Ok(())
    }

    fn end(&self, _lane: Vec<u8>) -> Result<()> {
        self.ended.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Whether what is sent, from files and from an image, is the image that the host packs for itself; the number of pieces.
fn check(source: &Source, what: &str) -> usize {
    let checkpoint = Checkpoint::open(source).unwrap();
    let spec = read_spec(&checkpoint).unwrap();
    let plan = WeightPlan::new(&checkpoint, &spec).unwrap();
    let packed_by = LoadProgress::default();
    let image = pack(&checkpoint, &plan, &packed_by, 2).unwrap();
    let mut pieces = 0;
    // None is one, and none is idle.
    for (asked, threads) in [(0, 1), (3, 3), (12, plan.piece_sizes().len().min(12))] {
        for (origin, bytes) in [(Origin::Files(&checkpoint), packed_by.done_bytes()), (Origin::Image(image.clone()), 0)]
        {
            let (memory, progress) = (Memory::new(plan.bytes(), usize::MAX), LoadProgress::default());
            send(&origin, &plan, &memory, &progress, asked).unwrap();
            assert!(*memory.image.lock().unwrap() == image[..], "{what}: another image on {threads} threads");
            assert_eq!((progress.done_bytes(), memory.ended.into_inner()), (bytes, threads), "{what}");
            let mut ranges = memory.ranges.into_inner().unwrap();
            ranges.sort_by_key(|range| (range.start, range.end));
            assert!(ranges.is_sorted_by(|a, b| a.end <= b.start), "{what}: pieces overlap");
            assert!(ranges.iter().all(|range| range.len() <= plan.piece_sizes()[0]), "{what}");
            let sent: usize = ranges.iter().map(Range::len).sum();
            let all: usize = plan.places().iter().map(|place| place.range.len()).sum();
            assert_eq!(sent, all, "{what}");
            pieces = ranges.len();
        }
    }
    pieces
}

#[test]
fn what_is_sent_is_the_image_of_every_format() {
    for case in cases() {
        check(&case.source(), &case.name);
    }
}

#[test]
fn large_tensors_are_sent_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    for kind in ["q4_k", "f16"] {
        let file = folder.path().join(format!("{kind}.gguf"));
        let mut synth = Command::new(env!("CARGO_BIN_EXE_qm"));
        synth.args(["synth", "--preset", "qwen3-next-80b-a3b", "--layers", "1", "--experts", "2", "--vocab", "8192"]);
        assert!(synth.args(["--type", kind, "--out"]).arg(&file).output().unwrap().status.success());
        let source = Source::from(file.as_path());
        let checkpoint = Checkpoint::open(&source).unwrap();
        let plan = WeightPlan::new(&checkpoint, &read_spec(&checkpoint).unwrap()).unwrap();
        let sizes = plan.piece_sizes();
        assert!(sizes[0] < 4 << 20, "{kind}: {} bytes at once", sizes[0]);
        assert_eq!(plan.packing_bytes(2), 3 * (sizes[0] + sizes[1]), "{kind}");
        assert!(check(&source, kind) > plan.places().len(), "{kind}: every tensor is one piece");
    }
}

#[test]
fn a_memory_that_fails_or_a_load_that_is_cancelled_ends_it() {
    let case = cases().into_iter().find(|case| case.name == "qwen3_next_bf16").unwrap();
    let checkpoint = Checkpoint::open(&case.source()).unwrap();
    let plan = WeightPlan::new(&checkpoint, &read_spec(&checkpoint).unwrap()).unwrap();
    let image = pack(&checkpoint, &plan, &LoadProgress::default(), 2).unwrap();
    let pieces = plan.places().len();
    for origin in [Origin::Files(&checkpoint), Origin::Image(image)] {
        for threads in [1, 2] {
            for fails_at in [0, 1, pieces / 2, pieces - 1] {
                let memory = Memory::new(plan.bytes(), fails_at);
                let sent = send(&origin, &plan, &memory, &LoadProgress::default(), threads);
                assert_eq!(sent, Err(Error::Internal("no more room".into())), "at {fails_at}, {threads} threads");
            }
            let progress = LoadProgress::default();
            progress.cancel();
            let memory = Memory::new(plan.bytes(), usize::MAX);
            assert_eq!(send(&origin, &plan, &memory, &progress, threads), Err(Error::Cancelled));
            assert!(memory.ranges.into_inner().unwrap().len() <= threads, "a thread went on");
        }
    }
}
