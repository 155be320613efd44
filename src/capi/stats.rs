//! Where a model's memory goes, and which experts its tokens visit.

use std::ffi::c_char;

use super::arguments::{Out, handle, text};
use super::boundary::boundary;
use super::buffer::{TextBuffer, ValueBuffer};
use super::extensible::{check_output, extensible, write_output};
use super::load::source;
use super::model::{count, qm_model};
use super::options::{load_options, qm_load_options_t};
use super::status::{QM_OK, qm_status};
use crate::engine::{ExpertStats, Fit, MemoryStats, fit};

/// Use of the routed experts since the load. Every expert is in RAM for good, or in the device's memory where the model runs
/// there, and the numbers say so: each activation is a hit, nothing is missed, admitted or moved, and every expert is
/// resident.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qm_expert_stats_t {
    /// Bytes of this struct that the library filled in; what is behind them is zero.
    pub struct_size: u32,
    /// 1 if the model has routed experts.
    pub has_experts: u32,
    /// Times that a token visited an expert, over all layers.
    pub activations: u64,
    /// Activations that found their expert in the memory where it is computed fastest.
    pub hits: u64,
    /// Activations that did not.
    pub misses: u64,
    /// Experts that were copied into that memory.
    pub admissions: u64,
    /// Bytes of those copies.
    pub bytes_moved: u64,
    /// Experts in that memory now.
    pub resident_experts: u64,
    /// Routed experts of all layers.
    pub experts: u64,
    /// hits / activations; 0 before the first activation.
    pub hit_rate: f64,
}

extensible!(qm_expert_stats_t, first: 72, size: 72, {
    struct_size: 0, has_experts: 4, activations: 8, hits: 16, misses: 24, admissions: 32, bytes_moved: 40,
    resident_experts: 48, experts: 56, hit_rate: 64,
});

/// Bytes that a model holds, by what they hold: RAM and device memory (VRAM).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qm_memory_stats_t {
    /// Bytes of this struct that the library filled in; what is behind them is zero.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// RAM: all of the following together.
    pub ram_total: u64,
    /// RAM: token embedding and head.
    pub ram_embeddings: u64,
    /// RAM: weights of the attention layers.
    pub ram_attention: u64,
    /// RAM: weights of the DeltaNet layers.
    pub ram_delta_net: u64,
    /// RAM: routed experts.
    pub ram_experts: u64,
    /// RAM: routers, shared experts, dense feed-forward layers and norms.
    pub ram_other: u64,
    /// RAM: keys and values of the streams.
    pub ram_kv: u64,
    /// RAM: recurrent states of the streams.
    pub ram_states: u64,
    /// RAM: activations of one step.
    pub ram_workspace: u64,
    /// VRAM: all of the following together; 0 without a GPU.
    pub vram_total: u64,
    /// VRAM: token embedding and head.
    pub vram_embeddings: u64,
    /// VRAM: weights of the attention layers.
    pub vram_attention: u64,
    /// VRAM: weights of the DeltaNet layers.
    pub vram_delta_net: u64,
    /// VRAM: routed experts.
    pub vram_experts: u64,
    /// VRAM: routers, shared experts, dense feed-forward layers and norms.
    pub vram_other: u64,
    /// VRAM: keys and values of the streams.
    pub vram_kv: u64,
    /// VRAM: recurrent states of the streams.
    pub vram_states: u64,
    /// VRAM: activations of one step.
    pub vram_workspace: u64,
}

extensible!(qm_memory_stats_t, first: 152, size: 152, {
    struct_size: 0, reserved: 4, ram_total: 8, ram_embeddings: 16, ram_attention: 24, ram_delta_net: 32, ram_experts: 40, ram_other: 48, ram_kv: 56, ram_states: 64, ram_workspace: 72, vram_total: 80, vram_embeddings: 88, vram_attention: 96, vram_delta_net: 104, vram_experts: 112, vram_other: 120, vram_kv: 128, vram_states: 136, vram_workspace: 144
});

/// Bytes of qm_fit_t.advice.
pub const QM_FIT_ADVICE_SIZE: usize = 512;

/// What a load would take.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qm_fit_t {
    /// Bytes of this struct that the library filled in; what is behind them is zero.
    pub struct_size: u32,
    /// 1 if the model would fit.
    pub fits: u32,
    /// Positions that one stream could hold.
    pub context_length: u32,
    /// Streams that could run at the same time.
    pub streams: u32,
    /// Positions that all streams could hold together.
    pub kv_tokens: u64,
    /// Bytes of RAM that the load takes at most: weights for a device pass through it in pieces.
    pub ram_required: u64,
    /// Bytes of RAM that it may take: the smaller of the budget and what is available.
    pub ram_limit: u64,
    /// Bytes of RAM that the machine has available now, within the limits of the process; 0: unknown.
    pub ram_available: u64,
    /// Bytes of VRAM that the load takes.
    pub vram_required: u64,
    /// Bytes of VRAM that it may take.
    pub vram_limit: u64,
    /// Bytes that one more stream takes for its recurrent states.
    pub state_per_stream: u64,
    /// Bytes that 1000 more positions take.
    pub kv_per_1000_tokens: u64,
    /// RAM: token embedding and head.
    pub ram_embeddings: u64,
    /// RAM: weights of the attention layers.
    pub ram_attention: u64,
    /// RAM: weights of the DeltaNet layers.
    pub ram_delta_net: u64,
    /// RAM: routed experts.
    pub ram_experts: u64,
    /// RAM: routers, shared experts, dense feed-forward layers and norms.
    pub ram_other: u64,
    /// RAM: keys and values of the streams.
    pub ram_kv: u64,
    /// RAM: recurrent states of the streams.
    pub ram_states: u64,
    /// RAM: activations of one step.
    pub ram_workspace: u64,
    /// VRAM: token embedding and head.
    pub vram_embeddings: u64,
    /// VRAM: weights of the attention layers.
    pub vram_attention: u64,
    /// VRAM: weights of the DeltaNet layers.
    pub vram_delta_net: u64,
    /// VRAM: routed experts.
    pub vram_experts: u64,
    /// VRAM: routers, shared experts, dense feed-forward layers and norms.
    pub vram_other: u64,
    /// VRAM: keys and values of the streams.
    pub vram_kv: u64,
    /// VRAM: recurrent states of the streams.
    pub vram_states: u64,
    /// VRAM: activations of one step.
    pub vram_workspace: u64,
    /// What would make it fit, or a remark: NUL-terminated UTF-8, one or more sentences.
    pub advice: [c_char; QM_FIT_ADVICE_SIZE],
}

extensible!(qm_fit_t, first: 720, size: 720, {
    struct_size: 0, fits: 4, context_length: 8, streams: 12, kv_tokens: 16, ram_required: 24, ram_limit: 32,
    ram_available: 40, vram_required: 48, vram_limit: 56, state_per_stream: 64, kv_per_1000_tokens: 72,
    ram_embeddings: 80, ram_attention: 88, ram_delta_net: 96, ram_experts: 104, ram_other: 112, ram_kv: 120, ram_states: 128, ram_workspace: 136, vram_embeddings: 144, vram_attention: 152, vram_delta_net: 160, vram_experts: 168, vram_other: 176, vram_kv: 184, vram_states: 192, vram_workspace: 200, advice: 208,
});

impl From<ExpertStats> for qm_expert_stats_t {
    fn from(stats: ExpertStats) -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            has_experts: u32::from(stats.experts > 0),
            activations: stats.activations,
            hits: stats.hits,
            misses: stats.misses,
            admissions: stats.admissions,
            bytes_moved: stats.bytes_moved,
            resident_experts: stats.resident_experts,
            experts: stats.experts,
            hit_rate: stats.hit_rate,
        }
    }
}

/// A struct with its own fields, and with those of every component of host and device memory.
macro_rules! with_memory {
    ($ram:ident, $vram:ident, $name:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $name {
            $($field $(: $value)?,)*
            ram_embeddings: $ram.embeddings,
            ram_attention: $ram.attention,
            ram_delta_net: $ram.delta_net,
            ram_experts: $ram.experts,
            ram_other: $ram.other,
            ram_kv: $ram.kv,
            ram_states: $ram.states,
            ram_workspace: $ram.workspace,
            vram_embeddings: $vram.embeddings,
            vram_attention: $vram.attention,
            vram_delta_net: $vram.delta_net,
            vram_experts: $vram.experts,
            vram_other: $vram.other,
            vram_kv: $vram.kv,
            vram_states: $vram.states,
            vram_workspace: $vram.workspace,
        }
    };
}

impl From<MemoryStats> for qm_memory_stats_t {
    fn from(MemoryStats { ram, vram }: MemoryStats) -> Self {
        with_memory!(
            ram,
            vram,
            Self {
                struct_size: size_of::<Self>() as u32,
                reserved: 0,
                ram_total: ram.total(),
                vram_total: vram.total(),
            }
        )
    }
}

impl From<&Fit> for qm_fit_t {
    fn from(fit: &Fit) -> Self {
        let MemoryStats { ram, vram } = fit.memory;
        let mut advice = [0; QM_FIT_ADVICE_SIZE];
        // SAFETY: the buffer is as long as it is said to be.
        unsafe { TextBuffer::new(advice.as_mut_ptr(), advice.len()) }.put(&fit.advice);
        with_memory!(
            ram,
            vram,
            Self {
                struct_size: size_of::<Self>() as u32,
                fits: u32::from(fit.fits),
                context_length: count(fit.context_length),
                streams: count(fit.streams),
                kv_tokens: fit.kv_tokens as u64,
                ram_required: fit.ram_required,
                ram_limit: fit.ram_limit,
                ram_available: fit.ram_available,
                vram_required: fit.vram_required,
                vram_limit: fit.vram_limit,
                state_per_stream: fit.state_per_stream,
                kv_per_1000_tokens: fit.kv_per_1000_tokens,
                advice,
            }
        )
    }
}

/// Writes the use of the routed experts since the load to `out`, a struct of `size` bytes (pass `sizeof *out`). Takes no
/// lock that a running generation needs. Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH (impossible size).
///
/// # Safety
/// `m` is NULL or live, `out` is NULL or valid for writes of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_expert_stats(m: *const qm_model, out: *mut qm_expert_stats_t, size: usize) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        unsafe { write_output(out, size, &handle(m, "m")?.model.expert_stats().into(), "out") }?;
        Ok(QM_OK)
    })
}

/// Writes how often each routed expert of layer `layer` (from 0) was visited since the load to `counts`, which has room
/// for `cap` numbers, and their number to `*n`. `counts` may be NULL when `cap` is 0: then only `*n` is written. If they
/// do not fit: QM_ERR_BUFFER_TOO_SMALL, `*n` is the `cap` that is needed, and nothing is written to `counts`.
///
/// Errors: QM_ERR_INVALID_ARGUMENT (also: no such layer, or one without experts), QM_ERR_BUFFER_TOO_SMALL.
///
/// # Safety
/// `m` is NULL or live, `counts` has room for `cap` numbers, `n` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_expert_counts(
    m: *const qm_model,
    layer: u32,
    counts: *mut u64,
    cap: usize,
    n: *mut usize,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (n, buffer, model) =
            unsafe { (Out::new(n, "n", 0)?, ValueBuffer::new(counts, cap, "counts")?, handle(m, "m")?) };
        let values = model.model.expert_counts(layer as usize)?;
        n.set(values.len());
        if buffer.is_query() {
            return Ok(QM_OK);
        }
        buffer.put("the counts of a layer's experts", &values)?;
        Ok(QM_OK)
    })
}

/// Writes the memory that a model holds to `out`, a struct of `size` bytes (pass `sizeof *out`).
/// Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH (impossible size).
///
/// # Safety
/// `m` is NULL or live, `out` is NULL or valid for writes of `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_memory_stats(m: *const qm_model, out: *mut qm_memory_stats_t, size: usize) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        unsafe { write_output(out, size, &handle(m, "m")?.model.memory().into(), "out") }?;
        Ok(QM_OK)
    })
}

/// Finds what loading `path` with the options `o` would take, from the files' headers, without loading. Arguments as for
/// qm_load; the result goes to `out`, a struct of `size` bytes (pass `sizeof *out`). A model that is too large is no
/// error: `fits` is 0 and `advice` says what would help. Calls no callbacks.
///
/// Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_IO, QM_ERR_BAD_FILE, QM_ERR_UNSUPPORTED,
/// QM_ERR_NO_DEVICE.
///
/// # Safety
/// `path` is NULL or NUL-terminated, `o` is NULL or a struct of its own size, `out` is NULL or valid for writes of `size`
/// bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qm_fit(
    path: *const c_char,
    o: *const qm_load_options_t,
    out: *mut qm_fit_t,
    size: usize,
) -> qm_status {
    boundary(|| {
        // SAFETY: as the caller promises.
        let (path, (options, _)) = unsafe { (text(path, "path")?, load_options(o)?) };
        check_output(out, size, "out")?;
        let fit = fit(&source(path)?, &options)?;
        // SAFETY: as the caller promises.
        unsafe { write_output(out, size, &qm_fit_t::from(&fit), "out") }?;
        Ok(QM_OK)
    })
}
