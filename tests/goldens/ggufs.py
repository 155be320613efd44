"""GGUF files: llama.cpp's conversion rules and their inverse, metadata, block formats.

A GGUF tensor is held here in numpy order, [rows, columns]: the reverse of the order that the file states.
"""
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, GGUFReader, GGUFWriter, RopeScalingType, quants

import weights

MODEL_TYPES = {"qwen3moe": "qwen3_moe", "qwen3next": "qwen3_next", "qwen35moe": "qwen3_5_moe_text"}
ARCHS = {model_type: arch for arch, model_type in MODEL_TYPES.items()}

TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_qkvz.weight": "ssm_in.weight",
    "linear_attn.in_proj_ba.weight": "ssm_ba.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
}
MTP = {
    "mtp.fc.weight": "nextn.eh_proj.weight",
    "mtp.pre_fc_norm_embedding.weight": "nextn.enorm.weight",
    "mtp.pre_fc_norm_hidden.weight": "nextn.hnorm.weight",
    "mtp.norm.weight": "nextn.shared_head_norm.weight",
}


def layer_names(arch):
    post = "ffn_norm.weight" if arch == "qwen3moe" else "post_attention_norm.weight"
    return LAYER | {"post_attention_layernorm.weight": post}


# Conversion rules, HF -> GGUF


def swap_heads(tensor, dim, start, outer, inner):
    """From index `start` of `dim`, reorder blocks numbered (outer, inner) to (inner, outer)."""
    head, tail = tensor.split([start, tensor.shape[dim] - start], dim)
    shape = tail.shape
    split = tail.reshape(*shape[:dim], outer, inner, -1, *shape[dim + 1 :])
    return torch.cat([head, split.transpose(dim, dim + 1).reshape(shape)], dim)


def reorder_v_heads(name, tensor, c, to_tiled):
    """qwen35moe keeps V heads tiled (head h uses key head h mod Hk), checkpoints keep them grouped (h // r)."""
    hk, hv = c.linear_num_key_heads, c.linear_num_value_heads
    order = (hk, hv // hk) if to_tiled else (hv // hk, hk)
    keys = 2 * hk * c.linear_key_head_dim
    part = name.rpartition("linear_attn.")[2]
    if part in ("in_proj_qkv.weight", "conv1d.weight"):
        return swap_heads(tensor, 0, keys, *order)
    if part in ("in_proj_z.weight", "in_proj_b.weight", "in_proj_a.weight", "A_log", "dt_bias"):
        return swap_heads(tensor, 0, 0, *order)
    if part == "out_proj.weight":
        return swap_heads(tensor, 1, 0, *order)
    return tensor


def qkvz_sizes(c):
    r = c.linear_num_value_heads // c.linear_num_key_heads
    return [c.linear_key_head_dim] * 2 + [r * c.linear_value_head_dim] * 2


def split_qkvz(tensor, c):
    """Interleaved [q k v z] of each key head -> (q k v flat, z flat)."""
    heads = tensor.reshape(c.linear_num_key_heads, -1, tensor.shape[1]).split(qkvz_sizes(c), 1)
    q, k, v, z = (part.reshape(-1, tensor.shape[1]) for part in heads)
    return torch.cat([q, k, v]), z


def join_qkvz(qkv, z, c):
    keys = c.linear_num_key_heads * c.linear_key_head_dim
    parts = [*qkv.split([keys, keys, z.shape[0]]), z]
    return torch.cat([p.reshape(c.linear_num_key_heads, -1, z.shape[1]) for p in parts], 1).reshape(-1, z.shape[1])


def shifts_norm(name, c):
    return c.model_type in weights.HYBRIDS and name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight")


def convert(tensors, c, old_ssm_in=False, fused_gate_up=False, flat_shared_gate=False):
    """HF weights -> float32 GGUF tensors."""
    arch = ARCHS[c.model_type]
    out = {}
    for name, tensor in weights.fuse_experts(tensors).items():
        tensor = tensor.float()
        if arch == "qwen35moe":
            tensor = reorder_v_heads(name, tensor, c, to_tiled=True)
        if name.endswith("A_log"):
            tensor = -tensor.exp()
        elif name.endswith("conv1d.weight"):
            tensor = tensor.squeeze(1)
        elif shifts_norm(name, c):
            tensor = tensor + 1
        elif name.endswith("shared_expert_gate.weight") and flat_shared_gate:
            tensor = tensor.squeeze(0)
        out[gguf_name(name, c, arch)] = tensor
    if not old_ssm_in:
        split_all(out, ".ssm_in.weight", (".attn_qkv.weight", ".attn_gate.weight"), lambda t: split_qkvz(t, c))
    if not fused_gate_up:
        split_all(out, ".ffn_gate_up_exps.weight", (".ffn_gate_exps.weight", ".ffn_up_exps.weight"), lambda t: t.chunk(2, 1))
    return {name: tensor.contiguous().numpy() for name, tensor in out.items()}


def split_all(tensors, suffix, new, split):
    for name in [n for n in tensors if n.endswith(suffix)]:
        tensors |= zip((name.removesuffix(suffix) + n for n in new), split(tensors.pop(name)))


def gguf_name(name, c, arch):
    if name in TOP:
        return TOP[name]
    last = f"blk.{c.num_hidden_layers}."
    if name in MTP:
        return last + MTP[name]
    if name.startswith("mtp.layers.0."):
        return last + layer_names(arch)[name.removeprefix("mtp.layers.0.")]
    _, _, number, rest = name.split(".", 3)
    return f"blk.{number}.{layer_names(arch)[rest]}"


# The inverse, GGUF -> HF


def restore(tensors, c):
    """float32 GGUF tensors -> HF weights (experts fused), less the MTP block."""
    arch = ARCHS[c.model_type]
    names = {v: k for k, v in layer_names(arch).items()}
    top = {v: k for k, v in TOP.items()}
    tensors = {n: torch.from_numpy(np.array(t, dtype=np.float32)) for n, t in tensors.items()}
    join_all(tensors, ".ffn_gate_up_exps.weight", (".ffn_gate_exps.weight", ".ffn_up_exps.weight"), lambda g, u: torch.cat([g, u], 1))
    if arch == "qwen3next":
        join_all(tensors, ".ssm_in.weight", (".attn_qkv.weight", ".attn_gate.weight"), lambda qkv, z: join_qkvz(qkv, z, c))
    out = {}
    for name, tensor in tensors.items():
        if name.startswith(f"blk.{c.num_hidden_layers}."):
            continue
        if name in top:
            hf = top[name]
        else:
            _, number, rest = name.split(".", 2)
            hf = f"model.layers.{number}.{names[rest]}"
        if hf.endswith("A_log"):
            tensor = (-tensor).log()
        elif hf.endswith("conv1d.weight"):
            tensor = tensor.unsqueeze(1)
        elif shifts_norm(hf, c):
            tensor = tensor - 1
        elif hf.endswith("shared_expert_gate.weight"):
            tensor = tensor.reshape(1, -1)
        if arch == "qwen35moe":
            tensor = reorder_v_heads(hf, tensor, c, to_tiled=False)
        out[hf] = tensor
    return out


def join_all(tensors, suffix, parts, join):
    for name in [n for n in tensors if n.endswith(parts[0])]:
        prefix = name.removesuffix(parts[0])
        tensors[prefix + suffix] = join(*(tensors.pop(prefix + p) for p in parts))


# Files


def write(path, c, tensors, encode, old_ssm_in=False, mtp_layers=0, tokenizer=None, split_tensors=0):
    """Write GGUF tensors; `encode(name, array)` gives (bytes, type)."""
    writer = GGUFWriter(path, ARCHS[c.model_type], split_max_tensors=split_tensors)
    add_metadata(writer, c, mtp_layers)
    if tokenizer:
        add_tokenizer(writer, tokenizer, c)
    for name, array in tensors.items():
        data, kind = encode(name, array)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_metadata(w, c, mtp_layers):
    w.add_type("model")
    w.add_name("golden")
    w.add_block_count(c.num_hidden_layers + mtp_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(getattr(c, "intermediate_size", c.moe_intermediate_size))
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_expert_count(c.num_experts)
    w.add_expert_used_count(c.num_experts_per_tok)
    w.add_expert_feed_forward_length(c.moe_intermediate_size)
    w.add_file_type(1)
    w.add_quantization_version(2)
    rope = c.rope_parameters
    w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_type(RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if c.model_type not in weights.HYBRIDS:
        return
    w.add_rope_dimension_count(int(c.head_dim * rope["partial_rotary_factor"]))
    w.add_expert_shared_feed_forward_length(c.shared_expert_intermediate_size)
    w.add_ssm_conv_kernel(c.linear_conv_kernel_dim)
    w.add_ssm_state_size(c.linear_key_head_dim)
    w.add_ssm_group_count(c.linear_num_key_heads)
    w.add_ssm_time_step_rank(c.linear_num_value_heads)
    w.add_ssm_inner_size(c.linear_num_value_heads * c.linear_value_head_dim)
    w.add_full_attention_interval(1 + c.layer_types.index("full_attention"))
    if c.model_type == "qwen3_5_moe_text":
        w.add_rope_dimension_sections([*rope["mrope_section"], 0])
        if mtp_layers:
            w.add_nextn_predict_layers(mtp_layers)


def add_tokenizer(w, tokenizer, c):
    """`tokenizer`: dict of pre, tokens, types, merges."""
    padding = range(len(tokenizer["tokens"]), c.vocab_size)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(tokenizer["pre"])
    w.add_token_list(tokenizer["tokens"] + [f"[PAD{i}]" for i in padding])
    w.add_token_types(tokenizer["types"] + [5 for _ in padding])
    w.add_token_merges(tokenizer["merges"])
    w.add_bos_token_id(tokenizer["bos"])
    w.add_eos_token_id(tokenizer["eos"])
    w.add_pad_token_id(tokenizer["bos"])
    w.add_add_bos_token(False)
    w.add_chat_template(tokenizer["chat_template"])


def read(path):
    """(config.json contents, float32 HF weights) of a GGUF file or of all parts of a split one."""
    import reference

    parts = sorted(path.parent.glob(path.name.replace("00001-of", "*-of")))
    readers = [GGUFReader(part) for part in parts]
    config = read_config(readers[0])
    tensors = {t.name: quants.dequantize(t.data, t.tensor_type) for r in readers for t in r.tensors}
    return config, restore(tensors, reference.text_config(config))


def read_config(reader):
    """The configuration that the metadata states."""
    arch = reader.get_field("general.architecture").contents()
    get = lambda key, default=None: default if (f := reader.get_field(f"{arch}.{key}")) is None else f.contents()
    layers = get("block_count") - get("nextn_predict_layers", 0)
    rope = {"rope_type": "default", "rope_theta": get("rope.freq_base")}
    if get("rope.scaling.type") == "yarn":
        rope |= {"rope_type": "yarn", "factor": get("rope.scaling.factor")}
        rope["original_max_position_embeddings"] = get("rope.scaling.original_context_length")
    config = {
        "model_type": MODEL_TYPES[arch],
        "vocab_size": next(int(t.shape[1]) for t in reader.tensors if t.name == "token_embd.weight"),
        "num_hidden_layers": layers,
        "max_position_embeddings": get("context_length"),
        "hidden_size": get("embedding_length"),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": get("attention.head_count_kv"),
        "head_dim": get("attention.key_length"),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "num_experts": get("expert_count"),
        "num_experts_per_tok": get("expert_used_count"),
        "moe_intermediate_size": get("expert_feed_forward_length"),
        "norm_topk_prob": True,
        "rope_parameters": rope,
    }
    if arch != "qwen3moe":
        rope["partial_rotary_factor"] = get("rope.dimension_count") / get("attention.key_length")
        config |= {
            "shared_expert_intermediate_size": get("expert_shared_feed_forward_length"),
            "linear_conv_kernel_dim": get("ssm.conv_kernel"),
            "linear_key_head_dim": get("ssm.state_size"),
            "linear_num_key_heads": get("ssm.group_count"),
            "linear_num_value_heads": get("ssm.time_step_rank"),
            "linear_value_head_dim": get("ssm.inner_size") // get("ssm.time_step_rank"),
            "full_attention_interval": get("full_attention_interval"),
        }
    if arch == "qwen35moe":
        rope |= {"mrope_interleaved": True, "mrope_section": get("rope.dimension_sections")[:3]}
    return config


# Block formats


def always_f32(name, array):
    """What the converter never quantises."""
    return array.ndim == 1 or any(part in name for part in ("ffn_gate_inp", "ssm_conv1d", "norm.weight"))


def encoder(choose, seed):
    """An `encode` for write(): `choose(name)` gives the type of a matrix. K-quants get random blocks."""
    rng = np.random.default_rng(seed)

    def encode(name, array):
        kind = Type.F32 if always_f32(name, array) else choose(name)
        if kind in (Type.Q4_K, Type.Q5_K, Type.Q6_K):
            return random_blocks(rng, kind, array.shape), kind
        if kind in (Type.Q4_0, Type.Q8_0):
            return flip_scales(rng, quants.quantize(array, kind), kind), kind
        return quants.quantize(array, kind), kind

    return encode


def random_blocks(rng, kind, shape):
    """Random K-quant blocks with random 6 or 8 bit sub-scales, and super-scales that vary and may be negative."""
    block, size = GGML_QUANT_SIZES[kind]
    count = int(np.prod(shape)) // block
    raw = rng.integers(0, 256, (count, size), dtype=np.uint8)
    std = np.exp(rng.normal(0, 0.3, count)) * rng.choice([1, 1, 1, -1], count) / np.sqrt(shape[-1])

    def put(column, values):
        raw[:, column : column + 2] = values.astype("<f2").view(np.uint8).reshape(-1, 2)

    if kind in (Type.Q4_K, Type.Q5_K):
        largest = 15 if kind == Type.Q4_K else 31
        put(0, std * 15 / largest / 300)
        put(2, std * 7.5 / 300 * rng.uniform(0.7, 1.3, count))
    else:
        put(208, std / (74 * 18.5))
    return raw.reshape(*shape[:-1], shape[-1] // block * size)


def flip_scales(rng, data, kind):
    """Negate the scale of some blocks, which Q4_0 quantisers do and Q8_0 permits."""
    blocks = data.reshape(-1, GGML_QUANT_SIZES[kind][1]).copy()
    blocks[:, 1] ^= rng.choice([0, 0, 0, 0x80], len(blocks)).astype(np.uint8)
    return blocks.reshape(data.shape)
