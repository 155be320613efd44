//! What the host hands to the kernels: the mirror of `kernels/common/args.cuh`, where every field is explained.

use super::memory::{DevicePtr, Plain};
use crate::quant::{Format, Group};

/// Declares structs of the kernels, and their sizes as the kernels see them.
macro_rules! structs {
    ($($(#[$doc:meta])* $name:ident, $bytes:literal { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct $name { $(pub $field: $kind),* }

        const _: () = assert!(size_of::<$name>() == $bytes);

        // SAFETY: numbers and device addresses, and as many bytes as the fields have, so that none is padding.
        unsafe impl Plain for $name {}
        const _: () = assert!(0 $(+ size_of::<$kind>())* == $bytes);
    )*};
}

structs! {
    /// A weight.
    Matrix, 56 {
        data: DevicePtr<u8>,
        codebook: DevicePtr<f32>,
        absmax: DevicePtr<f32>,
        order: DevicePtr<u32>,
        rows: u32,
        cols: u32,
        format: u32,
        packed: u32,
        strip_bytes: u32,
        block_size: u32,
    }

    /// One row of the step.
    Row, 16 { token: u32, position: u32, sequence: u32, slot: u32 }

    /// The rows of one sequence.
    Sequence, 32 {
        first_row: u32,
        rows: u32,
        position: u32,
        slot: u32,
        first_page: u32,
        unused: [u32; 3],
    }

    /// Embeddings and rotary angles.
    EmbedArgs, 112 {
        embedding: Matrix,
        rows: DevicePtr<Row>,
        x: DevicePtr<f32>,
        frequencies: DevicePtr<f32>,
        angles: DevicePtr<f32>,
        chosen: DevicePtr<u32>,
        angle_scale: f32,
        pairs: u32,
        count: u32,
        unused: u32,
    }

    /// How the token of a row of logits is chosen.
    SampleRow, 64 {
        seed: u64,
        index: u64,
        top_p: u64,
        least_weight: u64,
        temperature: f32,
        repetition_penalty: f32,
        presence_penalty: f32,
        frequency_penalty: f32,
        top_k: u32,
        flags: u32,
        slot: u32,
        unused: u32,
    }

    /// What came of it.
    SampleResult, 16 { token: u32, status: u32, logit: u32, unused: u32 }

    /// How far the blocks of a row are.
    SampleProgress, 32 { blocks: u32, largest: u32, wrong: u32, unused: u32, total: u64, unused_too: u64 }

    /// The choice of tokens.
    SampleArgs, 96 {
        logits: DevicePtr<f32>,
        rows: DevicePtr<SampleRow>,
        history: DevicePtr<u32>,
        ends: DevicePtr<u32>,
        chosen: DevicePtr<u32>,
        results: DevicePtr<SampleResult>,
        progress: DevicePtr<SampleProgress>,
        largest: DevicePtr<u32>,
        sums: DevicePtr<u64>,
        counts: DevicePtr<u32>,
        weights: DevicePtr<u64>,
        vocab: u32,
        groups: u32,
    }

    /// A norm of rows.
    NormArgs, 64 {
        x: DevicePtr<f32>,
        weight: DevicePtr<f32>,
        out: DevicePtr<f32>,
        pick: DevicePtr<u32>,
        row: QuantisedRow,
        eps: f32,
        width: u32,
        count: u32,
        early: u32,
    }

    /// One of the products of a launch.
    Product, 80 {
        matrix: Matrix,
        bias: DevicePtr<f32>,
        out: DevicePtr<f32>,
        out_stride: u32,
        unused: u32,
    }

    /// Rows, quantised by the kernel that has computed them.
    QuantisedRow, 16 { codes: DevicePtr<u32>, factors: DevicePtr<f32> }

    /// Products with one row, or with up to eight quantised ones.
    ProductsArgs, 400 {
        products: [Product; 4],
        input: DevicePtr<f32>,
        norm: DevicePtr<f32>,
        pick: DevicePtr<u32>,
        eps: f32,
        products_count: u32,
        input_stride: u32,
        cols: u32,
        add: u32,
        forms: u32,
        slots: u32,
        early: u32,
        row: QuantisedRow,
        count: u32,
        unused: u32,
    }

    /// Attention between the projections.
    AttentionArgs, 168 {
        queries: DevicePtr<f32>,
        keys: DevicePtr<f32>,
        values: DevicePtr<f32>,
        query_norm: DevicePtr<f32>,
        key_norm: DevicePtr<f32>,
        angles: DevicePtr<f32>,
        key_pages: DevicePtr<u8>,
        value_pages: DevicePtr<u8>,
        key_scales: DevicePtr<u16>,
        value_scales: DevicePtr<u16>,
        rows: DevicePtr<Row>,
        sequences: DevicePtr<Sequence>,
        pages: DevicePtr<u32>,
        out: DevicePtr<f32>,
        partials: DevicePtr<f32>,
        counters: DevicePtr<u32>,
        eps: f32,
        count: u32,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        query_stride: u32,
        pairs: u32,
        page_tokens: u32,
        splits: u32,
        gated: u32,
    }

    /// Where a part of a key head starts.
    Place, 12 { base: u32, step: u32, index_step: u32 }

    /// DeltaNet between the projections.
    DeltaArgs, 272 {
        qkv: DevicePtr<f32>,
        z: DevicePtr<f32>,
        b: DevicePtr<f32>,
        a: DevicePtr<f32>,
        conv: DevicePtr<f32>,
        decay: DevicePtr<f32>,
        dt_bias: DevicePtr<f32>,
        norm: DevicePtr<f32>,
        conv_state: DevicePtr<f32>,
        states: DevicePtr<f32>,
        recent: DevicePtr<f32>,
        convolved: DevicePtr<f32>,
        chunks: DevicePtr<u8>,
        out: DevicePtr<f32>,
        row: QuantisedRow,
        sequences: DevicePtr<Sequence>,
        eps: f32,
        sequences_count: u32,
        key_heads: u32,
        ratio: u32,
        key_dim: u32,
        value_dim: u32,
        taps: u32,
        channels: u32,
        qkv_stride: u32,
        z_stride: u32,
        b_stride: u32,
        a_stride: u32,
        q: Place,
        k: Place,
        v: Place,
        z_place: Place,
        b_place: Place,
        a_place: Place,
        head: Place,
        unused: u32,
    }

    /// A SwiGLU.
    Expert, 168 { gate: Matrix, up: Matrix, down: Matrix }

    /// Rows of one expert that a block takes together.
    Item, 16 { expert: u32, first: u32, count: u32, unused: u32 }

    /// Values to be quantised.
    QuantiseArgs, 32 {
        input: DevicePtr<f32>,
        codes: DevicePtr<u32>,
        factors: DevicePtr<f32>,
        tiles: u32,
        early: u32,
    }

    /// Products with one quantised input.
    TileProductsArgs, 368 {
        products: [Product; 4],
        codes: DevicePtr<u32>,
        factors: DevicePtr<f32>,
        products_count: u32,
        cols: u32,
        count: u32,
        add: u32,
        rows: u32,
        room: u32,
        split: u32,
        unused: u32,
    }

    /// Products with one input in float32.
    TileFloatsArgs, 368 {
        products: [Product; 4],
        input: DevicePtr<f32>,
        parts: DevicePtr<f32>,
        counters: DevicePtr<u32>,
        products_count: u32,
        cols: u32,
        count: u32,
        add: u32,
        columns: u32,
        unused: u32,
    }

    /// The same of few rows.
    TileFloatsFewArgs, 440 { products: TileFloatsArgs, norm: NormArgs, groups: u32, unused: u32 }

    /// A feed-forward half with quantised inputs.
    TileMoeArgs, 552 { moe: MoeArgs, codes: DevicePtr<u32>, factors: DevicePtr<f32>, room: u32, unused: u32 }

    /// A feed-forward half, and the norm behind it.
    CombineNormArgs, 592 { moe: MoeArgs, norm: NormArgs }

    /// A feed-forward half behind its router.
    MoeArgs, 528 {
        routed: Expert,
        shared: Expert,
        spacing: u64,
        table: DevicePtr<Expert>,
        logits: DevicePtr<f32>,
        shared_gate: DevicePtr<f32>,
        input: DevicePtr<f32>,
        norm: DevicePtr<f32>,
        x: DevicePtr<f32>,
        choices: DevicePtr<u32>,
        shares: DevicePtr<f32>,
        entry_rows: DevicePtr<u32>,
        entry_of: DevicePtr<u32>,
        items: DevicePtr<Item>,
        item_count: DevicePtr<u32>,
        activations: DevicePtr<f32>,
        outputs: DevicePtr<f32>,
        row: QuantisedRow,
        eps: f32,
        experts: u32,
        top_k: u32,
        width: u32,
        shared_width: u32,
        hidden: u32,
        count: u32,
        normalise: u32,
        max_items: u32,
        gate_up_forms: u32,
        down_forms: u32,
        item_rows: u32,
        gate_up_slots: u32,
        down_slots: u32,
    }
}

impl NormArgs {
    /// No norm.
    pub const NONE: Self = Self {
        x: DevicePtr::NULL,
        weight: DevicePtr::NULL,
        out: DevicePtr::NULL,
        pick: DevicePtr::NULL,
        row: QuantisedRow::NONE,
        eps: 0.0,
        width: 0,
        count: 0,
        early: 0,
    };
}

impl QuantisedRow {
    /// No such row.
    pub const NONE: Self = Self { codes: DevicePtr::NULL, factors: DevicePtr::NULL };

    pub fn is_none(&self) -> bool {
        self.codes.is_null()
    }
}

impl Matrix {
    /// No matrix: fills the places that a launch does not use.
    pub const NONE: Self = Self {
        data: DevicePtr::NULL,
        codebook: DevicePtr::NULL,
        absmax: DevicePtr::NULL,
        order: DevicePtr::NULL,
        rows: 0,
        cols: 0,
        format: 0,
        packed: 0,
        strip_bytes: 0,
        block_size: 0,
    };
}

/// In which forms a launch keeps its input in shared memory: one for all matrices, or both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Forms(u32);

impl Forms {
    const FLOATS: u32 = 1;
    const INT8: u32 = 2;

    /// Quantised inputs alone, and none that are.
    pub const INT8_ONLY: Self = Self(Self::INT8);
    pub const FLOATS_ONLY: Self = Self(Self::FLOATS);

    /// What products with `matrices` take; `exact` never quantises.
    pub fn of<'a>(matrices: impl IntoIterator<Item = &'a Matrix>, exact: bool) -> Self {
        let one = |matrix: &Matrix| if matrix.takes_int8() && !exact { Self::INT8 } else { Self::FLOATS };
        Self(matrices.into_iter().fold(0, |all, matrix| all | one(matrix)))
    }

    /// The kernels' number for them.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Shared memory that `rows` rows of `cols` inputs take: each tile of 32 as padded float32, and as int8 with a scale
    /// and an offset.
    pub fn bytes(self, rows: usize, cols: usize) -> usize {
        let floats = if self.0 & Self::FLOATS != 0 { 36 * 4 } else { 0 };
        let int8 = if self.0 & Self::INT8 != 0 { 32 + 8 } else { 0 };
        rows * cols.div_ceil(32) * (floats + int8)
    }
}

impl Matrix {
    /// Whether this is `first` with its data and tables `bytes` further on, but for a codebook, which they have together.
    fn is_moved(&self, first: &Matrix, bytes: u64) -> bool {
        let moved = |own: u64, first: u64| own == if first == 0 { 0 } else { first + bytes };
        let shape = |m: &Matrix| [m.rows, m.cols, m.format, m.packed, m.strip_bytes, m.block_size];
        moved(self.data.address(), first.data.address())
            && self.codebook.address() == first.codebook.address()
            && moved(self.absmax.address(), first.absmax.address())
            && moved(self.order.address(), first.order.address())
            && shape(self) == shape(first)
    }

    /// Which of [`INT8_FORMATS`] it has, where products with it can take quantised inputs.
    pub fn int8_format(&self) -> Option<usize> {
        let format = |(format, _): &(Format, &str)| format_number(*format) == self.format;
        INT8_FORMATS.iter().position(format).filter(|_| self.takes_int8())
    }

    /// Whether the kernels for one format that takes quantised inputs can read it together with `other`.
    pub fn is_read_with(&self, other: &Matrix) -> bool {
        self.int8_format() == other.int8_format() && self.codebook.address() == other.codebook.address()
    }

    /// Which of [`FLOAT_FORMATS`] it has, where it lies as the kernel for it reads it: as stored in float32, packed otherwise.
    pub fn float_format(&self) -> Option<usize> {
        let is = |(format, _): &(Format, &str)| format_number(*format) == self.format;
        let packed = self.format != format_number(Format::F32);
        let lies_well = self.order.is_null() && (self.packed != 0) == packed;
        FLOAT_FORMATS.iter().position(is).filter(|_| lies_well)
    }

    /// Whether it lies as stored in float32.
    pub fn is_plain_f32(&self) -> bool {
        self.packed == 0 && self.order.is_null() && self.format == format_number(Format::F32)
    }

    /// Bytes of a block of 16 rows by `columns` columns of a packed matrix.
    pub fn block_bytes(&self, columns: usize) -> usize {
        (self.strip_bytes as usize * columns).checked_div(self.cols as usize).unwrap_or(0)
    }

    /// Whether products with it can take quantised inputs. Columns in an order of their own cannot: each 32 of an input
    /// share a scale only in the input's order.
    pub fn takes_int8(&self) -> bool {
        let float = [Format::F32, Format::F16, Format::BF16].map(format_number).contains(&self.format);
        self.packed != 0 && self.order.is_null() && !float
    }
}

impl Product {
    /// No product.
    pub const NONE: Self =
        Self { matrix: Matrix::NONE, bias: DevicePtr::NULL, out: DevicePtr::NULL, out_stride: 0, unused: 0 };

    /// Those of a launch, four at most.
    pub fn four(products: &[Self]) -> [Self; 4] {
        std::array::from_fn(|i| products.get(i).copied().unwrap_or(Self::NONE))
    }
}

impl ProductsArgs {
    /// Four at most, of nothing yet.
    pub fn of(products: &[Product]) -> Self {
        Self {
            products: Product::four(products),
            input: DevicePtr::NULL,
            norm: DevicePtr::NULL,
            pick: DevicePtr::NULL,
            eps: 0.0,
            products_count: number(products.len()),
            input_stride: 0,
            cols: 0,
            add: 0,
            forms: 0,
            slots: 0,
            early: 0,
            row: QuantisedRow::NONE,
            count: 0,
            unused: 0,
        }
    }
}

impl Expert {
    /// No expert.
    pub const NONE: Self = Self { gate: Matrix::NONE, up: Matrix::NONE, down: Matrix::NONE };

    /// Whether this is `first` moved by so many bytes.
    pub fn is_moved(&self, first: &Expert, bytes: u64) -> bool {
        let pairs = [(&self.gate, &first.gate), (&self.up, &first.up), (&self.down, &first.down)];
        pairs.iter().all(|(own, first)| own.is_moved(first, bytes))
    }
}

/// The kernels' number for `format`: its place in [`Format::ALL`].
pub fn format_number(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::BF16 => 2,
        Format::Q8_0 => 3,
        Format::Q4_0 => 4,
        Format::Q4K => 5,
        Format::Q5K => 6,
        Format::Q6K => 7,
        Format::Bnb4 => 8,
        Format::Int4(Group::Of32) => 9,
        Format::Int4(Group::Of64) => 10,
        Format::Int4(Group::Of128) => 11,
        Format::Int4(Group::Of256) => 12,
    }
}

/// Formats that take int8, as the names of their kernels have them.
pub const INT8_FORMATS: [(Format, &str); 10] = [
    (Format::Q8_0, "q8_0"),
    (Format::Q4_0, "q4_0"),
    (Format::Q4K, "q4_k"),
    (Format::Q5K, "q5_k"),
    (Format::Q6K, "q6_k"),
    (Format::Bnb4, "bnb4"),
    (Format::Int4(Group::Of32), "int4_32"),
    (Format::Int4(Group::Of64), "int4_64"),
    (Format::Int4(Group::Of128), "int4_128"),
    (Format::Int4(Group::Of256), "int4_256"),
];

/// Some of [`INT8_FORMATS`].
pub type Int8Formats = [bool; INT8_FORMATS.len()];

/// The formats of `matrices`; `None` where one of them takes no int8.
pub fn int8_formats<'a>(matrices: impl IntoIterator<Item = &'a Matrix>) -> Option<Int8Formats> {
    let mut formats = [false; INT8_FORMATS.len()];
    for matrix in matrices {
        formats[matrix.int8_format()?] = true;
    }
    Some(formats)
}

/// Floating-point formats that single rows have kernels of their own for.
pub const FLOAT_FORMATS: [(Format, &str); 3] = [(Format::F32, "f32"), (Format::F16, "f16"), (Format::BF16, "bf16")];

/// A size of a model as the kernels take it. Those of models are far below 32 bits, and were checked when it was read.
pub fn number(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}
