// What the host hands to the kernels. Plain structs of pointers and 32-bit numbers, the same bytes on both sides:
// `src/cuda` mirrors them. Every pointer is device memory. Counts are elements, not bytes, unless a name says bytes.
#pragma once
#include <cstdint>

// Order of `quant::Format::ALL`.
enum Format : uint32_t {
    F32 = 0,
    F16 = 1,
    BF16 = 2,
    Q8_0 = 3,
    Q4_0 = 4,
    Q4_K = 5,
    Q5_K = 6,
    Q6_K = 7,
    BNB4 = 8,
    INT4_32 = 9,
    INT4_64 = 10,
    INT4_128 = 11,
    INT4_256 = 12,
};

// A weight [rows, cols], packed in strips of 16 rows (src/quant/packed) or row-major as stored.
struct Matrix {
    const uint8_t* data;
    const float* codebook;  // [16], Bnb4 only
    const float* absmax;    // [blocks], stored Bnb4 only: one for each `block_size` values of the flat matrix
    const uint32_t* order;  // [cols], packed group int4 in activation order only: which input each packed column takes
    uint32_t rows;
    uint32_t cols;
    uint32_t format;
    uint32_t packed;       // 1: strips, 0: as stored
    uint32_t strip_bytes;  // packed only
    uint32_t block_size;   // stored Bnb4 only
};

// The token of a row that goes on with what the step before chose for its slot.
const uint32_t TOKEN_CHOSEN = 0xffffffff;

// One row of the step.
struct Row {
    uint32_t token;  // or TOKEN_CHOSEN
    uint32_t position;
    uint32_t sequence;  // index into the step's sequences
    uint32_t slot;
};

// The rows of one sequence: contiguous, in the order of their positions.
struct Sequence {
    uint32_t first_row;
    uint32_t rows;
    uint32_t position;    // of the first row
    uint32_t slot;
    uint32_t first_page;  // where its page numbers start in the step's list of pages
    uint32_t unused[3];
};

struct EmbedArgs {
    Matrix embedding;          // [vocab, hidden]
    const Row* rows;           // [count]
    float* x;                  // [count, hidden]
    const float* frequencies;  // [pairs]; null where the model has no attention
    float* angles;             // [count, 2, pairs]: cosines, then sines, times `angle_scale`
    const uint32_t* chosen;    // [slots]: the token that the step before chose for each
    float angle_scale;
    uint32_t pairs;
    uint32_t count;
    uint32_t unused;
};

// Where rows go that the kernel which has computed them quantises, one behind another, or come from: tiles of 32 columns, or
// halves of them, with a scale each.
struct QuantisedRow {
    uint32_t* codes;  // four columns a word; null: there is none
    float2* factors;  // scale, and scale times the sum of the codes
};

struct NormArgs {
    const float* x;        // [*, width]
    const float* weight;   // [width]
    float* out;            // [count, width] or null
    const uint32_t* pick;  // [count]: which rows of `x`; null: 0, 1, ...
    QuantisedRow row;      // the same quantised, by tiles: only where `width` is whole tiles
    float eps;
    uint32_t width;
    uint32_t count;
    uint32_t early;        // 1: the kernel behind starts before this one's wait, see common/device.cuh
};

// out[i, r] = matrix[r] · input[i] + bias[r]
struct Product {
    Matrix matrix;
    const float* bias;  // [matrix.rows] or null
    float* out;         // [count, out_stride]
    uint32_t out_stride;
    uint32_t unused;
};

const uint32_t PRODUCTS = 4;

// Forms of an input in shared memory. Matrices that take int8 (packed, of any format but F16 and BF16, without `order`)
// do so where INPUT_INT8 is set, which quantises the input; all others take floats.
const uint32_t INPUT_FLOATS = 1;
const uint32_t INPUT_INT8 = 2;

// Up to four products with one row, or with up to eight quantised ones.
struct ProductsArgs {
    Product products[PRODUCTS];
    const float* input;    // [*, input_stride]
    const float* norm;     // [cols]: the input is x / sqrt(mean(x²) + eps) * norm; null: x
    const uint32_t* pick;  // [1]: which row of `input`; null: the first
    float eps;
    uint32_t products_count;
    uint32_t input_stride;
    uint32_t cols;   // of every matrix
    uint32_t add;    // 1: add to what `out` holds
    uint32_t forms;  // INPUT_FLOATS, INPUT_INT8 or both: what the matrices take
    uint32_t slots;    // kernels of one format: blocks of 256 columns that each warp keeps in shared memory
    uint32_t early;    // `products_1_f32`: 1 where the kernel behind reads nothing but weights before its wait
    QuantisedRow row;  // kernels of one format: takes the place of `input`, by tiles; without `norm`
    uint32_t count;    // `products_8_*`: rows of `row`
    uint32_t unused;
};

struct AttentionArgs {
    const float* queries;     // [rows, heads, query_stride]: head_dim channels, then the gate's where gated
    const float* keys;        // [rows, kv_heads, head_dim], as projected
    const float* values;      // [rows, kv_heads, head_dim]
    const float* query_norm;  // [head_dim]
    const float* key_norm;    // [head_dim]
    const float* angles;      // [rows, 2, pairs]
    void* key_pages;          // [pages, kv_heads, page_tokens, head_dim] of this layer: f32, f16 or int8
    void* value_pages;
    void* key_scales;  // f16 [pages, kv_heads, page_tokens, head_dim / 32], Q8_0 only
    void* value_scales;
    const Row* rows;
    const Sequence* sequences;
    const uint32_t* pages;
    float* out;          // [rows, heads, head_dim]
    float* partials;     // [rows, heads, splits, head_dim + 4]: see attention/head.cuh; unused with one split
    uint32_t* counters;  // [rows, kv_heads * ceil(group / 8)], zero, and left so
    float eps;
    uint32_t count;  // rows
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t head_dim;  // at most 256
    uint32_t query_stride;
    uint32_t pairs;
    uint32_t page_tokens;
    uint32_t splits;
    uint32_t gated;
};

// Where a part of key head `k`, or of its value head number `i`, starts in a row: base + k * step + i * index_step.
struct Place {
    uint32_t base;
    uint32_t step;
    uint32_t index_step;
};

struct DeltaArgs {
    const float* qkv;  // [rows, qkv_stride]
    const float* z;    // [rows, z_stride]
    const float* b;    // [rows, b_stride]
    const float* a;    // [rows, a_stride]
    const float* conv;     // [taps, channels]
    const float* decay;    // [value_heads], -exp(A_log)
    const float* dt_bias;  // [value_heads]
    const float* norm;     // [value_dim]
    float* conv_state;     // [slots, taps, channels]: inputs of position p at p % taps, in the order of `conv`
    float* states;         // [slots, value_heads, key_dim, value_dim]
    float* recent;         // [slots, value_heads], heads of 128 channels only: see delta_net/recent.cuh
    float* convolved;      // [rows, channels], only with many rows
    uint8_t* chunks;       // what delta_prepare hands to delta_scan: see delta_net/chunk.cuh
    float* out;            // [rows, value_heads, value_dim]
    QuantisedRow row;      // what single rows of sequences are quantised to, by tiles
    const Sequence* sequences;
    float eps;
    uint32_t sequences_count;
    uint32_t key_heads;
    uint32_t ratio;  // value heads of a key head
    uint32_t key_dim;
    uint32_t value_dim;
    uint32_t taps;
    uint32_t channels;  // 2 key_heads key_dim + value_heads value_dim
    uint32_t qkv_stride;
    uint32_t z_stride;
    uint32_t b_stride;
    uint32_t a_stride;
    Place q;  // in a row of qkv
    Place k;
    Place v;
    Place z_place;
    Place b_place;
    Place a_place;
    Place head;  // number of the value head in the flat order: of states, decay, dt_bias, out and the conv's channels
    uint32_t unused;
};

struct Expert {
    Matrix gate;  // [width, hidden]
    Matrix up;    // [width, hidden]
    Matrix down;  // [hidden, width]
};

// Rows of one expert that a block takes together.
struct Item {
    uint32_t expert;
    uint32_t first;  // entry
    uint32_t count;
    uint32_t unused;
};

// A Mixture-of-Experts or dense layer: `experts` routed experts (0 in a dense layer) and, behind them in `table`, the shared
// expert (or the dense SwiGLU) where `shared_width` is not 0. Entries are the (row, choice) pairs grouped by expert,
// `count * top_k` of them, then one for each row with the shared expert.
struct MoeArgs {
    Expert routed;             // the first routed expert, whose codebook all have; their data and scales lie `spacing` bytes apart
    Expert shared;             // only with `shared_width`
    uint64_t spacing;          // 0: the routed experts are not alike, and only the table tells of them
    const Expert* table;       // [experts + 1]
    const float* logits;       // [count, experts] of the router
    const float* shared_gate;  // [count], before the sigmoid; null: 1
    const float* input;        // [count, hidden]: the residual stream, or normed rows where `norm` is null
    const float* norm;         // [hidden] or null
    float* x;                  // [count, hidden]: residual stream, added to
    uint32_t* choices;         // [count, top_k]: experts of each row, best first
    float* shares;             // [count, top_k]
    uint32_t* entry_rows;      // [entries]: row of each entry
    uint32_t* entry_of;        // [count, top_k]: entry of each choice; null: entries are in the order of the choices
    Item* items;               // [max_items]
    uint32_t* item_count;      // [1]
    float* activations;        // [entries of routed experts, width], then [count, shared_width]
    float* outputs;            // [entries, hidden]: only with several rows
    QuantisedRow row;          // the activations of a single row, or of few rows, by halves of tiles
    float eps;
    uint32_t experts;
    uint32_t top_k;
    uint32_t width;
    uint32_t shared_width;
    uint32_t hidden;
    uint32_t count;  // rows
    uint32_t normalise;
    uint32_t max_items;
    uint32_t gate_up_forms;  // of `input`, as in ProductsArgs
    uint32_t down_forms;     // of `activations`
    uint32_t item_rows;      // entries of an item at most: 1 for kernels of one row; 2, 4 or 8 for those of many
    uint32_t gate_up_slots;  // kernels of one row: blocks of 256 columns that each warp keeps in shared memory; of few: pairs
    uint32_t down_slots;
};

// A feed-forward half, and the norm of its rows for the layer behind.
struct CombineNormArgs {
    MoeArgs moe;
    NormArgs norm;  // of `moe.x`, all rows: what else it knows of its input is not read
};

// What a row of logits is for.
const uint32_t SAMPLE_CHOOSE = 1;     // a token is chosen; without it, nothing is
const uint32_t SAMPLE_GREEDY = 2;     // the most likely one
const uint32_t SAMPLE_PENALTIES = 4;  // by what the slot has seen
const uint32_t SAMPLE_NO_END = 8;     // none that ends a text

// How the token of a row of logits is chosen (src/model/sampling.rs).
struct SampleRow {
    uint64_t seed;
    uint64_t index;         // tokens that the stream chose before
    uint64_t top_p;         // in units of 2^-64; 0: all
    uint64_t least_weight;  // what min-p leaves at least, of 2^44
    float temperature;
    float repetition_penalty;
    float presence_penalty;
    float frequency_penalty;
    uint32_t top_k;  // 0: all
    uint32_t flags;
    uint32_t slot;
    uint32_t unused;
};

const uint32_t SAMPLE_CHOSEN = 1;
const uint32_t SAMPLE_NOT_FINITE = 2;  // of `token` the logit, whose bits are `logit`
const uint32_t SAMPLE_NONE_LEFT = 3;

struct SampleResult {
    uint32_t token;
    uint32_t status;
    uint32_t logit;
    uint32_t unused;
};

// How far the blocks of a row are: zero between steps.
struct SampleProgress {
    uint32_t blocks;   // that are done
    uint32_t largest;  // key of the largest logit
    uint32_t wrong;    // ~id of the first token whose logit is not finite
    uint32_t unused;
    unsigned long long total;  // weight of all tokens; greedy: key of the largest logit, and ~id of the first that has it
    unsigned long long unused_too;
};

struct SampleArgs {
    float* logits;             // [count, vocab], which penalties change
    const SampleRow* rows;     // [count]; no two of one slot
    uint32_t* history;         // [slots, vocab]: how often each token was chosen; bit 31: it is in the prompt
    const uint32_t* ends;      // [ceil(vocab / 32)]: a bit for each token that ends a text
    uint32_t* chosen;          // [slots]
    SampleResult* results;     // [count]
    SampleProgress* progress;  // [slots]
    uint32_t* largest;         // [slots, groups]: the largest key of each 128 tokens
    unsigned long long* sums;  // [slots, groups]: the weight of each 128 tokens
    uint32_t* counts;          // [slots, 4096], zero between steps: tokens by the first bits of their keys
    unsigned long long* weights;  // [slots, 4096], zero between steps: their weights
    uint32_t vocab;
    uint32_t groups;  // ceil(vocab / 128)
};

static_assert(sizeof(SampleRow) == 64 && sizeof(SampleResult) == 16 && sizeof(SampleProgress) == 32);
static_assert(sizeof(SampleArgs) == 96);
static_assert(sizeof(Matrix) == 56 && sizeof(Product) == 80 && sizeof(Expert) == 168 && sizeof(Item) == 16);
static_assert(sizeof(Row) == 16 && sizeof(Sequence) == 32 && sizeof(EmbedArgs) == 112 && sizeof(NormArgs) == 64);
static_assert(sizeof(ProductsArgs) == 400 && sizeof(AttentionArgs) == 168 && sizeof(DeltaArgs) == 272);
static_assert(sizeof(MoeArgs) == 528 && sizeof(CombineNormArgs) == 592);
