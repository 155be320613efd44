"""A tiny text grammar: `{a|b}` picks one alternative, `<slot>` is filled from a dictionary.

Everything the corpus says is written in this notation, so one line of source stands for many
sentences. An empty alternative (`{|please}`) makes a part optional.
"""

import random
import re
from functools import cache

_SLOT = re.compile(r"<(\w+)>")
_SPACES = re.compile(r"  +")
_SPACE_BEFORE_MARK = re.compile(r" ([.,!?])")


@cache
def _parse(template: str) -> tuple:
    """Split a template into literal strings and tuples of alternatives, each parsed in turn."""
    parts, literal, depth, start = [], "", 0, 0
    alternatives = []
    for i, char in enumerate(template):
        if char == "{":
            if depth == 0:
                parts.append(literal)
                literal, start, alternatives = "", i + 1, []
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                alternatives.append(template[start:i])
                parts.append(tuple(_parse(a) for a in alternatives))
        elif char == "|" and depth == 1:
            alternatives.append(template[start:i])
            start = i + 1
        elif depth == 0:
            literal += char
    parts.append(literal)
    return tuple(p for p in parts if p != "")


def _walk(rng: random.Random, parts: tuple, out: list) -> None:
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        else:
            _walk(rng, part[int(rng.random() * len(part))], out)


def expand(rng: random.Random, template: str, slots: dict | None = None) -> str:
    """One random sentence of the template, with tidy spaces and capitals after full stops."""
    out = []
    _walk(rng, _parse(template), out)
    text = "".join(out)
    if "<" in text:
        text = _SLOT.sub(lambda m: str(slots[m.group(1)]), text)
    text = _SPACE_BEFORE_MARK.sub(r"\1", _SPACES.sub(" ", text))
    return text.strip()


def pick(rng: random.Random, items):
    return items[int(rng.random() * len(items))]


def article(noun: str) -> str:
    """`a` or `an` before the noun; plural nouns and names that need none are the caller's care."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
_TENS = {2: "twenty", 3: "thirty", 4: "forty", 5: "fifty", 6: "sixty", 7: "seventy", 8: "eighty", 9: "ninety"}


def number_word(n: int) -> str:
    """English for 0 to 100."""
    if n < 20:
        return _NUMBERS[n]
    if n == 100:
        return "one hundred"
    return _TENS[n // 10] + (f"-{_NUMBERS[n % 10]}" if n % 10 else "")


def coppers(n: int) -> str:
    return "one copper" if n == 1 else f"{number_word(n)} coppers"
