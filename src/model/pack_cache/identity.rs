//! What a cache was made from, and whether that is still what is at hand.

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::checkpoint::{Checkpoint, FileStamp, Kind};
use crate::model::{ModelSpec, WeightPlan};
use crate::quant::packed;

/// What the image follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The files that the weights come from.
    files: Vec<FileStamp>,
    /// Hash of what the headers and the config say: spec, tensors, and the place of every weight.
    plan: String,
    /// Hash of the packed form of a sample of every format.
    layouts: String,
}

impl Identity {
    /// What of `self`, the identity of a file, differs from that of the checkpoint at hand.
    pub fn difference(&self, expected: &Self) -> Option<String> {
        let other = |what: &str| Some(what.to_string());
        if self.files.len() != expected.files.len() {
            return other("the model has another number of files now");
        }
        let changed = self.files.iter().zip(&expected.files).find(|(a, b)| a != b);
        if let Some((then, now)) = changed {
            return Some(match then.name == now.name {
                true => format!("{} was changed since", now.name),
                false => format!("it was made from {}, not {}", then.name, now.name),
            });
        }
        if self.layouts != expected.layouts {
            return other("this version of the library packs weights in another order");
        }
        (self.plan != expected.plan).then(|| "the model's config or headers say something else now".to_string())
    }
}

/// The name of a checkpoint's cache, and its identity; `None` for checkpoints in memory.
pub(super) fn of(checkpoint: &Checkpoint, spec: &ModelSpec, plan: &WeightPlan) -> Option<(String, Identity)> {
    let files = checkpoint.stamps()?;
    let first = checkpoint.files().next()?;
    // The folder may be a link to where it is now; the file in it may be one into a store of blobs without names.
    let parent = first.parent().filter(|parent| !parent.as_os_str().is_empty());
    let folder = std::fs::canonicalize(parent.unwrap_or(std::path::Path::new("."))).ok()?;
    let stem = match checkpoint.kind() {
        Kind::HuggingFace => folder.file_name(),
        Kind::Gguf => first.file_stem(),
    };
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let stem: String = stem.unwrap_or_default().to_string_lossy().chars().take(80).map(plain).collect();
    let place = XxHash3_64::oneshot(folder.join(first.file_name()?).as_os_str().as_encoded_bytes());
    let mut facts = XxHash3_64::new();
    facts.write(format!("{spec:?}").as_bytes());
    plan.places().hash(&mut facts);
    for tensor in checkpoint.tensors() {
        (&tensor.name, tensor.role, &tensor.shape, tensor.format, tensor.bytes, tensor.file, tensor.offset)
            .hash(&mut facts);
    }
    let identity = Identity {
        files,
        plan: format!("{:016x}", facts.finish()),
        layouts: format!("{:016x}", XxHash3_64::oneshot(&packed::sample())),
    };
    Some((format!("{stem}-{place:016x}.qmpack"), identity))
}
