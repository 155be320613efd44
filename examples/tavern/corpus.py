"""The text Marla learns from, made up on the spot from a seed: nothing is downloaded.

A document is a chat in ChatML, a story, or a short list of facts and sums. `documents(seed, n)`
yields them in a fixed order; `python corpus.py` prints a few to read.
"""

import random
import re
import sys

from grammar import capital, expand, pick
from guest import Guest
from persona import FACTS
from stories import story
from words import TOPICS, guest_name

_LONE_I = re.compile(r"\bi\b")


def as_typed(rng: random.Random, text: str, name: str | None = None) -> str:
    """The same words as people type them: tidy, all lower case, without marks, or with a slip."""
    style = rng.random()
    if rng.random() < 0.04:
        return text.title()
    if style < 0.45:
        text = capital(_LONE_I.sub("I", text))
        if text[-1].isalnum() and rng.random() < 0.7:
            question = text.split()[0].lower().rstrip("'s") in _QUESTION_WORDS
            text += "?" if question else "."
        return text
    if style > 0.8 and name:
        text = text.replace(name, name.lower())
    if 0.6 < style < 0.72:
        return text.replace("'", "").rstrip("?.!") or text
    if 0.72 < style < 0.8 and len(text) > 6:
        return _slip(rng, text)
    return text.upper() if style > 0.985 else text


_QUESTION_WORDS = set("what how who where when why is are do does can could will have may which any got".split())


def _slip(rng: random.Random, text: str) -> str:
    """One typing slip: a letter lost, doubled or swapped with its neighbour (digits stay)."""
    i = rng.randrange(1, len(text) - 1)
    if not (text[i].isalpha() and text[i + 1].isalpha()):
        return text
    return pick(
        rng, [text[:i] + text[i + 1 :], text[:i] + text[i] + text[i:], text[:i] + text[i + 1] + text[i] + text[i + 2 :]]
    )


def politely(rng: random.Random, ask: str, answer: str) -> tuple[str, str]:
    """The same exchange with a greeting or a courtesy around the question."""
    shape = rng.random()
    if shape < 0.55:
        ask = (
            expand(rng, "{hello|hi|hey|good day|good evening|hi there|hello marla|hi marla|greetings}{,|!|.|} ")
            + " "
            + (capital(ask) if rng.random() < 0.5 else ask)
        )
        answer = expand(rng, "{Hello, love!|Welcome!|Good day to you!|Hello!|||}") + " " + answer
    elif shape < 0.75:
        ask = (
            expand(
                rng,
                "{marla,|excuse me,|please,|so,|well,|and|um,|tell me,|i wonder,|hey marla,|ok,|listen,|one question:}",
            )
            + " "
            + ask
        )
    else:
        ask = ask.rstrip("?.! ") + expand(rng, "{, marla|, please| please|, friend| my friend|, good keeper}{|?|.|!}")
    return ask, answer.strip()


SYSTEM = (
    "{You are|Act as|Play} {Marla|a tavern keeper|the tavern keeper Marla|Marla, keeper of the Gilded Goose}{| in a game| in a fantasy game| in a small village}. {|Stay in character.|Be {friendly|warm|short and friendly}.|Speak kindly to {travellers|the player}.}"
    "|You are a {helpful|friendly} {assistant|chatbot}."
)


def chat(rng: random.Random) -> str:
    """A whole conversation in ChatML, of one topic or of many."""
    messages = []
    guest = Guest(rng)
    if rng.random() < 0.25:
        system = expand(rng, "{" + SYSTEM + "}")
        if rng.random() < 0.25:
            guest.name = guest_name(rng)
            system += expand(
                rng,
                " {The player is called <n>.|The player's name is <n>.|You are talking to <n>.|The guest is named <n>.}",
                {"n": guest.name},
            )
        messages.append(("system", system))
    turns = guest.greet() if rng.random() < 0.35 else []
    turns += guest.offer_taken(turns[-1][1]) if turns else []
    # Mostly short chats; one in twelve goes on for the whole evening, to make the long context real.
    topics = rng.randint(8, 24) if rng.random() < 0.08 else pick(rng, [1, 1, 1, 2, 2, 3, 4, 5])
    if turns and rng.random() < 0.15:
        topics = 0
    for _ in range(topics):
        turns += guest.turns()
    if rng.random() < 0.15:
        turns += guest.talk("bye")
    for i, (ask, answer) in enumerate(turns):
        if rng.random() < (0.3 if i == 0 else 0.05):
            ask, answer = politely(rng, ask, answer)
        messages.append(("user", as_typed(rng, ask, guest.name)))
        messages.append(("assistant", answer))
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages)


def notes(rng: random.Random) -> str:
    """Facts and sums as plain lines, without a chat around them."""
    lines = [pick(rng, FACTS)[1] + "." for _ in range(rng.randint(1, 5))]
    for _ in range(rng.randint(1, 8)):
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        lines.append(
            pick(
                rng,
                [
                    f"{a} + {b} = {a + b}",
                    f"{max(a, b)} - {min(a, b)} = {abs(a - b)}",
                    f"{a % 11} x {b % 11} = {(a % 11) * (b % 11)}",
                ],
            )
        )
    rng.shuffle(lines)
    return "\n".join(lines)


def documents(seed: int, count: int):
    """`count` documents; the same seed gives the same text."""
    rng = random.Random(seed)
    for _ in range(count):
        shape = rng.random()
        if shape < 0.88:
            yield chat(rng)
        elif shape < 0.97:
            yield story(rng, (pick(rng, TOPICS),) if rng.random() < 0.3 else ())[0]
        else:
            yield notes(rng)


if __name__ == "__main__":
    for text in documents(int(sys.argv[1]) if len(sys.argv) > 1 else 0, 20):
        print(text, end="\n\n")
