//! The pack cache: what it holds, what it refuses, and what it leaves behind.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by a panic")]

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use qwen3moe::model::LoadProgress;
use qwen3moe::{Error, LoadOptions, LogLevel, Model, Source, pack};
use support::goldens::{Case, cases};

/// A model in a folder of its own, and a folder for its cache.
struct Place {
    case: Case,
    folder: tempfile::TempDir,
    cache_dir: PathBuf,
}

/// What a load gave, and what it said of caches with the level of a warning.
struct Loaded {
    logits: Vec<u32>,
    warnings: Vec<String>,
    mapped: bool,
}

impl Place {
    fn new(name: &str) -> Self {
        let case = cases().into_iter().find(|case| case.name == name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        let files =
            if case.path.is_dir() { fs::read_dir(&case.path) } else { fs::read_dir(case.path.parent().unwrap()) };
        for entry in files.unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
        }
        let cache_dir = folder.path().join("made/by the load");
        Self { case, folder, cache_dir }
    }

    fn model(&self) -> PathBuf {
        let model = self.folder.path().join("model");
        if self.case.path.is_dir() { model } else { model.join(self.case.path.file_name().unwrap()) }
    }

    fn options(&self) -> LoadOptions {
        LoadOptions { cache_dir: Some(self.cache_dir.clone()), threads: 2, ..LoadOptions::default() }
    }

    fn load(&self) -> Loaded {
        self.load_with(self.options())
    }

    fn load_with(&self, options: LoadOptions) -> Loaded {
        let lines: Arc<Mutex<Vec<(LogLevel, String)>>> = Arc::default();
        let sink = lines.clone();
        let log = move |level, line: &str| sink.lock().unwrap().push((level, line.to_owned()));
        let options = LoadOptions { log: Some(Arc::new(log)), ..options };
        let progress = LoadProgress::default();
        let model = Model::load(&Source::from(self.model().as_path()), &options, &progress).unwrap();
        assert_eq!(progress.done_bytes(), progress.total_bytes());
        let logits = model.eval(&self.case.ids).unwrap().into_iter().map(f32::to_bits).collect();
        drop(model);
        let lines = lines.lock().unwrap();
        let mapped = lines.iter().any(|(_, line)| line.contains("mapped from this pack cache"));
        let warnings = lines.iter().filter(|(level, line)| *level <= LogLevel::Warning && line.contains("cache"));
        Loaded { logits, mapped, warnings: warnings.map(|(_, line)| line.clone()).collect() }
    }

    /// The one file in the cache's folder.
    fn file(&self) -> PathBuf {
        let files: Vec<_> = fs::read_dir(&self.cache_dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        assert_eq!(files[0].extension().unwrap(), "qmpack");
        files[0].clone()
    }

    /// Loads once to write, changes the cache by `change`, and expects the next load to say `why`, to give the same
    /// answer and to leave a good cache.
    #[track_caller]
    fn rebuilt(&self, good: &[u32], change: impl FnOnce(&File, u64), why: &str) {
        let path = self.file();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        change(&file, file.metadata().unwrap().len());
        drop(file);
        let loaded = self.load();
        assert_eq!(loaded.logits, good);
        assert!(!loaded.mapped, "{why}");
        assert!(loaded.warnings.len() == 1 && loaded.warnings[0].contains(why), "{why}: {:?}", loaded.warnings);
        assert!(loaded.warnings[0].contains(path.to_str().unwrap()), "{:?}", loaded.warnings);
    }
}

fn flip(at: u64) -> impl FnOnce(&File, u64) {
    move |file, _| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }
}

#[test]
fn every_kind_of_model_answers_the_same_from_its_cache() {
    for case in cases() {
        let place = Place::new(&case.name);
        let plain = place.load_with(LoadOptions { cache_dir: None, ..place.options() });
        let first = place.load();
        assert!(!first.mapped && first.warnings == plain.warnings, "{}: {:?}", case.name, first.warnings);
        let second = place.load();
        assert!(second.mapped && second.warnings == plain.warnings, "{}: {:?}", case.name, second.warnings);
        assert!(plain.logits == first.logits && first.logits == second.logits, "{}", case.name);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&place.file()), mode(&place.cache_dir)), (0o600, 0o700));
    }
}

#[test]
fn a_byte_that_is_damaged_anywhere_is_found() {
    let place = Place::new("qwen3next_gguf_kquants");
    let good = place.load().logits;
    let len = fs::metadata(place.file()).unwrap().len();
    place.rebuilt(&good, flip(3), "does not begin as a pack cache does");
    place.rebuilt(&good, flip(16), "is of version");
    place.rebuilt(&good, |file, _| file.write_all_at(&7u32.to_le_bytes(), 16).unwrap(), "is of version 7");
    // Checksum, spare bytes, lengths, identity, checksums of chunks, and the zeros behind them.
    for at in [8, 15, 20, 23, 24, 40, 47, 48, 63, 64, 70, 200, 300, 400, 4096, 1 << 20, (2 << 20) - 1] {
        place.rebuilt(&good, flip(at), "is damaged in its header");
    }
    let offset = 32;
    place.rebuilt(&good, flip(offset), "is damaged in its header");
    place.rebuilt(&good, flip(offset + 5), "is damaged in its header");
    let image = 2 << 20;
    let random = (1..40u64).map(|i| image + i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (len - image));
    for at in [image, image + 1, image + 4095, len - 4096, len - 1].into_iter().chain(random) {
        place.rebuilt(&good, flip(at), "is damaged in the");
    }
    assert!(place.load().mapped);
}

#[test]
fn a_cache_of_another_length_is_found() {
    let place = Place::new("qwen3_moe_bf16");
    let good = place.load().logits;
    let len = fs::metadata(place.file()).unwrap().len();
    for (left, why) in [
        (0, "is truncated"),
        (1, "is truncated"),
        (63, "is truncated"),
        (64, "is truncated"),
        (1 << 20, "is truncated"),
        (2 << 20, "truncated"),
        ((2 << 20) + 1, "truncated"),
        (len / 2 + (1 << 20), "truncated"),
        (len - 4096, "truncated"),
        (len - 1, "truncated"),
        (len + 1, "overwritten"),
        (len + (4 << 20), "overwritten"),
    ] {
        place.rebuilt(&good, |file, _| file.set_len(left).unwrap(), why);
    }
    place.rebuilt(&good, |file, len| file.write_all_at(&vec![0; len as usize], 0).unwrap(), "does not begin as");
}

#[test]
fn a_cache_of_another_source_is_stale() {
    let place = Place::new("qwen3_moe_f16_sharded_yarn");
    let good = place.load().logits;
    let model = place.folder.path().join("model");
    let shard =
        fs::read_dir(&model).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().unwrap() == "safetensors");
    let shard = shard.unwrap();
    let name = shard.file_name().unwrap().to_str().unwrap().to_owned();
    let touch = |_: &File, _: u64| {
        let later = SystemTime::now() + Duration::from_nanos(1_000_000_007);
        File::options().write(true).open(&shard).unwrap().set_modified(later).unwrap();
    };
    place.rebuilt(&good, touch, &format!("is stale: {name} was changed since"));
    assert!(place.load().mapped);

    // The config alone says how weights are to be read, so that its own time does not matter, but what it says does.
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    fs::write(model.join("config.json"), config.clone() + "\n").unwrap();
    assert!(place.load().mapped);
    let changed = config.replace("\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": 1e-05");
    assert_ne!(config, changed);
    fs::write(model.join("config.json"), changed).unwrap();
    let loaded = place.load();
    assert!(!loaded.mapped && loaded.logits != good);
    assert!(
        loaded.warnings.iter().any(|w| w.contains("is stale: the model's config or headers")),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn a_cache_of_another_models_place_is_not_taken() {
    let (one, other) = (Place::new("qwen3_moe_bf16"), Place::new("qwen3_next_bf16"));
    one.load();
    let good = other.load().logits;
    fs::copy(one.file(), other.file()).unwrap();
    other.rebuilt(&good, |_, _| (), "is stale");
}

#[test]
fn a_cache_that_others_can_write_is_not_trusted() {
    let place = Place::new("qwen3_moe_bf16");
    let good = place.load().logits;
    fs::set_permissions(place.file(), fs::Permissions::from_mode(0o622)).unwrap();
    place.rebuilt(&good, |_, _| (), "can be written by other users");
    assert_eq!(fs::metadata(place.file()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_cache_that_cannot_be_written_costs_a_warning() {
    let place = Place::new("qwen3_moe_bf16");
    let good = place.load().logits;
    let blocked = place.folder.path().join("a file");
    fs::write(&blocked, "in the way").unwrap();
    // A file where the folder should be, a folder below it, and one in which even root cannot create a file.
    for cache_dir in [blocked.clone(), blocked.join("below"), "/proc/self/fdinfo".into()] {
        let loaded = place.load_with(LoadOptions { cache_dir: Some(cache_dir), ..place.options() });
        assert_eq!(loaded.logits, good);
        assert!(loaded.warnings.iter().any(|w| w.contains("no pack cache was written")), "{:?}", loaded.warnings);
        let options = LoadOptions { cache_dir: Some(blocked.clone()), ..place.options() };
        let error = pack(&Source::from(place.model().as_path()), &options, &LoadProgress::default()).err();
        assert!(matches!(error, Some(Error::Io { .. })), "{error:?}");
    }
}

#[test]
fn what_stands_at_the_caches_place_is_replaced_only_where_it_is_a_file() {
    let place = Place::new("qwen3_moe_bf16");
    let good = place.load().logits;
    let file = place.file();
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let loaded = place.load();
    assert_eq!(loaded.logits, good);
    assert!(loaded.warnings.iter().any(|w| w.contains("is no regular file")), "{:?}", loaded.warnings);
    assert!(loaded.warnings.iter().any(|w| w.contains("no pack cache was written")), "{:?}", loaded.warnings);
    assert_eq!(fs::read_dir(&place.cache_dir).unwrap().count(), 1, "no temporary file stays");
}

#[test]
fn packing_ahead_makes_what_a_load_takes() {
    let place = Place::new("qwen3_next_nf4");
    let source = Source::from(place.model().as_path());
    let report = pack(&source, &place.options(), &LoadProgress::default()).unwrap();
    assert!(report.written && report.path == place.file());
    assert!(place.load().mapped);
    let again = pack(&source, &place.options(), &LoadProgress::default()).unwrap();
    assert!(!again.written && again.bytes == report.bytes);
    let none = LoadOptions { cache_dir: None, ..place.options() };
    assert!(matches!(pack(&source, &none, &LoadProgress::default()), Err(Error::InvalidArgument(_))));
}

#[test]
fn a_load_that_just_fits_makes_its_cache() {
    let place = Place::new("qwen3_moe_bf16");
    let fit = qwen3moe::engine::fit(&Source::from(place.model().as_path()), &place.options()).unwrap();
    place.load_with(LoadOptions { ram_budget: fit.ram_required, ..place.options() });
    assert!(place.load().mapped);
}

#[test]
fn a_cancelled_pack_leaves_nothing_behind() {
    let place = Place::new("qwen3_moe_bf16");
    let source = Source::from(place.model().as_path());
    // Cancelled before anything is read, and when the log tells that the cache is about to be made.
    let progress = LoadProgress::default();
    progress.cancel();
    assert_eq!(pack(&source, &place.options(), &progress), Err(Error::Cancelled));
    let progress = Arc::new(LoadProgress::default());
    let watched = progress.clone();
    let log = move |_, line: &str| {
        if line.contains("is made now") {
            watched.cancel();
        }
    };
    let options = LoadOptions { log: Some(Arc::new(log)), ..place.options() };
    assert_eq!(pack(&source, &options, &progress), Err(Error::Cancelled));
    assert!(!place.cache_dir.exists() || fs::read_dir(&place.cache_dir).unwrap().next().is_none());
}

#[test]
fn two_processes_that_pack_at_once_both_succeed() {
    let place = Place::new("qwen3next_gguf_kquants");
    let good = place.load_with(LoadOptions { cache_dir: None, ..place.options() }).logits;
    for _ in 0..3 {
        let _ = fs::remove_dir_all(&place.cache_dir);
        let children: Vec<_> = (0..3).map(|_| packer(&place).spawn().unwrap()).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let loaded = place.load();
        assert!(loaded.mapped && loaded.logits == good);
        place.file();
    }
}

#[test]
fn a_pack_that_is_killed_at_any_moment_leaves_a_good_cache_or_none() {
    let place = Place::new("qwen3next_gguf_kquants");
    let good = place.load_with(LoadOptions { cache_dir: None, ..place.options() }).logits;
    let mut outcomes = [0; 2];
    for round in 0..40u64 {
        let _ = fs::remove_dir_all(&place.cache_dir);
        let mut child = packer(&place).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(round * 40_503 % 30_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let finished = fs::read_dir(&place.cache_dir)
            .is_ok_and(|mut dir| dir.any(|e| e.unwrap().path().extension().is_some_and(|x| x == "qmpack")));
        let loaded = place.load();
        assert_eq!(loaded.logits, good);
        assert!(loaded.warnings.is_empty() && loaded.mapped == finished, "{:?}", loaded.warnings);
        outcomes[usize::from(finished)] += 1;
        if !finished {
            place.file();
        }
    }
    assert!(outcomes[0] > 0, "killed before the cache was there, and after: {outcomes:?}");
}

#[test]
fn the_temporary_file_of_a_live_process_stays_and_that_of_a_dead_one_goes() {
    let place = Place::new("qwen3_moe_bf16");
    fs::create_dir_all(&place.cache_dir).unwrap();
    let [live, dead] = ["1-0", "2-0"].map(|id| place.cache_dir.join(format!(".other-0.qmpack.{id}.tmp")));
    fs::write(&dead, "left").unwrap();
    let locked = File::create(&live).unwrap();
    // SAFETY: the descriptor is open; the call touches no memory.
    assert_eq!(unsafe { libc::flock(std::os::fd::AsRawFd::as_raw_fd(&locked), libc::LOCK_EX) }, 0);
    let bystander = place.cache_dir.join(".notes.tmp");
    fs::write(&bystander, "somebody's").unwrap();
    place.load();
    assert_eq!((live.exists(), dead.exists(), bystander.exists()), (true, false, true));
}

fn packer(place: &Place) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qm"));
    command.arg("pack").arg(place.model()).arg("--cache-dir").arg(&place.cache_dir);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}
