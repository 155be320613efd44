"""The list of cases: for each how its checkpoint is written, and how it is read back for the reference."""
from dataclasses import dataclass
from typing import Callable

import torch
from gguf import GGMLQuantizationType as Type

import bnb4
import configs
import directories
import ggufs
import gptq
import reference
import tokenizer
import weights


@dataclass
class Case:
    family: str
    notes: str
    write: Callable  # folder -> transformers model with the checkpoint's weights
    read: Callable  # path -> the same model, from the files alone
    tokens: int = 40
    seed: int = 1
    file: str = ""  # empty: the path is the folder


def plain_directory(config, dtype, eos=2, shards=1, fused=False, wrapper=False, with_mtp=False, keep_f32=(), seed=1):
    """A directory of unquantised safetensors."""

    def write(folder):
        tensors = weights.model(seed, reference.text_config(config), with_mtp)
        if fused:
            tensors = weights.fuse_experts(tensors)
        tensors = directories.round_to(tensors, dtype, keep_f32)
        directories.write_configs(folder, config, eos)
        directories.write_tensors(folder, wrap(tensors) if wrapper else tensors, shards)
        return reference.from_tensors(config, tensors)

    return {"write": write, "read": reference.from_directory}


def wrap(tensors):
    """Names of a vision-language wrapper, with two vision tensors to skip."""
    named = {n.replace("model.", "model.language_model.", 1) if n.startswith("model.") else n: t for n, t in tensors.items()}
    draw = weights.Draw(9)
    named["model.visual.patch_embed.proj.weight"] = draw.normal(8, 3, 2, 2, 2).bfloat16()
    named["model.visual.merger.norm.bias"] = draw.normal(8).bfloat16()
    return named


def bnb_directory(config, quant_type, nested, skipped, seed=1):
    config = {**config, "quantization_config": bnb4.quantization_config(quant_type, nested, skipped)}

    def write(folder):
        tensors = directories.round_to(weights.model(seed, reference.text_config(config)), torch.bfloat16)
        stored, decoded = bnb4.quantise(tensors, quant_type, nested, skipped)
        directories.write_configs(folder, config, 2)
        directories.write_tensors(folder, stored)
        return reference.from_tensors(config, decoded)

    def read(path):
        return reference.from_tensors(config, bnb4.decode(directories.read_tensors(path)))

    return {"write": write, "read": read}


def gptq_directory(config, dtype, wrapper=False, seed=1):
    """A directory in GPTQ's packing; `config` says how, the layers' names as the checkpoint spells them."""
    prefix = "model.language_model." if wrapper else "model."

    def respell(tensors, old, new):
        return {n.replace(old, new, 1) if n.startswith(old) else n: t for n, t in tensors.items()}

    def write(folder):
        tensors = directories.round_to(weights.model(seed, reference.text_config(config)), dtype)
        stored, decoded = gptq.quantise(respell(tensors, "model.", prefix), config["quantization_config"], seed)
        directories.write_configs(folder, config, 2)
        directories.write_tensors(folder, stored)
        return reference.from_tensors(config, respell(decoded, prefix, "model."))

    def read(path):
        return reference.from_tensors(config, respell(gptq.decode(directories.read_tensors(path)), prefix, "model."))

    return {"write": write, "read": read}


def gguf_file(config, choose, file="model.gguf", with_mtp=False, tokenizer=None, splits=1, seed=1, **conversion):
    """A GGUF file, or several. The reference reads the file: its metadata, its blocks, the inverse conversion."""

    def write(folder):
        c = reference.text_config(config)
        tensors = ggufs.convert(weights.model(seed, c, with_mtp), c, **conversion)
        per_file = -(-len(tensors) // splits) if splits > 1 else 0
        base = folder / (file.split("-00001")[0] + ".gguf" if splits > 1 else file)
        ggufs.write(base, c, tensors, ggufs.encoder(choose, seed), mtp_layers=int(with_mtp), tokenizer=tokenizer, split_tensors=per_file)
        return read(folder / file)

    def read(path):
        return reference.from_tensors(*ggufs.read(path))

    return {"write": write, "read": read, "file": file}


def mixed_floats(name):
    """F16, BF16 and F32 matrices in one file."""
    return Type.BF16 if "exps" in name or "attn_v" in name else Type.F32 if "attn_k" in name else Type.F16


def mixed_blocks(name):
    """As quantised files mix them. Rows of 256 take K-quants; experts' and shared down and ssm_out have shorter rows."""
    if "down_exps" in name or "ssm_out" in name:
        return Type.Q4_0
    if "down_shexp" in name or "attn_output" in name or "ssm_ba" in name:
        return Type.Q8_0
    if any(part in name for part in ("attn_q", "gate_exps", "gate_shexp")):
        return Type.Q5_K
    return Type.Q6_K if any(part in name for part in ("token_embd", "attn_v", "attn_gate", "up_exps")) else Type.Q4_K


def mostly_q8(name):
    return Type.F16 if any(part in name for part in ("ssm_alpha", "ssm_beta", "token_embd", "eh_proj")) else Type.Q8_0


def tokenized(case):
    """Add tokenizer files to a directory case."""
    write = case["write"]

    def write_both(folder):
        tokenizer.write_files(folder)
        return write(folder)

    return {**case, "write": write_both}


BNB_SKIPPED = ["lm_head", "mlp.gate", "shared_expert_gate"]

CASES = {
    "qwen3_moe_bf16": Case(
        "qwen3_moe",
        "BF16, experts one by one, one file, head apart, norm_topk_prob, rms_norm_eps 1e-5, tokenizer files",
        **tokenized(plain_directory(configs.QWEN3_MOE_BF16, torch.bfloat16, eos=[294, 292])),
        tokens=30,
    ),
    "qwen3_moe_f16_sharded_yarn": Case(
        "qwen3_moe",
        "F16 in 3 shards, tied head, attention biases, dense layers by decoder_sparse_step and mlp_only_layers, norm_topk_prob false, "
        "YaRN in the keys of transformers 4 (factor 4, 32 original positions, 48 used), several eos ids",
        **plain_directory(configs.QWEN3_MOE_YARN, torch.float16, eos=[2, 3], shards=3),
        tokens=48,
    ),
    "qwen3_next_bf16": Case(
        "qwen3_next",
        "BF16 as published: full_attention_interval, transformers 4 keys, mtp tensors to skip; 150 tokens cross two chunks of 64",
        **plain_directory(configs.QWEN3_NEXT_BF16, torch.bfloat16, with_mtp=True),
        tokens=150,
    ),
    "qwen3_next_f32_layer_types": Case(
        "qwen3_next",
        "F32 as saved by transformers 5: irregular layer_types, rope_parameters with half of the head rotated, a dense layer, norm_topk_prob false",
        **plain_directory(configs.QWEN3_NEXT_F32, torch.float32),
    ),
    "qwen3_next_nf4": Case(
        "qwen3_next",
        "bitsandbytes NF4, double quantised, head sizes 256 and 128 as published; routers, shared-expert gates and lm_head BF16; "
        "rows of 96 and 22, so that blocks of 64 straddle rows. Reference: codebook * absmax in float32",
        **bnb_directory(configs.QWEN3_NEXT_NF4, "nf4", True, BNB_SKIPPED),
    ),
    "qwen3_moe_nf4_single": Case(
        "qwen3_moe",
        "bitsandbytes NF4 with float32 absmax (not double quantised); rows of 128 and 64, whole blocks of 64; q_proj left in BF16",
        **bnb_directory(configs.QWEN3_MOE_NF4, "nf4", False, ["lm_head", "gate", "self_attn.q_proj"]),
        tokens=32,
    ),
    "qwen3_moe_fp4": Case(
        "qwen3_moe",
        "bitsandbytes FP4, double quantised; rows of 80 and 36",
        **bnb_directory(configs.QWEN3_MOE_4BIT, "fp4", True, ["lm_head", "mlp.gate"], seed=2),
        tokens=32,
    ),
    "qwen3_5_moe_autoround": Case(
        "qwen3_5_moe",
        "AutoRound auto_round:auto_gptq, asymmetric, in the wrapper's names; groups of 64, by extra_config 32 in the experts' down and 128 in "
        "q_proj, 16 bits in shared experts and the projections to a and b. Reference: scale * (code - zero) in float32",
        **gptq_directory(configs.QWEN3_5_AUTOROUND, torch.bfloat16, wrapper=True),
    ),
    "qwen3_moe_gptq_act_order": Case(
        "qwen3_moe",
        "GPTQ, symmetric, groups of 32 columns in activation order (desc_act, g_idx), F16, attention biases; v_proj left in F16 by dynamic",
        **gptq_directory(configs.QWEN3_MOE_GPTQ, torch.float16),
        tokens=32,
    ),
    "qwen3_5_moe_bf16_wrapper": Case(
        "qwen3_5_moe",
        "Vision-language wrapper in 2 shards: text_config, model.language_model prefix, vision and mtp tensors to skip, fused 3-D experts, "
        "A_log and linear_attn.norm in F32, rest BF16; text positions",
        **plain_directory(
            configs.QWEN3_5_WRAPPER, torch.bfloat16, shards=2, fused=True, wrapper=True, with_mtp=True, keep_f32=("A_log", "linear_attn.norm.weight")
        ),
    ),
    "qwen3_5_moe_text_f16": Case(
        "qwen3_5_moe",
        "Text-only configuration (qwen3_5_moe_text), F16, tied head, experts one by one",
        **plain_directory(configs.QWEN3_5_TEXT_ONLY, torch.float16),
    ),
    "qwen3moe_gguf_mixed": Case(
        "qwen3_moe",
        "GGUF with F16, BF16 and F32 matrices and a tokenizer",
        **gguf_file(configs.QWEN3_MOE_BF16, mixed_floats, tokenizer=tokenizer.for_gguf(), seed=2),
        tokens=30,
    ),
    "qwen3next_gguf_kquants": Case(
        "qwen3_next",
        "GGUF with random Q4_K and Q6_K blocks, Q4_0 and Q8_0 with some negative scales; attn_qkv, attn_gate, interleaved ssm_ba, "
        "ffn_gate_inp_shexp one-dimensional",
        **gguf_file(configs.QWEN3_NEXT_K, mixed_blocks, flat_shared_gate=True),
    ),
    "qwen3next_gguf_split_ssm_in": Case(
        "qwen3_next",
        "GGUF in 3 files, Q8_0, old ssm_in with q k v z interleaved per key head",
        **gguf_file(configs.QWEN3_NEXT_SPLIT, lambda name: Type.Q8_0, file="model-00001-of-00003.gguf", splits=3, old_ssm_in=True),
        tokens=70,
    ),
    "qwen35moe_gguf_q8": Case(
        "qwen3_5_moe",
        "GGUF, Q8_0 and F16: V heads tiled, ssm_alpha and ssm_beta, fused ffn_gate_up_exps, MTP block counted in block_count",
        **gguf_file(configs.QWEN3_5_GGUF, mostly_q8, with_mtp=True, fused_gate_up=True),
        tokens=70,
    ),
}
