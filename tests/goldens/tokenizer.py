"""A small byte-level BPE tokenizer built like Qwen's, for checkpoints and for text goldens."""
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from directories import write_json

PATTERNS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen35": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
MERGES = [
    "Ġ t", "h e", "i n", "Ġ a", "o n", "r e", "Ġt he", "e r", "Ġ s", "e n", "l l", "o r", "Ġ Ġ", "ĠĠ ĠĠ", "Ċ Ċ", "Ġ w", "in g",
    "he ll", "hell o", "' s", "Ã ©", "ä ½", "ä½ ł", "Ġ c", "a n", "o u", "Ġ y", "Ġy ou", "u s", "us er", "a s", "as s", "s y", "t e",
    "Ġ 1", "Ċ ĠĠ",
]  # fmt: skip
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "</think>"]
FIRST_ADDED = 256 + len(MERGES)
BOS, EOS = FIRST_ADDED, FIRST_ADDED + 2
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXTS = [
    "hello, the user's on a thing",
    "  hello\n\n   you ARE 1234.5\t\tthere  ",
    "I'M we'Ll don't 'S",
    "café, 你好! naïve — “quoted” 🙂🙂",
    "<|im_start|>user\nhello<|im_end|>\n<think>\n\n</think>\n\n",
    "e\u0301 decomposed, \u0928\u092e\u0938\u094d\u0924\u0947, x\u0300y",
    "line\r\nline\r\n\r\n    indented\u00a0nbsp\u3000wide  ",
    "",
]


def vocabulary():
    """Byte alphabet in byte order, then one token for each merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return alphabet + [merge.replace(" ", "") for merge in MERGES]


def build(pattern):
    vocab = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(merge.split(" ")) for merge in MERGES]))
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern]), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in USER_DEFINED])
    return tokenizer


def write_files(folder):
    """tokenizer.json and tokenizer_config.json."""
    saved = json.loads(build("qwen2").to_str())
    (folder / "tokenizer.json").write_text(json.dumps(saved, ensure_ascii=False))
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "bos_token": None,
            "chat_template": CHATML,
            "eos_token": "<|im_end|>",
            "model_max_length": 512,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


def for_gguf():
    return {
        "pre": "qwen2",
        "tokens": vocabulary() + CONTROL + USER_DEFINED,
        "types": [1] * FIRST_ADDED + [3] * len(CONTROL) + [4] * len(USER_DEFINED),
        "merges": MERGES,
        "bos": BOS,
        "eos": EOS,
        "chat_template": CHATML,
    }


def goldens():
    """Texts with their ids, and the pieces before merging, under both patterns."""
    built = {name: build(name) for name in PATTERNS}
    cases = []
    for text in TEXTS:
        case = {"text": text}
        for name, tokenizer in built.items():
            encoded = tokenizer.encode(text, add_special_tokens=False)
            normal = tokenizer.normalizer.normalize_str(text)
            pieces = tokenizer.pre_tokenizer.pre_tokenize_str(normal)
            case[name] = {
                "ids": encoded.ids,
                "pieces": [piece for piece, _ in pieces],
                "decoded": tokenizer.decode(encoded.ids, skip_special_tokens=False),
            }
        case["changed_by_nfc"] = normal != text
        cases.append(case)
    return {
        "notes": "The tokenizer is the one in qwen3_moe_bf16/tokenizer.json and qwen3moe_gguf_mixed/model.gguf (pattern qwen2); "
        "qwen35 is the same vocabulary under Qwen3.5's pattern. Texts are NFC-normalised first, as in Qwen's tokenizer.json; "
        "llama.cpp does not normalise, which matters where changed_by_nfc is true. Pieces ignore added tokens and are in the byte alphabet.",
        "patterns": PATTERNS,
        "cases": cases,
    }
