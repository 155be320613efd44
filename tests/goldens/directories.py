"""Hugging Face model directories: config.json, generation_config.json and safetensors files."""
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

EOS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 1}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def round_to(tensors, dtype, keep_f32=()):
    """Tensors in the checkpoint's dtype; names that end with one of `keep_f32` stay float32."""
    return {n: t.float() if n.endswith(tuple(keep_f32)) else t.to(dtype) for n, t in tensors.items()}


def write_configs(folder, config, eos):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {**EOS, "eos_token_id": eos, "do_sample": True, "temperature": 0.7})


def write_tensors(folder, tensors, shards=1):
    """One model.safetensors, or several with an index. Tensors are dealt out in turn, so that layers straddle files."""
    tensors = {n: t.contiguous() for n, t in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[i::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))})


def read_tensors(folder):
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors
