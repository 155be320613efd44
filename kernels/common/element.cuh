// One element of a matrix at a time, by the formats' definitions: for embeddings and for matrices that are not packed.
#pragma once
#include "common/args.cuh"
#include "common/device.cuh"

DEVICE float half_at(const uint8_t* p) { return half_bits(p[0] | p[1] << 8); }

// The 6-bit scale and minimum of sub-block `j` out of twelve bytes.
DEVICE void scale_and_min(const uint8_t* packed, int j, float& scale, float& min) {
    if (j < 4) {
        scale = packed[j] & 63;
        min = packed[j + 4] & 63;
    } else {
        scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
        min = packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
    }
}

// `matrix[row][col]`, row-major as the source format stores it.
DEVICE float stored_element(const Matrix& m, uint32_t row, uint32_t col) {
    const uint64_t flat = static_cast<uint64_t>(row) * m.cols + col;
    switch (m.format) {
        case F32: return reinterpret_cast<const float*>(m.data)[flat];
        case F16: return half_at(m.data + 2 * flat);
        case BF16: return bf16_bits(m.data[2 * flat] | m.data[2 * flat + 1] << 8);
        case Q8_0: {
            const uint8_t* block = m.data + flat / 32 * 34;
            return half_at(block) * static_cast<float>(static_cast<int8_t>(block[2 + flat % 32]));
        }
        case Q4_0: {
            const uint8_t* block = m.data + flat / 32 * 18;
            const int code = block[2 + flat % 16] >> (flat % 32 < 16 ? 0 : 4) & 15;
            return half_at(block) * static_cast<float>(code - 8);
        }
        case Q4_K:
        case Q5_K: {
            const uint8_t* block = m.data + flat / 256 * (m.format == Q4_K ? 144 : 176);
            const int at = flat % 256, sub = at / 32;
            float scale, min;
            scale_and_min(block + 4, sub, scale, min);
            const uint8_t* codes = block + (m.format == Q4_K ? 16 : 48);
            int code = codes[32 * (sub / 2) + at % 32] >> (4 * (sub % 2)) & 15;
            if (m.format == Q5_K) code |= (block[16 + at % 32] >> sub & 1) << 4;
            return half_at(block) * scale * static_cast<float>(code) - half_at(block + 2) * min;
        }
        case Q6_K: {
            const uint8_t* block = m.data + flat / 256 * 210;
            const int at = flat % 256, half = at / 128, quarter = at % 128 / 32, column = at % 32;
            const int low = block[64 * half + column + 32 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
            const int high = block[128 + 32 * half + column] >> (2 * quarter) & 3;
            const float scale = half_at(block + 208) * static_cast<float>(static_cast<int8_t>(block[192 + at / 16]));
            return scale * static_cast<float>((low | high << 4) - 32);
        }
        case BNB4: {
            const int code = m.data[flat / 2] >> (flat % 2 ? 0 : 4) & 15;
            return m.codebook[code] * m.absmax[flat / m.block_size];
        }
        default: {  // Group int4: f16 scale, u8 zero, two codes a byte.
            const int columns = 32 << (m.format - INT4_32);
            const uint8_t* block = m.data + flat / columns * (3 + columns / 2);
            const int code = block[3 + flat % columns / 2] >> (4 * (flat % 2)) & 15;
            return half_at(block) * static_cast<float>(code - block[2]);
        }
    }
}

// Bits `bits` wide of one column in lines of `32 / bits` columns of a packed tile.
DEVICE int packed_bits(const uint8_t* lines, int bits, int slot, int column) {
    const int per_line = 32 / bits, line = column / per_line, within = column % per_line;
    const bool rotated = bits > 1 && line >= bits / 2;
    const uint8_t byte = lines[64 * line + (4 * slot + (rotated ? 32 : 0)) % 64 + within % 4];
    return byte >> (bits * (within / 4)) & ((1 << bits) - 1);
}

// `matrix[row][column `col` of the packed order]`.
DEVICE float packed_element(const Matrix& m, uint32_t row, uint32_t col) {
    const uint8_t* strip = m.data + static_cast<uint64_t>(row / 16) * m.strip_bytes;
    const uint32_t first = col / 256 * 256;
    const int slot = slot_of_row(row % 16), tile = col % 256 / 32, column = col % 32;
    const int tiles = (m.cols - first < 256 ? m.cols - first : 256) / 32;
    // Whole blocks come before this one: their bytes are in proportion to their columns.
    const int group = m.format >= INT4_32 ? 1 << (m.format - INT4_32) : 1;
    const auto bytes = [&](int tiles) -> uint32_t {
        switch (m.format) {
            case F16:
            case BF16: return 1024 * tiles;
            case Q8_0: return 544 * tiles;
            case Q4_0:
            case Q4_K: return 288 * tiles;
            case Q5_K: return 352 * tiles;
            case Q6_K: return 416 * tiles + 32;
            case BNB4: return 272 * tiles;
            default: return 256 * tiles + 48 * (tiles / group);
        }
    };
    const uint8_t* block = strip + static_cast<uint64_t>(first / 256) * bytes(8);
    const int second_half = column >= 16 ? 32 : 0;
    const uint8_t* scales;
    const int code = m.format == F16 || m.format == BF16 || m.format == Q8_0
                         ? 0
                         : packed_bits(block + 256 * tile, 4, slot, column);
    switch (m.format) {
        case F16:
        case BF16: {
            const uint8_t* at = block + 1024 * tile + 64 * (column / 2) + (4 * slot + second_half) % 64 + 2 * (column % 2);
            return m.format == F16 ? half_at(at) : bf16_bits(at[0] | at[1] << 8);
        }
        case Q8_0: {
            const uint8_t* at = block + 512 * tile + 64 * (column / 4) + (4 * slot + second_half) % 64 + column % 4;
            return half_at(block + 512 * tiles + 32 * tile + 2 * slot) * static_cast<float>(static_cast<int8_t>(*at));
        }
        case Q4_0: return half_at(block + 256 * tiles + 32 * tile + 2 * slot) * static_cast<float>(code - 8);
        case Q4_K:
        case Q5_K: {
            const int upper = m.format == Q5_K ? packed_bits(block + 256 * tiles + 64 * tile, 1, slot, column) : 0;
            scales = block + (m.format == Q5_K ? 320 : 256) * tiles;
            const uint8_t* record = scales + 8 * (4 * tile + slot / 4);
            uint64_t fields = 0;
            for (int i = 0; i < 6; ++i) fields |= static_cast<uint64_t>(record[i]) << (8 * i);
            const int lane = slot % 4;
            const float d = half_at(scales + 8 * (4 * (2 * lane) + slot / 4) + 6);
            const float dmin = half_at(scales + 8 * (4 * (2 * lane + 1) + slot / 4) + 6);
            const float scale = d * static_cast<float>(fields >> (6 * lane) & 63);
            const float min = dmin * static_cast<float>(fields >> (24 + 6 * lane) & 63);
            return scale * static_cast<float>(code | upper << 4) - min;
        }
        case Q6_K: {
            const int upper = packed_bits(block + 256 * tiles + 128 * tile, 2, slot, column);
            scales = block + 384 * tiles;
            const float weight = static_cast<float>(static_cast<int8_t>(scales[32 * tile + 16 * (column / 16) + slot]));
            return half_at(scales + 32 * tiles + 2 * slot) * weight * static_cast<float>((code | upper << 4) - 32);
        }
        case BNB4: return m.codebook[code] * half_at(block + 256 * tiles + 32 * (tile / 2) + 2 * slot);
        default: {
            scales = block + 256 * tiles + 48 * (tile / group);
            return half_at(scales + 2 * slot) * static_cast<float>(code - scales[32 + slot]);
        }
    }
}
