"""Random blocks of every GGUF number format with their values by gguf-py, for the reference decoders in src/quant."""

import base64

import gguf
import numpy as np

FORMATS = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q6_K", "Q5_K"]


def block_case(rng: np.random.Generator, name: str) -> dict:
    kind = gguf.GGMLQuantizationType[name]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = 256 // elements
    data = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    # Exponents of random bits reach infinity; the f16 fields get ordinary numbers instead.
    fields = {"F16": [0], "BF16": [0], "Q8_0": [0], "Q4_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[name]
    for at in fields:
        values = rng.standard_normal(blocks).astype(np.float32)
        halves = (values.view(np.uint32) >> 16).astype(np.uint16) if name == "BF16" else values.astype(np.float16)
        data[:, at : at + 2] = halves.view(np.uint8).reshape(blocks, 2)
    values = gguf.dequantize(data.reshape(-1), kind).astype("<f4").reshape(-1)
    def encode(array):
        return base64.b64encode(array.tobytes()).decode()

    return {"format": name, "blocks": encode(data), "values": encode(values)}


def goldens() -> list:
    rng = np.random.default_rng(11)
    return [block_case(rng, name) for name in FORMATS]
