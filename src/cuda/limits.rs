//! What the kernels take of a model, beyond what its config may ask for.

use std::path::Path;

use crate::error::{Error, Result};
use crate::model::ModelSpec;

/// Taps of the convolution in front of the delta rule.
const MOST_TAPS: usize = 8;

/// Experts that a row visits, the shared one included: their outputs stand side by side in a block's memory.
const MOST_CHOSEN: usize = 33;

/// Whether the lanes of a warp share out a head of `dim` channels without rest: one, two, four or eight channels each.
fn takes_head(dim: usize) -> bool {
    let each = [1, 2, 4, 8].into_iter().find(|each| dim <= 32 * each);
    each.is_some_and(|each| dim.is_multiple_of(each))
}

/// Holds the model at `path` against what the kernels take.
///
/// # Errors
/// [`Error::Unsupported`] with the field, what it asks for and what is possible.
pub fn check(spec: &ModelSpec, path: &Path) -> Result<()> {
    let refuse = |what: String| Err(Error::unsupported(path, format!("{what}; the processor takes it (device -1)")));
    let head_dim = spec.attention.head_dim;
    if spec.attention_layers() > 0 && !takes_head(head_dim) {
        return refuse(format!(
            "head_dim {head_dim} on a CUDA device: up to 256, even beyond 32, a multiple of 4 beyond 64 and of 8 beyond 128"
        ));
    }
    if let Some(delta) = spec.delta.as_ref().filter(|delta| delta.conv_kernel > MOST_TAPS) {
        return refuse(format!("a convolution of {} taps on a CUDA device: up to {MOST_TAPS}", delta.conv_kernel));
    }
    if let Some(moe) = &spec.moe {
        let chosen = moe.top_k + usize::from(moe.shared_width > 0);
        if chosen > MOST_CHOSEN {
            return refuse(format!("{chosen} experts for each row on a CUDA device: up to {MOST_CHOSEN}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::takes_head;

    #[test]
    fn heads_are_taken_that_the_lanes_of_a_warp_share_without_rest() {
        for (dim, taken) in [(1, true), (31, true), (33, false), (64, true), (66, false), (68, true), (128, true)] {
            assert_eq!(takes_head(dim), taken, "{dim}");
        }
        for (dim, taken) in [(132, false), (136, true), (256, true), (257, false), (264, false), (4096, false)] {
            assert_eq!(takes_head(dim), taken, "{dim}");
        }
    }
}
