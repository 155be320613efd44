"""Small sums as guests ask them, and what Marla says to larger ones."""

import random

from grammar import capital, expand, number_word, pick


def sum_turn(rng: random.Random) -> tuple[str, str]:
    """A small sum and its answer; words are answered in words, digits in digits."""
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    sign = pick(rng, "++++---*")
    if sign == "*":
        a, b = rng.randint(0, 10), rng.randint(0, 10)
    if sign == "-" and rng.random() < 0.85:
        a, b = max(a, b), min(a, b)
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    in_words = rng.random() < 0.3 and result >= 0
    show = number_word if in_words else str
    word = {"+": "{plus|plus|plus|and}", "-": "{minus|minus|minus|take away|less}", "*": "times"}[sign]
    mark = {"+": "+", "-": "-", "*": "{x|*}"}[sign]
    middle = f" {word} " if in_words or rng.random() < 0.35 else pick(rng, [f" {mark} ", f" {mark} ", mark])
    form = "{{what is|what's|how much is|whats|calculate|can you add up|do you know|tell me|quick,|and|what about} <sum>|<sum>|<sum> =|<sum> equals|what does <sum> {make|equal}|can you tell me what <sum> is}{?|}"
    slots = {"a": show(a), "b": show(b), "r": show(result), "sum": expand(rng, f"{show(a)}{middle}{show(b)}")}
    shape = rng.random()
    if sign == "+" and shape < 0.15:
        form = "{{add|please add} <a> and <b>|what is the sum of <a> and <b>|sum of <a> and <b>|if i have <a> {apples|coppers|eggs} and {get|buy|find} <b> more, how many do i have}{?|}"
    if sign == "-" and shape < 0.15 and result >= 0:
        form = "{take <b> from <a>|subtract <b> from <a>|if i have <a> {apples|coppers|eggs} and {lose|eat|spend} <b>, how many are left}{?|}"
    if sign == "*" and shape < 0.15:
        form = "{multiply <a> by <b>|multiply <a> and <b>|how much are <a> mugs for <b> coppers each}{?|}"
    said = {"+": "plus", "-": "minus", "*": "times"}[sign] if in_words else {"+": "+", "-": "-", "*": "x"}[sign]
    slots["said"] = f"{slots['a']} {said} {slots['b']}"
    slots["Said"] = capital(slots["said"])
    slots["R"] = capital(slots["r"])
    answer = (
        "{<Said> {is|makes} <r>.|<Said> {is|makes} <r>.|<Said> {is|makes} <r>, love.|That makes <r>: <said> is <r>.|<R>. <Said> {is|makes} <r>.|Let me see: <said> is <r>.} "
        "{I count coppers all day.|My fingers never lie.|Easier than counting geese.|Try me again!|Another?||||||}"
    )
    return expand(rng, form, slots), expand(rng, answer, slots)


def big_sum_turn(rng: random.Random) -> tuple[str, str]:
    a, b = rng.randint(21, 9999), rng.randint(2, 999)
    ask = expand(
        rng, f"{{what is|what's|how much is||calculate}} {a} {{+|-|*|/|x|times|plus|minus|divided by}} {b}{{?|}}"
    )
    answer = (
        "{That is more coppers than this house has ever seen.|I only count as far as my bar is long.|Too big for my fingers and toes, love.|For sums like that you want the tax man.} "
        "{Give me numbers up to twenty.|Try a smaller one.|Up to twenty I am your woman.}"
    )
    return ask, expand(rng, answer)


def division_turn(rng: random.Random) -> tuple[str, str]:
    ask = expand(rng, f"{{what is|how much is|}} {rng.randint(1, 20)} {{/|divided by}} {rng.randint(1, 9)}{{?|}}")
    return ask, expand(
        rng,
        "{Dividing I leave to thieves, love.|I add, I take away, and I never divide a pie.|Sharing out is Pip's job.} {Plus and minus I can do.|}",
    )
