//! The handle of a loaded model, and facts about it.

use super::arguments::{free, handle};
use super::boundary::{boundary, quietly};
use super::extensible::{extensible, write_output};
use super::status::{QM_OK, qm_status};
use crate::Family;
use crate::engine::{Model, ModelInfo};

/// A loaded model. Owned by the caller: free it with qm_model_free. Every function on a model may be called from any
/// threads at the same time, except qm_model_free.
pub struct qm_model {
    pub(super) model: Model,
}

const _: () = {
    const fn crosses_threads<T: Send + Sync>() {}
    crosses_threads::<qm_model>();
};

impl qm_model {
    pub(super) fn new(model: Model) -> Self {
        Self { model }
    }
}

/// Family: `qwen3_moe`, such as Qwen3-30B-A3B.
pub const QM_FAMILY_QWEN3_MOE: u32 = 1;
/// Family: `qwen3_next`, such as Qwen3-Next-80B-A3B.
pub const QM_FAMILY_QWEN3_NEXT: u32 = 2;
/// Family: `qwen3_5_moe`, such as Qwen3.5-35B-A3B.
pub const QM_FAMILY_QWEN3_5_MOE: u32 = 3;

/// Facts about a loaded model.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qm_model_info_t {
    /// Bytes of this struct that the library filled in; what is behind them is zero.
    pub struct_size: u32,
    /// One of QM_FAMILY_*; later versions may know more.
    pub family: u32,
    /// Parameters of the layers, the embedding and the head.
    pub parameters: u64,
    /// Positions that all streams can hold together.
    pub kv_tokens: u64,
    /// Token ids are below this; also the length of a row of logits.
    pub vocab: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Layers.
    pub layers: u32,
    /// Layers with softmax attention.
    pub attention_layers: u32,
    /// Layers with a Gated DeltaNet.
    pub delta_layers: u32,
    /// Layers with routed experts.
    pub moe_layers: u32,
    /// Routed experts of such a layer.
    pub experts: u32,
    /// Routed experts that a token visits in such a layer.
    pub experts_per_token: u32,
    /// Positions that one stream can hold in this load.
    pub context_length: u32,
    /// Positions that the model can be used for, those counted by which its files extend it with YaRN.
    pub model_context_length: u32,
    /// Streams that can run at the same time.
    pub streams: u32,
    /// Worker threads.
    pub threads: u32,
    /// Layers of the multi-token-prediction head in the file: recognised, not used.
    pub mtp_layers: u32,
    /// 1 if qm_chat_open works: the model has a chat template.
    pub has_chat_template: u32,
    /// 1 if the model has a tokenizer; without one only qm_eval works.
    pub has_tokenizer: u32,
    /// A token that ends a generation; -1 if the model names none. There may be more than this one.
    pub eos_id: i32,
}

extensible!(qm_model_info_t, first: 88, size: 88, {
    struct_size: 0, family: 4, parameters: 8, kv_tokens: 16, vocab: 24, hidden: 28, layers: 32, attention_layers: 36,
    delta_layers: 40, moe_layers: 44, experts: 48, experts_per_token: 52, context_length: 56,
    model_context_length: 60, streams: 64, threads: 68, mtp_layers: 72, has_chat_template: 76, has_tokenizer: 80,
    eos_id: 84,
});

impl From<&ModelInfo> for qm_model_info_t {
    fn from(info: &ModelInfo) -> Self {
        let spec = &info.spec;
        Self {
            struct_size: size_of::<Self>() as u32,
            family: match spec.family {
                Family::Qwen3Moe => QM_FAMILY_QWEN3_MOE,
                Family::Qwen3Next => QM_FAMILY_QWEN3_NEXT,
                Family::Qwen35Moe => QM_FAMILY_QWEN3_5_MOE,
            },
            parameters: info.parameters,
            kv_tokens: info.kv_tokens as u64,
            vocab: count(spec.vocab),
            hidden: count(spec.hidden),
            layers: count(spec.layers.len()),
            attention_layers: count(spec.attention_layers()),
            delta_layers: count(spec.delta_layers()),
            moe_layers: count(spec.moe_layers()),
            experts: spec.moe.as_ref().map_or(0, |moe| count(moe.experts)),
            experts_per_token: spec.moe.as_ref().map_or(0, |moe| count(moe.top_k)),
            context_length: count(info.context_length),
            model_context_length: count(spec.context_length),
            streams: count(info.streams),
            threads: count(info.threads),
            mtp_layers: count(spec.mtp_layers),
            has_chat_template: u32::from(info.has_chat_template),
            has_tokenizer: u32::from(info.has_tokenizer),
            eos_id: info.eos_ids.first().and_then(|&id| i32::try_from(id).ok()).unwrap_or(-1),
        }
    }
}

/// A count for C; sizes of a real model are far below the limit.
pub(super) fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Frees a model. Streams that it still has go on and keep what they need; the last of them to be freed waits for the step
/// in progress and for a prompt that is being tokenised, ends the model's threads and gives its memory back. NULL does
/// nothing.
///
/// # Safety
/// `m` is NULL or live, and not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_model_free(m: *mut qm_model) {
    // SAFETY: as the caller promises.
    quietly((), || unsafe { free(m) });
}

/// Writes facts about the model to `out`, a struct of `size` bytes (pass `sizeof *out`).
/// Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH (impossible size).
///
/// # Safety
/// `m` is NULL or live, `out` is NULL or valid for writes of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_model_info(m: *const qm_model, out: *mut qm_model_info_t, size: usize) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        unsafe { write_output(out, size, &qm_model_info_t::from(handle(m, "m")?.model.info()), "out") }?;
        Ok(QM_OK)
    })
}
