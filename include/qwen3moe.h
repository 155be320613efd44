/* qwen3moe.h: the C interface of libqwen3moe, which runs Qwen3 Mixture-of-Experts language models inside your program.
 *
 * Generated from src/capi by cbindgen: do not edit. The comments here are the manual.
 *
 *     qm_model *model;
 *     qm_stream *stream;
 *     char text[256];
 *     size_t len;
 *     if (qm_load("model.gguf", NULL, &model) != QM_OK) return 1;
 *     if (qm_stream_open(model, "Once upon a time", NULL, &stream) == QM_OK)
 *         while (qm_stream_next(stream, text, sizeof text, &len, -1) == QM_OK) fwrite(text, 1, len, stdout);
 *     qm_stream_free(stream);
 *     qm_model_free(model);
 *
 * Rules that hold everywhere:
 *
 * - Ownership: what comes out of a `T **out` is yours; free it with the function that its type names. On every error such
 *   an out is NULL. Freeing NULL does nothing. Handles may be freed in any order: a stream keeps its model alive. Anything
 *   passed as a `const` pointer is only read, and only during the call.
 * - Status: 0 is success, positive is no error (QM_PENDING, QM_DONE), negative is an error. qm_last_error has its text.
 * - Text is UTF-8, and is checked. Text comes out in whole code points with a NUL behind it, which `cap` counts and `*len`
 *   does not. The text may itself hold U+0000: `*len` is right then, and strlen is not.
 * - Structs: options are set up by their init function and passed by pointer, NULL for the defaults; results are written to
 *   a struct of the size that you pass. Programs built for an older version of the library go on working.
 * - Threads: every function may be called from any thread. A model may be used by many threads at the same time. A stream
 *   and a load belong to one thread at a time, except qm_stream_cancel, qm_load_cancel, qm_stream_stats and
 *   qm_stream_error, which may be called from any thread at any time before the free. No function may run on a handle
 *   while or after it is freed.
 * - The host comes first: the library never prints, exits, aborts or throws, installs no signal handler, and changes no
 *   state of the process. A defect inside it comes out as QM_ERR_INTERNAL or QM_ERR_PANIC.
 * - After a fork, the child must not use the library.
 */


#ifndef QWEN3MOE_H
#define QWEN3MOE_H

#include <stddef.h>
#include <stdint.h>

/** The version of this header; qm_version() is that of the library that runs. */
#define QM_VERSION_MAJOR 0
#define QM_VERSION_MINOR 1
#define QM_VERSION_PATCH 0
/** For comparisons: major * 1000000 + minor * 1000 + patch. */
#define QM_VERSION_NUMBER (QM_VERSION_MAJOR * 1000000 + QM_VERSION_MINOR * 1000 + QM_VERSION_PATCH)

/**
 * The version of the binary interface. It changes only when programs must be compiled again; the library's file name
 * (`libqwen3moe.so.0`) carries it.
 */
#define QM_ABI_VERSION 0

/** Device: the library's choice. For now that is the processor. */
#define QM_DEVICE_AUTOMATIC (-2)

/** Device: the processor. Numbers from 0 are CUDA devices. */
#define QM_DEVICE_CPU (-1)

/** KV cache in half precision. */
#define QM_KV_F16 0

/** KV cache in bytes with a scale for every 32 channels: about half of the memory, slightly less exact. */
#define QM_KV_Q8_0 1

/** KV cache in single precision. */
#define QM_KV_F32 2

/** Priority on a CUDA device: that of work of which nothing is said, which on today's devices is the lowest, too. */
#define QM_PRIORITY_DEFAULT 0

/** Priority on a CUDA device: the lowest. */
#define QM_PRIORITY_LOW 1

/** Priority on a CUDA device: the highest. */
#define QM_PRIORITY_HIGH 2

/** Log level: something failed. */
#define QM_LOG_ERROR 1

/** Log level: something is not as the user may think. */
#define QM_LOG_WARNING 2

/** Log level: what was done. */
#define QM_LOG_INFO 3

/** Log level: details for developers. */
#define QM_LOG_DEBUG 4

/** Family: `qwen3_moe`, such as Qwen3-30B-A3B. */
#define QM_FAMILY_QWEN3_MOE 1

/** Family: `qwen3_next`, such as Qwen3-Next-80B-A3B. */
#define QM_FAMILY_QWEN3_NEXT 2

/** Family: `qwen3_5_moe`, such as Qwen3.5-35B-A3B. */
#define QM_FAMILY_QWEN3_5_MOE 3

/** Why a generation ended: it has not, or it failed. */
#define QM_FINISH_NONE 0

/** Why a generation ended: the model ended it. */
#define QM_FINISH_END_OF_SEQUENCE 1

/** Why a generation ended: a stop text. */
#define QM_FINISH_STOP 2

/** Why a generation ended: max_tokens were generated. */
#define QM_FINISH_LENGTH 3

/** Why a generation ended: the deadline passed. */
#define QM_FINISH_DEADLINE 4

/**
 * Flag of qm_tokenize and qm_detokenize: special tokens are recognised where they are spelled out in a text, and spelled
 * out in the text that ids become. Without it they are ordinary text, and left out.
 */
#define QM_TEXT_SPECIAL 1

/** Bytes of qm_fit_t.advice. */
#define QM_FIT_ADVICE_SIZE 512

/** A load that was started with qm_load_start. Owned by the caller: free it with qm_load_free. */
typedef struct qm_load_op qm_load_op;

/**
 * A loaded model. Owned by the caller: free it with qm_model_free. Every function on a model may be called from any
 * threads at the same time, except qm_model_free.
 */
typedef struct qm_model qm_model;

/** A running generation. Owned by the caller: free it with qm_stream_free. It keeps its model alive. */
typedef struct qm_stream qm_stream;

/**
 * What a function says about its outcome: 0 for success, positive for "no error, but", negative for an error.
 * Codes are never renumbered and never reused; treat a negative code that you do not know as QM_ERR_INTERNAL.
 */
typedef int32_t qm_status;

/**
 * Receives log lines. `level` is one of QM_LOG_*; `text` is one line of UTF-8, valid during the call only.
 * Called on the thread that loads or on the thread that runs the model, and not after the model and all of its streams
 * are freed. It must return soon, must not throw or jump out, and must not call functions of this library.
 */
typedef void (*qm_log_fn)(int32_t level, const char *text, void *user_data);

/** How far a load is. */
typedef struct qm_load_progress_t {
    /** Bytes of this struct that the library filled in; what is behind them is zero. */
    uint32_t struct_size;
    /** Share of the bytes that was read, 0 to 1. */
    float fraction;
    /** Bytes read so far, and written to a pack cache. Starts anew where a pack cache turns out to be damaged. */
    uint64_t done_bytes;
    /** Bytes that the load reads and writes; 0 until the files' headers are read. */
    uint64_t total_bytes;
    /** Microseconds since the load was started. */
    uint64_t elapsed_us;
} qm_load_progress_t;

/**
 * Receives the progress of a load, on the thread that called qm_load or qm_load_poll. `progress` is valid during the call
 * only. Returning anything but 0 cancels the load. It must not throw or jump out, and must not call qm_load_free for
 * this load.
 */
typedef int32_t (*qm_progress_fn)(const struct qm_load_progress_t *progress, void *user_data);

/**
 * How to load a model. Set it up with qm_load_options_init, then change what you like. Memory that it points to needs to
 * live only as long as the call that it is given to; callbacks and their user data live as long as the model.
 */
typedef struct qm_load_options_t {
    /** Bytes of this struct: set by qm_load_options_init. */
    uint32_t struct_size;
    /** QM_DEVICE_AUTOMATIC (the default), QM_DEVICE_CPU, or the number of a CUDA device from 0. */
    int32_t device;
    /** Bytes of device memory that the model may take; 0 (default): what is free. */
    uint64_t vram_budget;
    /** Bytes of RAM that the model may take; 0 (default): what is available. */
    uint64_t ram_budget;
    /** Positions that all streams can hold together; 0 (default): streams * context_length. */
    uint64_t kv_tokens;
    /** Positions that one stream can hold; 0 (default): the smaller of the model's own and 4096. */
    uint32_t context_length;
    /** Streams that can run at the same time (default 4); more wait in line. */
    uint32_t streams;
    /** Worker threads; 0 (default): one a physical core. */
    uint32_t threads;
    /**
     * Prompt tokens of one step, 8192 at most: fewer answer a cancel sooner, more read faster. 0 (default): 512; on a CUDA
     * device 2048, or 1024 or 512 where its memory does not suffice for more.
     */
    uint32_t prefill_chunk;
    /** Not 0: float32 activations, for comparisons with a reference. Slower. */
    uint32_t exact;
    /** The least important log level that is delivered (default QM_LOG_INFO). */
    int32_t log_level;
    /**
     * Folder of pack caches, UTF-8, made where there is none; NULL (default): no cache. The first load of a model writes
     * its weights there as it packed them, as large as they are in memory; later loads check every byte of that file, map
     * it, and take seconds. A cache that is stale or damaged is replaced. One that cannot be written does not fail the
     * load, nor does one of a device's weights for all of which RAM has no room: none is made, and the log says so. While a
     * model is loaded, nobody may truncate or overwrite its cache, or the process ends with SIGBUS; deleting it is
     * harmless. Models in memory have no cache.
     */
    const char *cache_dir;
    /** Receives log lines; NULL (default): nobody does. */
    qm_log_fn log;
    /** Given to `log`. */
    void *log_user_data;
    /** Receives progress; NULL (default): nobody does. */
    qm_progress_fn progress;
    /** Given to `progress`. */
    void *progress_user_data;
    /** How keys and values are stored: QM_KV_F16 (the default), QM_KV_Q8_0 or QM_KV_F32. With `exact` it is QM_KV_F32. */
    uint32_t kv;
    /**
     * Whose work a CUDA device takes first where other streams of this process use it, too: QM_PRIORITY_DEFAULT,
     * QM_PRIORITY_LOW or QM_PRIORITY_HIGH. A program that draws frames beside the model gives its own streams a high
     * priority. Without a CUDA device it has no effect.
     */
    uint32_t device_priority;
    /**
     * The CUcontext of the CUDA device `device` to work in; NULL (default): the device's primary context, which is what
     * programs that use the CUDA runtime work in. The caller goes on to own it, and must keep it alive until the model and
     * all of its streams are freed.
     */
    void *cuda_context;
    /**
     * Microseconds that one step may occupy the device, or the processor, at most; 0 (default): no bound. A host that draws
     * frames on the same device then waits no longer, as a rule: each step has as many rows of prompts as the time has room for,
     * `prefill_chunk` at most and one at least, as the steps before it tell. The first steps of a model, and those in which
     * the machine gets slower, are guesses, and may take longer. What cannot be cut is a step of one row for each stream.
     */
    int64_t max_step_us;
} qm_load_options_t;

/**
 * How to generate. Set it up with qm_generate_options_init, then change what you like. Memory that it points to needs to
 * live only as long as the call that it is given to.
 */
typedef struct qm_generate_options_t {
    /** Bytes of this struct: set by qm_generate_options_init. */
    uint32_t struct_size;
    /** Tokens to generate at most (default 512). */
    uint32_t max_tokens;
    /** Tokens before which the model does not end by itself (default 0). */
    uint32_t min_tokens;
    /** Not 0: generate on where the model would end by itself (default 0). */
    uint32_t ignore_eos;
    /** Divides the logits; 0 always takes the most likely token; negative (default): the model's own, else 1. */
    float temperature;
    /** Draws from the smallest set of tokens with this probability; negative (default): the model's own, else 1 (all). */
    float top_p;
    /** Drops tokens less likely than this share of the most likely one; negative (default): the model's own, else 0. */
    float min_p;
    /** Makes tokens seen in prompt and answer less likely (1: no change); negative (default): the model's own, else 1. */
    float repetition_penalty;
    /** Subtracted from the logits of tokens that were generated (default 0). */
    float presence_penalty;
    /** Subtracted from the logits of tokens that were generated, once for each time (default 0). */
    float frequency_penalty;
    /** Draws from this many most likely tokens; 0: from all; negative (default): the model's own, else all. */
    int32_t top_k;
    /** Number of texts in `stop`. */
    uint32_t stop_count;
    /** Key of the random draws (default 0): the same seed gives the same text, whatever else runs. */
    uint64_t seed;
    /** Microseconds from the call to the end of the generation at most; 0 (default): no limit. */
    int64_t deadline_us;
    /** UTF-8 texts that end the generation, and are not part of it; NULL (default) when stop_count is 0. */
    const char *const *stop;
} qm_generate_options_t;

/** Facts about a loaded model. */
typedef struct qm_model_info_t {
    /** Bytes of this struct that the library filled in; what is behind them is zero. */
    uint32_t struct_size;
    /** One of QM_FAMILY_*; later versions may know more. */
    uint32_t family;
    /** Parameters of the layers, the embedding and the head. */
    uint64_t parameters;
    /** Positions that all streams can hold together. */
    uint64_t kv_tokens;
    /** Token ids are below this; also the length of a row of logits. */
    uint32_t vocab;
    /** Width of the residual stream. */
    uint32_t hidden;
    /** Layers. */
    uint32_t layers;
    /** Layers with softmax attention. */
    uint32_t attention_layers;
    /** Layers with a Gated DeltaNet. */
    uint32_t delta_layers;
    /** Layers with routed experts. */
    uint32_t moe_layers;
    /** Routed experts of such a layer. */
    uint32_t experts;
    /** Routed experts that a token visits in such a layer. */
    uint32_t experts_per_token;
    /** Positions that one stream can hold in this load. */
    uint32_t context_length;
    /** Positions that the model can be used for, those counted by which its files extend it with YaRN. */
    uint32_t model_context_length;
    /** Streams that can run at the same time. */
    uint32_t streams;
    /** Worker threads. */
    uint32_t threads;
    /** Layers of the multi-token-prediction head in the file: recognised, not used. */
    uint32_t mtp_layers;
    /** 1 if qm_chat_open works: the model has a chat template. */
    uint32_t has_chat_template;
    /** 1 if the model has a tokenizer; without one only qm_eval works. */
    uint32_t has_tokenizer;
    /** A token that ends a generation; -1 if the model names none. There may be more than this one. */
    int32_t eos_id;
} qm_model_info_t;

/** Counts and times of one stream. */
typedef struct qm_stream_stats_t {
    /** Bytes of this struct that the library filled in; what is behind them is zero. */
    uint32_t struct_size;
    /** Why it ended: one of QM_FINISH_*. */
    uint32_t finish;
    /** Tokens of the prompt; 0 until it is tokenised. */
    uint64_t prompt_tokens;
    /** Prompt tokens read so far. */
    uint64_t prefilled_tokens;
    /** Tokens generated so far. */
    uint64_t generated_tokens;
    /** Microseconds before the first step: for the prompt to become tokens, and in line. */
    uint64_t queued_us;
    /** Microseconds from the first step to the first generated token. */
    uint64_t prefill_us;
    /** Microseconds from the first generated token to the last so far: (generated_tokens - 1) / decode_us is the speed. */
    uint64_t decode_us;
} qm_stream_stats_t;

/**
 * Use of the routed experts since the load. Every expert is in RAM for good, or in the device's memory where the model runs
 * there, and the numbers say so: each activation is a hit, nothing is missed, admitted or moved, and every expert is
 * resident.
 */
typedef struct qm_expert_stats_t {
    /** Bytes of this struct that the library filled in; what is behind them is zero. */
    uint32_t struct_size;
    /** 1 if the model has routed experts. */
    uint32_t has_experts;
    /** Times that a token visited an expert, over all layers. */
    uint64_t activations;
    /** Activations that found their expert in the memory where it is computed fastest. */
    uint64_t hits;
    /** Activations that did not. */
    uint64_t misses;
    /** Experts that were copied into that memory. */
    uint64_t admissions;
    /** Bytes of those copies. */
    uint64_t bytes_moved;
    /** Experts in that memory now. */
    uint64_t resident_experts;
    /** Routed experts of all layers. */
    uint64_t experts;
    /** hits / activations; 0 before the first activation. */
    double hit_rate;
} qm_expert_stats_t;

/** Bytes that a model holds, by what they hold: RAM and device memory (VRAM). */
typedef struct qm_memory_stats_t {
    /** Bytes of this struct that the library filled in; what is behind them is zero. */
    uint32_t struct_size;
    /** 0. */
    uint32_t reserved;
    /** RAM: all of the following together. */
    uint64_t ram_total;
    /** RAM: token embedding and head. */
    uint64_t ram_embeddings;
    /** RAM: weights of the attention layers. */
    uint64_t ram_attention;
    /** RAM: weights of the DeltaNet layers. */
    uint64_t ram_delta_net;
    /** RAM: routed experts. */
    uint64_t ram_experts;
    /** RAM: routers, shared experts, dense feed-forward layers and norms. */
    uint64_t ram_other;
    /** RAM: keys and values of the streams. */
    uint64_t ram_kv;
    /** RAM: recurrent states of the streams. */
    uint64_t ram_states;
    /** RAM: activations of one step. */
    uint64_t ram_workspace;
    /** VRAM: all of the following together; 0 without a GPU. */
    uint64_t vram_total;
    /** VRAM: token embedding and head. */
    uint64_t vram_embeddings;
    /** VRAM: weights of the attention layers. */
    uint64_t vram_attention;
    /** VRAM: weights of the DeltaNet layers. */
    uint64_t vram_delta_net;
    /** VRAM: routed experts. */
    uint64_t vram_experts;
    /** VRAM: routers, shared experts, dense feed-forward layers and norms. */
    uint64_t vram_other;
    /** VRAM: keys and values of the streams. */
    uint64_t vram_kv;
    /** VRAM: recurrent states of the streams. */
    uint64_t vram_states;
    /** VRAM: activations of one step. */
    uint64_t vram_workspace;
} qm_memory_stats_t;

/** What a load would take. */
typedef struct qm_fit_t {
    /** Bytes of this struct that the library filled in; what is behind them is zero. */
    uint32_t struct_size;
    /** 1 if the model would fit. */
    uint32_t fits;
    /** Positions that one stream could hold. */
    uint32_t context_length;
    /** Streams that could run at the same time. */
    uint32_t streams;
    /** Positions that all streams could hold together. */
    uint64_t kv_tokens;
    /** Bytes of RAM that the load takes at most: weights for a device pass through it in pieces. */
    uint64_t ram_required;
    /** Bytes of RAM that it may take: the smaller of the budget and what is available. */
    uint64_t ram_limit;
    /** Bytes of RAM that the machine has available now, within the limits of the process; 0: unknown. */
    uint64_t ram_available;
    /** Bytes of VRAM that the load takes. */
    uint64_t vram_required;
    /** Bytes of VRAM that it may take. */
    uint64_t vram_limit;
    /** Bytes that one more stream takes for its recurrent states. */
    uint64_t state_per_stream;
    /** Bytes that 1000 more positions take. */
    uint64_t kv_per_1000_tokens;
    /** RAM: token embedding and head. */
    uint64_t ram_embeddings;
    /** RAM: weights of the attention layers. */
    uint64_t ram_attention;
    /** RAM: weights of the DeltaNet layers. */
    uint64_t ram_delta_net;
    /** RAM: routed experts. */
    uint64_t ram_experts;
    /** RAM: routers, shared experts, dense feed-forward layers and norms. */
    uint64_t ram_other;
    /** RAM: keys and values of the streams. */
    uint64_t ram_kv;
    /** RAM: recurrent states of the streams. */
    uint64_t ram_states;
    /** RAM: activations of one step. */
    uint64_t ram_workspace;
    /** VRAM: token embedding and head. */
    uint64_t vram_embeddings;
    /** VRAM: weights of the attention layers. */
    uint64_t vram_attention;
    /** VRAM: weights of the DeltaNet layers. */
    uint64_t vram_delta_net;
    /** VRAM: routed experts. */
    uint64_t vram_experts;
    /** VRAM: routers, shared experts, dense feed-forward layers and norms. */
    uint64_t vram_other;
    /** VRAM: keys and values of the streams. */
    uint64_t vram_kv;
    /** VRAM: recurrent states of the streams. */
    uint64_t vram_states;
    /** VRAM: activations of one step. */
    uint64_t vram_workspace;
    /** What would make it fit, or a remark: NUL-terminated UTF-8, one or more sentences. */
    char advice[QM_FIT_ADVICE_SIZE];
} qm_fit_t;

/** Done as asked. */
#define QM_OK 0

/** Not there yet: ask again. */
#define QM_PENDING 1

/** The generation ended; every text was delivered. */
#define QM_DONE 2

/** An argument is not acceptable: NULL, not UTF-8, out of range. */
#define QM_ERR_INVALID_ARGUMENT (-1)

/** A struct comes from another version of the header, or was not set up by its init function. */
#define QM_ERR_ABI_MISMATCH (-2)

/** The operating system refused to open, read or write a file. */
#define QM_ERR_IO (-3)

/** A file is damaged, or is not what its format says it must be. */
#define QM_ERR_BAD_FILE (-4)

/** A well-formed file or a request asks for something this library or this model does not do. */
#define QM_ERR_UNSUPPORTED (-5)

/** No device of the asked kind is present, or this build has no support for it. */
#define QM_ERR_NO_DEVICE (-6)

/** The device's driver is older than the library needs. */
#define QM_ERR_DRIVER_TOO_OLD (-7)

/** The machine has no more memory. */
#define QM_ERR_OUT_OF_HOST_MEMORY (-8)

/** The device has no more memory. */
#define QM_ERR_OUT_OF_DEVICE_MEMORY (-9)

/** A load would take more memory than the caller allowed or the machine has. */
#define QM_ERR_OVER_BUDGET (-10)

/** A sequence reached the end of its context, or the memory shared by the streams is full. */
#define QM_ERR_CONTEXT_FULL (-11)

/** The caller cancelled the operation. */
#define QM_ERR_CANCELLED (-12)

/** There is no room for another request, or another thread is inside a call that needs the handle to itself. */
#define QM_ERR_BUSY (-13)

/** The device failed and cannot be used again by this model. */
#define QM_ERR_DEVICE_LOST (-14)

/** A defect of this library. */
#define QM_ERR_INTERNAL (-15)

/** A defect of this library that was stopped before it could reach the caller. */
#define QM_ERR_PANIC (-16)

/** A buffer is too small for any of what is to go into it. Nothing is lost: the needed size is reported. */
#define QM_ERR_BUFFER_TOO_SMALL (-17)

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/** The version of the library that is running, such as "0.1.0". Static: do not free it. */
const char *qm_version(void);

/**
 * The version of the library that is running, as major * 1000000 + minor * 1000 + patch: QM_VERSION_NUMBER is that of
 * the header.
 */
uint32_t qm_version_number(void);

/** QM_ABI_VERSION of the library that is running. A program that loads the library by itself should compare. */
uint32_t qm_abi_version(void);

/**
 * How the library was built and what it found, as a JSON object:
 *
 * - "version" (text), "abi" (number), "target" (text), "profile" (text);
 * - "features": a list of the parts that were compiled in: "cpu", "cuda";
 * - "cuda": the CUDA version that it was built with, such as "13.0", or null;
 * - "cuda_architectures": a list of the architectures that it has code for;
 * - "instruction_sets": a list of those extensions of this machine's processor that it knows;
 * - "cpu_isas": a list of the kernels' tiers that this processor can run, the best one last: "portable", "avx2",
 *   "avx-vnni", "avx512", "amx" or "neon";
 * - "cpu_isa": the tier that a load takes: the best, or the one that the environment variable QM_CPU_ISA names; null if
 *   that is none of the list, and every load then fails with QM_ERR_INVALID_ARGUMENT.
 *
 * Later versions may add keys. Static: do not free it.
 */
const char *qm_build_info(void);

/**
 * A short English name of a status, such as "context full". Never NULL; "unknown status" for codes that this version
 * does not know. The text is static: do not free it. Callable from any thread.
 */
const char *qm_status_str(qm_status status);

/**
 * The text of the last error that a function of this library returned to the calling thread: what was wrong, where
 * (file, tensor, field), and what would be right. Calls that succeed leave it as it is; it is empty before the first.
 *
 * Writes as many whole code points as fit into the `cap` bytes at `buf`, and a NUL behind them. Returns the bytes that
 * the whole text needs, its NUL included; a return value above `cap` means that the text was cut. `buf` may be NULL
 * when `cap` is 0. Other threads have their own last error.
 *
 * The caller promises:
 * `buf` has room for `cap` bytes.
 */
size_t qm_last_error(char *buf, size_t cap);

/**
 * Sets `o`, a struct of `size` bytes, to the defaults. Pass `sizeof *o`.
 * Errors: QM_ERR_INVALID_ARGUMENT (`o` is NULL), QM_ERR_ABI_MISMATCH (impossible size).
 *
 * The caller promises:
 * `o` is NULL or valid for writes of `size` bytes.
 */
qm_status qm_load_options_init(struct qm_load_options_t *o, size_t size);

/**
 * Sets `o`, a struct of `size` bytes, to the defaults. Pass `sizeof *o`.
 * Errors: QM_ERR_INVALID_ARGUMENT (`o` is NULL), QM_ERR_ABI_MISMATCH (impossible size).
 *
 * The caller promises:
 * `o` is NULL or valid for writes of `size` bytes.
 */
qm_status qm_generate_options_init(struct qm_generate_options_t *o, size_t size);

/**
 * Loads a model and waits for it. `path` (UTF-8): a GGUF file (the first one where it is split) or a directory in the
 * form of Hugging Face. `options`: NULL for the defaults. `*out`: yours, free it with qm_model_free; NULL on every error.
 *
 * The reading is done on another thread, which is gone when the function returns; the progress callback is called on the
 * calling thread, every 50 ms and at the end. Any number of threads may load at the same time.
 *
 * Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_IO, QM_ERR_BAD_FILE, QM_ERR_UNSUPPORTED,
 * QM_ERR_NO_DEVICE, QM_ERR_OVER_BUDGET (nothing was loaded; the text has the numbers), QM_ERR_OUT_OF_HOST_MEMORY,
 * QM_ERR_OUT_OF_DEVICE_MEMORY, QM_ERR_CANCELLED (by the progress callback).
 *
 * The caller promises:
 * `path` is NULL or NUL-terminated, `options` is NULL or a struct of its own size, `out` is NULL or valid for writes.
 */
qm_status qm_load(const char *path,
                  const struct qm_load_options_t *options,
                  struct qm_model **out);

/**
 * Starts to load a model on another thread, and returns at once. Arguments as for qm_load; `*out`: yours, free it with
 * qm_load_free; NULL on every error. Ask with qm_load_poll how far it is. The progress callback is called by
 * qm_load_poll. A wrong path or a damaged file is reported by qm_load_poll, not here.
 *
 * Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_OUT_OF_HOST_MEMORY.
 *
 * The caller promises:
 * As for qm_load.
 */
qm_status qm_load_start(const char *path, const struct qm_load_options_t *options, struct qm_load_op **out);

/**
 * Asks how far a load is. Never blocks. `progress`: a struct of `size` bytes (pass `sizeof *progress`), or NULL.
 *
 * Returns QM_PENDING while it is loading, then once QM_OK with the model in `*out`: yours, free it with qm_model_free;
 * `*out` is NULL otherwise. A load that failed returns its error at each call (those of qm_load). After QM_OK the op has
 * nothing more to give: QM_ERR_INVALID_ARGUMENT.
 *
 * The caller promises:
 * `op` is NULL or live, `progress` is NULL or valid for writes of `size` bytes, `out` is NULL or valid for writes.
 */
qm_status qm_load_poll(struct qm_load_op *op,
                       struct qm_load_progress_t *progress,
                       size_t size,
                       struct qm_model **out);

/**
 * Asks a load to stop; it ends with QM_ERR_CANCELLED, which qm_load_poll reports, unless it was complete before. That
 * takes as long as reading a few megabytes of weights, reading the tokenizer or setting up the memory of one layer's
 * streams, whichever it is at. Returns at once. Callable from any thread at any time before qm_load_free.
 * Errors: QM_ERR_INVALID_ARGUMENT (`op` is NULL).
 *
 * The caller promises:
 * `op` is NULL or live.
 */
qm_status qm_load_cancel(struct qm_load_op *op);

/**
 * Frees a load. One that is still running is cancelled first, and the function waits for its thread to end: see
 * qm_load_cancel for how long that takes. A model that was taken from it lives on; one that was not is freed. NULL does
 * nothing.
 *
 * The caller promises:
 * `op` is NULL or live, and not used again.
 */
void qm_load_free(struct qm_load_op *op);

/**
 * Frees a model. Streams that it still has go on and keep what they need; the last of them to be freed waits for the step
 * in progress and for a prompt that is being tokenised, ends the model's threads and gives its memory back. NULL does
 * nothing.
 *
 * The caller promises:
 * `m` is NULL or live, and not used again.
 */
void qm_model_free(struct qm_model *m);

/**
 * Writes facts about the model to `out`, a struct of `size` bytes (pass `sizeof *out`).
 * Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH (impossible size).
 *
 * The caller promises:
 * `m` is NULL or live, `out` is NULL or valid for writes of `size` bytes.
 */
qm_status qm_model_info(const struct qm_model *m, struct qm_model_info_t *out, size_t size);

/**
 * Continues `prompt` and waits for the whole text. `prompt` (UTF-8) is continued as it is, without a chat template;
 * special tokens that are spelled out in it are recognised. `o`: NULL for the defaults.
 *
 * Writes the text and a NUL to the `cap` bytes at `buf`, and its length without the NUL to `*len`. If it does not fit:
 * QM_ERR_BUFFER_TOO_SMALL, the whole code points that fit are in `buf`, and `*len` is the `cap` that is needed; the same
 * call with that much room gives the same text. If the generation fails, `buf` and `*len` hold the text until then.
 * Blocks; use a stream to see text early or to cancel, and `deadline_us` to limit the time.
 *
 * Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_BUFFER_TOO_SMALL, QM_ERR_CONTEXT_FULL, QM_ERR_BUSY,
 * QM_ERR_UNSUPPORTED (no tokenizer), QM_ERR_DEVICE_LOST.
 *
 * The caller promises:
 * `m` is NULL or live, `prompt` is NULL or NUL-terminated, `o` is NULL or a struct of its own size, `buf` has room for
 * `cap` bytes, `len` is NULL or valid for writes.
 */
qm_status qm_generate(struct qm_model *m,
                      const char *prompt,
                      const struct qm_generate_options_t *o,
                      char *buf,
                      size_t cap,
                      size_t *len);

/**
 * Starts to continue `prompt`, and returns at once, however long `prompt` is: it is copied, and tokenised on a thread of
 * the library. `prompt` and `o` as for qm_generate. `*out`: yours, free it with qm_stream_free; NULL on every error. Fetch
 * the text with qm_stream_next, which also returns what is wrong with the prompt: QM_ERR_INVALID_ARGUMENT (it is empty)
 * or QM_ERR_CONTEXT_FULL (it has too many tokens).
 *
 * Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_CONTEXT_FULL (the prompt has more bytes than the context
 * could ever hold), QM_ERR_BUSY, QM_ERR_UNSUPPORTED (no tokenizer).
 *
 * The caller promises:
 * `m` is NULL or live, `prompt` is NULL or NUL-terminated, `o` is NULL or a struct of its own size, `out` is NULL or
 * valid for writes.
 */
qm_status qm_stream_open(struct qm_model *m,
                         const char *prompt,
                         const struct qm_generate_options_t *o,
                         struct qm_stream **out);

/**
 * Starts an answer in a chat, and returns at once. `messages_json` (UTF-8): a JSON array of messages, oldest first, such
 * as `[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]`, which the model's own chat
 * template turns into a prompt. That too is done on a thread of the library: QM_ERR_INVALID_ARGUMENT, where the JSON is
 * not such an array or the template refuses it, is returned by qm_stream_next. The rest is as for qm_stream_open.
 *
 * Errors: those of qm_stream_open; QM_ERR_UNSUPPORTED also where the model has no chat template.
 *
 * The caller promises:
 * As for qm_stream_open.
 */
qm_status qm_chat_open(struct qm_model *m,
                       const char *messages_json,
                       const struct qm_generate_options_t *o,
                       struct qm_stream **out);

/**
 * Fetches the text that was generated since the last call. `timeout_us`: how many microseconds to wait for some; 0 never
 * blocks, negative waits as long as it takes. Other threads' calls for other streams do not wait for this one.
 *
 * - QM_OK: `buf` holds text, never empty, of whole UTF-8 code points with a NUL behind them; `*len` is its length without
 *   the NUL. Text that did not fit comes with the next calls: any `cap` of 5 or more always makes progress.
 * - QM_PENDING: nothing within the time. `*len` is 0.
 * - QM_DONE: the generation ended, and so does each later call. `*len` is 0. qm_stream_stats knows why it ended.
 * - QM_ERR_BUFFER_TOO_SMALL: `cap` has no room for even one code point and the NUL. Nothing is lost: the same text comes
 *   next time, and `*len` is the `cap` that takes all of it.
 * - Another error: `*len` is 0. QM_ERR_CANCELLED, QM_ERR_CONTEXT_FULL, QM_ERR_OUT_OF_HOST_MEMORY, QM_ERR_DEVICE_LOST,
 *   QM_ERR_INTERNAL, QM_ERR_PANIC and, for a prompt that is empty or no chat, QM_ERR_INVALID_ARGUMENT ended the
 *   generation, after all text until then was delivered, and come again at each call; qm_stream_error has the text.
 *   QM_ERR_BUSY (another thread is in this function with this stream) and QM_ERR_INVALID_ARGUMENT for an argument of
 *   this function change nothing.
 *
 * The caller promises:
 * `s` is NULL or live, `buf` has room for `cap` bytes, `len` is NULL or valid for writes.
 */
qm_status qm_stream_next(struct qm_stream *s,
                         char *buf,
                         size_t cap,
                         size_t *len,
                         int64_t timeout_us);

/**
 * Ends a generation at its next step, or when its prompt is tokenised. Text that was generated until then can still be fetched; then qm_stream_next
 * returns QM_ERR_CANCELLED. Returns at once; does nothing to a generation that has ended. Callable from any thread at any
 * time before qm_stream_free. Errors: QM_ERR_INVALID_ARGUMENT (`s` is NULL).
 *
 * The caller promises:
 * `s` is NULL or live.
 */
qm_status qm_stream_cancel(const struct qm_stream *s);

/**
 * Writes counts and times of a stream to `out`, a struct of `size` bytes (pass `sizeof *out`). Callable while another
 * thread is in qm_stream_next. Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH (impossible size).
 *
 * The caller promises:
 * `s` is NULL or live, `out` is NULL or valid for writes of `size` bytes.
 */
qm_status qm_stream_stats(const struct qm_stream *s, struct qm_stream_stats_t *out, size_t size);

/**
 * The text of the error that ended a stream, as qm_stream_next returned it to whichever thread; empty if there was none
 * or `s` is NULL. Writes as many whole code points as fit into the `cap` bytes at `buf`, and a NUL behind them. Returns
 * the bytes that the whole text needs, its NUL included. `buf` may be NULL when `cap` is 0.
 *
 * The caller promises:
 * `s` is NULL or live, `buf` has room for `cap` bytes.
 */
size_t qm_stream_error(const struct qm_stream *s, char *buf, size_t cap);

/**
 * Frees a stream, and cancels it if it is running; does not wait for its end, unless the model was freed before and this
 * is the last of its streams. NULL does nothing.
 *
 * The caller promises:
 * `s` is NULL or live, and not used again.
 */
void qm_stream_free(struct qm_stream *s);

/**
 * Turns the `len` bytes of UTF-8 at `text` (no NUL needed) into token ids. `flags`: 0 or QM_TEXT_SPECIAL. Writes the ids
 * to `ids`, which has room for `cap`, and their number to `*n`. `ids` may be NULL when `cap` is 0: then only `*n` is
 * written. If they do not fit: QM_ERR_BUFFER_TOO_SMALL, `*n` is the `cap` that is needed, and nothing is written to
 * `ids`.
 *
 * Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_BUFFER_TOO_SMALL, QM_ERR_UNSUPPORTED (the model has no tokenizer).
 *
 * The caller promises:
 * `m` is NULL or live, `text` points to `len` bytes, `ids` has room for `cap` numbers, `n` is NULL or valid for writes.
 */
qm_status qm_tokenize(const struct qm_model *m,
                      const char *text,
                      size_t len,
                      uint32_t flags,
                      int32_t *ids,
                      size_t cap,
                      size_t *n);

/**
 * Turns the `n` token ids at `ids` into text. `flags`: 0 or QM_TEXT_SPECIAL. Writes the text and a NUL to the `cap` bytes
 * at `buf`, and its length without the NUL to `*len`; bytes that are not UTF-8 become U+FFFD. `buf` may be NULL when
 * `cap` is 0: then `*len` is the `cap` that is needed, which counts the NUL. If it does not fit:
 * QM_ERR_BUFFER_TOO_SMALL, `*len` is the `cap` that is needed, and the whole code points that fit are in `buf`.
 *
 * Errors: QM_ERR_INVALID_ARGUMENT (also: an id that the model does not have), QM_ERR_BUFFER_TOO_SMALL,
 * QM_ERR_UNSUPPORTED (the model has no tokenizer).
 *
 * The caller promises:
 * `m` is NULL or live, `ids` points to `n` numbers, `buf` has room for `cap` bytes, `len` is NULL or valid for writes.
 */
qm_status qm_detokenize(const struct qm_model *m,
                        const int32_t *ids,
                        size_t n,
                        uint32_t flags,
                        char *buf,
                        size_t cap,
                        size_t *len);

/**
 * Computes the logits behind each of the `n` token ids at `ids`, beside the streams that run: `n` rows of as many numbers
 * as the model's vocabulary has (qm_model_info_t.vocab), row by row, to `logits`, which has room for `cap` numbers; their
 * number goes to `*len`. `logits` may be NULL when `cap` is 0: then nothing is computed and only `*len` is written. If
 * they do not fit: QM_ERR_BUFFER_TOO_SMALL, `*len` is the `cap` that is needed, and nothing is computed. Blocks.
 *
 * Errors: QM_ERR_INVALID_ARGUMENT (also: no ids, or an id that the model does not have), QM_ERR_BUFFER_TOO_SMALL,
 * QM_ERR_CONTEXT_FULL (more ids than one stream can hold), QM_ERR_BUSY, QM_ERR_OUT_OF_HOST_MEMORY, QM_ERR_DEVICE_LOST.
 *
 * The caller promises:
 * `m` is NULL or live, `ids` points to `n` numbers, `logits` has room for `cap` numbers, `len` is NULL or valid for
 * writes.
 */
qm_status qm_eval(struct qm_model *m,
                  const int32_t *ids,
                  size_t n,
                  float *logits,
                  size_t cap,
                  size_t *len);

/**
 * Writes the use of the routed experts since the load to `out`, a struct of `size` bytes (pass `sizeof *out`). Takes no
 * lock that a running generation needs. Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH (impossible size).
 *
 * The caller promises:
 * `m` is NULL or live, `out` is NULL or valid for writes of `size` bytes.
 */
qm_status qm_expert_stats(const struct qm_model *m, struct qm_expert_stats_t *out, size_t size);

/**
 * Writes how often each routed expert of layer `layer` (from 0) was visited since the load to `counts`, which has room
 * for `cap` numbers, and their number to `*n`. `counts` may be NULL when `cap` is 0: then only `*n` is written. If they
 * do not fit: QM_ERR_BUFFER_TOO_SMALL, `*n` is the `cap` that is needed, and nothing is written to `counts`.
 *
 * Errors: QM_ERR_INVALID_ARGUMENT (also: no such layer, or one without experts), QM_ERR_BUFFER_TOO_SMALL.
 *
 * The caller promises:
 * `m` is NULL or live, `counts` has room for `cap` numbers, `n` is NULL or valid for writes.
 */
qm_status qm_expert_counts(const struct qm_model *m, uint32_t layer, uint64_t *counts, size_t cap, size_t *n);

/**
 * Writes the memory that a model holds to `out`, a struct of `size` bytes (pass `sizeof *out`).
 * Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH (impossible size).
 *
 * The caller promises:
 * `m` is NULL or live, `out` is NULL or valid for writes of `size` bytes.
 */
qm_status qm_memory_stats(const struct qm_model *m, struct qm_memory_stats_t *out, size_t size);

/**
 * Finds what loading `path` with the options `o` would take, from the files' headers, without loading. Arguments as for
 * qm_load; the result goes to `out`, a struct of `size` bytes (pass `sizeof *out`). A model that is too large is no
 * error: `fits` is 0 and `advice` says what would help. Calls no callbacks.
 *
 * Errors: QM_ERR_INVALID_ARGUMENT, QM_ERR_ABI_MISMATCH, QM_ERR_IO, QM_ERR_BAD_FILE, QM_ERR_UNSUPPORTED,
 * QM_ERR_NO_DEVICE.
 *
 * The caller promises:
 * `path` is NULL or NUL-terminated, `o` is NULL or a struct of its own size, `out` is NULL or valid for writes of `size`
 * bytes.
 */
qm_status qm_fit(const char *path,
                 const struct qm_load_options_t *o,
                 struct qm_fit_t *out,
                 size_t size);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* QWEN3MOE_H */
