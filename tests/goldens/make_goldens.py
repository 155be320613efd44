#!/usr/bin/env python3
"""Write the golden files: small random checkpoints of each family and format, with logits by transformers in float32.

    make_goldens.py [CASE ...]    write these cases (default: everything)
    make_goldens.py --check       reload every checkpoint from disk and compare its logits with logits.npy

Packages: requirements.txt. Each case is a folder with a checkpoint and logits.npy (float32 [tokens, vocab]);
index.json lists them with their token ids.
"""
import argparse
import json
import shutil
from pathlib import Path

import numpy as np

import blocks
import cases
import chat
import reference
import sampler
import tokenizer
from directories import write_json

HERE = Path(__file__).resolve().parent
INDEX = HERE / "index.json"


def read_index():
    return {entry["name"]: entry for entry in json.loads(INDEX.read_text())["cases"]} if INDEX.exists() else {}


def write_index(entries):
    ordered = [entries[name] for name in cases.CASES if name in entries]
    text = ",\n".join("  " + json.dumps(entry) for entry in ordered)
    INDEX.write_text('{\n "cases": [\n' + text + "\n ]\n}\n")


def make(name):
    """Write one case and return its entry in the index."""
    case = cases.CASES[name]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    model = case.write(folder)
    ids, logits, margin = reference.choose_ids(model, case.tokens, case.seed)
    np.save(folder / "logits.npy", logits.numpy().astype("<f4"))
    return {
        "name": name,
        "family": case.family,
        "path": f"{name}/{case.file}".rstrip("/"),
        "logits": f"{name}/logits.npy",
        "vocab": logits.shape[1],
        "router_margin": float(f"{margin:.3g}"),
        "notes": case.notes,
        "ids": ids,
    }


def check(entry):
    """Compare logits of the checkpoint as read from disk with the stored ones."""
    model = cases.CASES[entry["name"]].read(HERE / entry["path"])
    stored = np.load(HERE / entry["logits"])
    found = reference.logits(model, entry["ids"]).numpy()
    error = np.abs(found - stored).max() / np.abs(stored).max()
    print(f"{entry['name']:32} {stored.shape} max|logit| {np.abs(stored).max():.2f} error {error:.1e} router margin {entry['router_margin']}")
    assert stored.shape == found.shape and error < 1e-5, entry["name"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="cases to write")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    entries = read_index()
    if not arguments.check:
        for name in arguments.names or cases.CASES:
            entries[name] = make(name)
            write_index(entries)
        if not arguments.names:
            write_json(HERE / "sampler.json", sampler.goldens())
            write_json(HERE / "chat.json", chat.goldens())
            write_json(HERE / "tokenize.json", tokenizer.goldens())
            write_json(HERE / "blocks.json", blocks.goldens())
    for name in arguments.names or entries:
        check(entries[name])


if __name__ == "__main__":
    main()
