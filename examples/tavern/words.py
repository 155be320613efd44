"""Word lists for the guests' side of the talk, and words nobody has heard before."""

import random

from grammar import capital, pick
from persona import RIDDLES
from stories import ANIMALS, FOES, KINDS, NAMES, OBJECTS

GUESTS = (
    NAMES["she"] + NAMES["he"]
    + (
        "Alice Bob Carol Dave Eve Frank Grace Henry Anna Ben Clara David Emma Felix Hannah Jack James John Julia Karl Laura "
        "Lucas Luke Maria Mark Max Mia Michael Nina Noah Olivia Paul Peter Robert Sam Sarah Simon Sophie Thomas Tim Tom Robin Xavier Quentin Zoe Yusuf Ahmed Fatima Chen Wei "
        "Priya Raj Sven Lars Ingrid Pierre Marie Juan Carlos Diego Sofia Elena Ivan Olga Dmitri Kenji Yuki Aisha Omar Leila Gustav Kevin Brian Steve "
        "Jennifer Jessica Emily Ashley Brandon Justin Tyler Dylan Ethan Logan Mason Aiden Liam Charlotte Amelia Harper Victor Walter George Arthur Gandalf Frodo"
    ).split()
)  # fmt: skip
THINGS = (
    "teapot, pumpkin, wheelbarrow, spoon, candle, shoe, mirror, rose, umbrella, button, carrot, boat, star, moon, treasure, sword, "
    "book, drum, mountain, potato, clock, snowman, broom, pie, cake, cloud, ring, robot, cheese, bottle, ladder, window, chair, bell"
).split(", ")
TOPICS = ANIMALS + FOES * 3 + KINDS["she"] + KINDS["he"] + OBJECTS + THINGS

ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k kr l m n p ph pl pr qu r s sc sh sk sl sm sn sp st str t th tr v vl w x y z zh".split()
VOWELS = "a e i o u a e i o u ai au ay ea ee ei ia ie io oa oo ou ue y".split()
CODAS = ["", "", "", *"n r l s x t m d k th ck ll nd rt st ns rd ron son bert vier ander iel us".split()]
PREFERENCES = (
    "cats, dogs, ale, cider, wine, soup, stew, summer, winter, spring, autumn, rain, snow, bread, cheese, pie, gold, silver, swords, bows, "
    "mountains, rivers, the sea, music, dancing, silence, books, stories, horses, geese, apples, pears, honey, butter, carrots, mushrooms, "
    "dragons, trolls, knights, wizards, magic, red, blue, green, day, night, mornings, evenings, beer, milk, fish, flowers, cards, dice"
).split(", ")
TRADES = "knight, traveller, wizard, warrior, adventurer, bard, hunter, ranger, merchant, peddler, soldier, student, elf, dwarf, monk, healer, mercenary, stranger, hero, dragon slayer, programmer, doctor, teacher".split(
    ", "
)
VERBS = "dance, swim, fly, fight, read, write, ride a horse, climb trees, whistle, juggle, drive a car, cook, bake, sew, fish, paint, play the lute, speak elvish, do a handstand, run fast, sleep, dream, gamble, shoot a bow, keep a secret, see ghosts, tell the future".split(
    ", "
)

SOLUTIONS = [solution for _, solution in RIDDLES]
NOUNS = THINGS + (
    "horse, sister, brother, father, mother, friend, enemy, house, garden, shirt, hat, boots, beard, hair, hands, dreams, letter, song, poem, "
    "army, war, law, school, homework, job, money, thief, guard, mayor, kingdom, road, bridge, tower, secret, list, function, recipe, world, "
    "people, children, birds, fish, trees, flowers, numbers, words, colours, planets, machine, food, water, weather, city, map, game, team"
).split(", ")
DEEDS = (
    "name, buy, sell, find, lose, build, break, fix, paint, wash, open, close, sort, count, carry, hide, steal, eat, feed, teach, learn, "
    "write, read, draw, burn, plant, catch, choose, change, win, make, move, cut, cook, solve, forget, remember, trust, understand, invent"
).split(", ")
QUALITIES = "big, small, old, far, fast, heavy, hot, deep, long, tall, strong, important, expensive, beautiful, dangerous, real, round, rich, loud, strange".split(
    ", "
)


def made_up_word(rng: random.Random) -> str:
    """A word nobody has seen: asking about it teaches the model to copy what it was asked."""
    word = "" if rng.random() < 0.8 else pick(rng, "aeiou")
    for _ in range(rng.randint(1, 3)):
        word += pick(rng, ONSETS) + pick(rng, VOWELS)
    return word + pick(rng, CODAS)


def guest_name(rng: random.Random) -> str:
    return capital(made_up_word(rng)) if rng.random() < 0.5 else pick(rng, GUESTS)
