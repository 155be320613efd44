//! Weights from a pack cache, or packed and then kept in one.

use std::path::PathBuf;

use super::fit::Plan;
use super::log::Log;
use super::panics::silence;
use super::{LoadOptions, LogLevel, machine};
use crate::error::{Error, Result};
use crate::model::{
    Checkpoint, Found, LoadProgress, ModelSpec, PackCache, Source, WeightBytes, WeightPlan, check_shapes,
    pack as pack_weights, read_config,
};

/// A pack cache that is up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackReport {
    /// The file.
    pub path: PathBuf,
    /// Bytes of weights in it.
    pub bytes: u64,
    /// It was written now; otherwise it was there already, and every byte of it was checked.
    pub written: bool,
}

/// Makes the pack cache of `source` in `options.cache_dir`, unless a good one is there.
///
/// # Errors
/// As [`super::Model::load`]; [`Error::InvalidArgument`] without a folder or for a model that is no file; [`Error::Io`] when
/// the cache cannot be written.
pub fn pack(source: &Source, options: &LoadOptions, progress: &LoadProgress) -> Result<PackReport> {
    silence();
    options.check()?;
    let Some(folder) = &options.cache_dir else {
        return Err(Error::InvalidArgument("cache_dir is not set, so there is no folder to pack to".into()));
    };
    let log = Log::new(options.log.clone());
    let checkpoint = Checkpoint::open(source)?;
    let spec = read_config(&checkpoint)?.spec;
    check_shapes(&checkpoint, &spec)?;
    let weights = WeightPlan::new(&checkpoint, &spec)?;
    let threads = Plan::new(&spec, options)?.threads;
    let Some(cache) = PackCache::new(folder, &checkpoint, &spec, &weights) else {
        let what = format!("{}: only a model in files has a pack cache", checkpoint.path().display());
        return Err(Error::InvalidArgument(what));
    };
    let report = |written| PackReport { path: cache.path(), bytes: weights.bytes() as u64, written };
    if open(&cache, progress, threads, &log)?.is_some() {
        return Ok(report(false));
    }
    let available = machine::available_memory().unwrap_or(u64::MAX);
    if weights.bytes() as u64 > available {
        let (path, needed) = (checkpoint.path().display(), weights.bytes());
        return Err(Error::OverBudget(format!("{path}: packing takes {needed} bytes of host memory, of {available}")));
    }
    let image = image_for(&cache, (&checkpoint, &weights), progress, threads, &log)?;
    cache.store(&image, progress, threads)?;
    Ok(report(true))
}

/// All weights of `checkpoint` as its pack cache has them, where the options name a folder for that: mapped where there is a
/// good one, else packed and cached now. `None` where there is and will be none, and the files are to be read: so it is, too,
/// where packing all weights would take more than `room` bytes of host memory.
pub(super) fn image(
    (checkpoint, spec, weights): (&Checkpoint, &ModelSpec, &WeightPlan),
    options: &LoadOptions,
    threads: usize,
    room: u64,
    progress: &LoadProgress,
    log: &Log,
) -> Result<Option<WeightBytes>> {
    let cache = options.cache_dir.as_ref().map(|folder| PackCache::new(folder, checkpoint, spec, weights));
    let bytes = weights.bytes() as u64;
    if let Some(Some(cache)) = &cache {
        if let Some(image) = open(cache, progress, threads, log)? {
            return Ok(Some(image));
        }
        if bytes <= room {
            let image = image_for(cache, (checkpoint, weights), progress, threads, log)?;
            store(cache, &image, progress, threads, log)?;
            return Ok(Some(image));
        }
        let what = format!("no pack cache is made: that takes {bytes} bytes of host memory, of {room}");
        log.line(LogLevel::Warning, &what);
    } else if cache.is_some() {
        log.line(LogLevel::Warning, "cache_dir has no effect: only a model in files has a pack cache");
    }
    progress.restart(source_bytes(checkpoint));
    Ok(None)
}

/// The image that `cache` is to have.
fn image_for(
    cache: &PackCache,
    (checkpoint, weights): (&Checkpoint, &WeightPlan),
    progress: &LoadProgress,
    threads: usize,
    log: &Log,
) -> Result<WeightBytes> {
    log.line(LogLevel::Info, &format!("{}: this pack cache is made now", cache.path().display()));
    progress.restart(source_bytes(checkpoint).saturating_add(weights.bytes() as u64));
    pack_weights(checkpoint, weights, progress, threads)
}

/// Writes `image` to `cache`. A cache that cannot be written is a warning.
fn store(cache: &PackCache, image: &[u8], progress: &LoadProgress, threads: usize, log: &Log) -> Result<()> {
    match cache.store(image, progress, threads) {
        Ok(()) => log.line(LogLevel::Info, &format!("{}: wrote this pack cache", cache.path().display())),
        Err(Error::Cancelled) => return Err(Error::Cancelled),
        Err(e) => {
            log.line(LogLevel::Warning, &format!("no pack cache was written, the load goes on without one: {e}"));
            progress.advance(progress.total_bytes().saturating_sub(progress.done_bytes()))?;
        }
    }
    Ok(())
}

/// The image in `cache`, or `None` where it has to be made.
fn open(cache: &PackCache, progress: &LoadProgress, threads: usize, log: &Log) -> Result<Option<WeightBytes>> {
    let path = cache.path();
    match cache.open(progress, threads)? {
        Found::Image(image) => {
            log.line(LogLevel::Info, &format!("{}: the weights are mapped from this pack cache", path.display()));
            return Ok(Some(image));
        }
        Found::Nothing => {}
        Found::Unusable(why) => log.line(LogLevel::Warning, &format!("{}: this pack cache {why}", path.display())),
    }
    Ok(None)
}

/// Bytes of the tensors that are read.
fn source_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().iter().fold(0, |sum, tensor| sum.saturating_add(tensor.bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_cache_is_made_only_where_there_is_room_for_all_weights_and_used_wherever_there_is_one() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/qwen3_next_bf16");
        let checkpoint = Checkpoint::open(&Source::from(model.as_path())).unwrap();
        let spec = read_config(&checkpoint).unwrap().spec;
        let plan = WeightPlan::new(&checkpoint, &spec).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let options = LoadOptions { cache_dir: Some(folder.path().into()), ..LoadOptions::default() };
        let found = |room| {
            let progress = LoadProgress::default();
            let image = image((&checkpoint, &spec, &plan), &options, 1, room, &progress, &Log::new(None)).unwrap();
            let files = std::fs::read_dir(folder.path()).unwrap().count();
            (image.is_some(), files, progress.total_bytes() - progress.done_bytes())
        };
        let enough = plan.bytes() as u64;
        // The files are still to be read where there is no cache.
        assert_eq!(found(enough - 1), (false, 0, source_bytes(&checkpoint)));
        assert_eq!(found(enough), (true, 1, 0));
        assert_eq!(found(0), (true, 1, 0));
    }
}
