"""Stories of 80 to 180 words: a hero, a wish, a trouble, a turn, an ending.

Names, objects and places are chosen once for a story and used throughout, so that the model can
learn to keep them straight. A requested topic becomes the hero when it can be one ("a fox"), the
adversary when it is one ("a dragon"), and the treasured object otherwise ("a teapot").
"""

import random

from grammar import article, capital, expand, pick

NAMES = {
    "she": (
        "Ada Alys Bela Cora Dara Edda Elsie Fenna Greta Hanna Ida Isolde Jessa Kira Lena Linnet Mabel Mira Nell "
        "Nora Odette Petra Posy Rosa Runa Sanna Saskia Tess Tilda Una Vera Willa Wren Ysolde Zara"
    ).split(),
    "he": (
        "Albin Aldo Bram Cedric Corin Dorin Edric Emil Falk Finn Gideon Harald Hugo Ivo Jasper Joss Kasper Leo "
        "Lorin Magnus Milo Nico Oskar Otto Perrin Quill Rolf Rufus Silas Tobin Tomas Ulric Viktor Wim Yorick"
    ).split(),
}
PEOPLE = {
    "she": "baker, weaver, shepherd girl, princess, queen, witch, fiddler, young knight, clockmaker, beekeeper, girl, miller's daughter, pirate, potter",
    "he": "baker, blacksmith, shepherd boy, prince, king, wizard, fiddler, young knight, fisherman, woodcutter, boy, tailor, farmer, thief, cobbler, sailor",
}
ANIMALS = "fox, mouse, bear, cat, goose, hedgehog, rabbit, owl, badger, otter, frog, pony, dog, crow, squirrel, pig, donkey, hen, wolf, snail"
KINDS = {p: kinds.split(", ") for p, kinds in PEOPLE.items()}
ANIMALS = ANIMALS.split(", ")
FOES = ["dragon", "troll", "giant", "ghost", "goblin"]
OBJECTS = (
    "silver bell, golden key, red scarf, wooden flute, little lantern, copper kettle, blue cup, old map, music box, "
    "glass marble, pearl ring, feather hat, honey jar, clay whistle, brass compass, silk ribbon, painted egg, "
    "iron horseshoe, green cloak, paper kite, tin soldier, wool blanket, apple tree, moonstone, oak chest"
).split(", ")
PLACES = (
    "in a small village by the river, at the edge of the Whisperwood, in a cottage under Mount Cinder, in a quiet valley, "
    "on a windy hill, in a harbour town, in a mill at the crossroads, in a castle with crooked towers, on a farm behind the hills, "
    "on an island in the lake, on the far side of the marsh, in a street of crooked houses"
).split(", ")
HIDING = (
    "under the old bridge, in a hollow oak, behind the waterfall, at the bottom of the well, on top of the bell tower, "
    "in the mill loft, deep in the cave, between two grey stones, in a nest of straw, beneath the roots of a willow"
).split(", ")
TRAITS = {
    "kind": "A kind hand opens more doors than a strong one",
    "brave": "Being brave only means going on while your knees shake",
    "patient": "Slow feet still reach the mountain",
    "clever": "A good idea weighs nothing and carries far",
    "honest": "The truth is light to carry",
    "cheerful": "A song costs nothing and warms the whole house",
}
PRONOUNS = {
    "she": {"she": "she", "She": "She", "her": "her", "Her": "Her", "hers": "her", "herself": "herself"},
    "he": {"she": "he", "She": "He", "her": "his", "Her": "His", "hers": "him", "herself": "himself"},
}

OPENING = (
    "{Once upon a time|Once|Long ago|Many winters ago|In my grandmother's day|One autumn}, <place>, there lived <a_kind> {named|called} <name>. "
    "|{There once was|There was once} <a_kind> {named|called} <name>, who lived <place>. "
)
CHARACTER = (
    "<She> was {as <trait> as anyone could wish|known to be <trait>|not rich, but <she> was <trait>}, and "
    "{what <she> loved best was <her> <object>|the thing <she> treasured most was <a_object>|<she> was proud of <her> <object>}. "
)
ENDING = (
    "{And from that day on|From then on|Ever after}, <name> {slept well|laughed more often|was welcome at every table|kept the <object> on a shelf by the fire}. "
    "{<moral>.|As they say: <moral_low>.|And the lesson? <moral>.|And that is how it was, as true as I stand here.|The end.}"
    "|{And they all had soup together|And there was dancing until dawn|And <name> smiled all the way home}. "
    "{<moral>.|Remember it: <moral_low>.|That is the whole tale.|The end.}"
)

# Each plot is the middle of a story; every line is one or two sentences of it.
PLOTS = {
    "lost": (
        "One {morning|evening|rainy day}, the <object> was gone. {<name> looked under the bed and behind the stove, but found only dust|<name> searched the house from cellar to roof, but it was nowhere}. ",
        '{On the road|By the gate|At the crossroads} <she> met <a_helper>. "{I will help you look|Two pairs of eyes are better than one}", said the <helper>, "if you {share your bread|tell me a joke|scratch my ear}." ',
        "So <name> {did as the <helper> asked|laughed and did just that}, and together they {walked until the sun was low|followed a trail of small footprints}. ",
        "And there, <hiding>, lay the <object>, {shining in the last light|a little muddy, but whole}. {A magpie had carried it off|The wind had blown it there} {and forgotten it|and nobody had noticed}. ",
        "<name> {hugged|thanked} the <helper>, and they {went home arm in arm|were friends for the rest of their days}. ",
    ),
    "foe": (
        "One {night|winter}, a <foe> came and {took the <object>|carried the <object> away}. {Everyone was afraid|The neighbours locked their doors}, but <name> {packed some cheese|put on <her> boots} and followed the tracks. ",
        '<She> found the <foe> {crying softly|sitting all alone} <hiding>. "{Why did you take it|Why do you weep}?" asked <name>. ',
        '"{Because nobody ever invites me to supper|Because I am lonely|Because it is so quiet here}", {sniffed|sighed|said} the <foe>, "and the <object> is {so lovely|the only pretty thing I know}." ',
        '<name> thought about it. "{Then come to supper|Come and eat with us}", <she> said. "{There is soup enough|We have stew for one more}." ',
        "The <foe> {gave back the <object>|handed over the <object>} and {ate nine bowls of stew|washed every dish|told jokes all night}. ",
    ),
    "kindness": (
        "One {cold|stormy|foggy} {night|day}, <name> found <a_helper> {shivering at the door|with a hurt foot|stuck in the mud}. {Others had walked past|Nobody else had stopped}, but <name> {brought it in and warmed some milk|carried it home in <her> coat}. ",
        "In the morning the <helper> {was gone|bowed and went its way}, and <name> thought no more of it. ",
        "That {spring|summer} a great flood came, and the water carried the <object> away. {<name> sat on the roof and was very sad|<name> could only watch it go}. ",
        'Then <she> heard a {splash|small voice}. It was the <helper>, and it held the <object>! "{You helped me once|I have not forgotten the milk}", it said. "{Now we are even|Now it is my turn}." ',
        "<name> {laughed and cried at once|could hardly speak}, and {asked the <helper> to stay|gave the <helper> the best seat by the fire}. ",
    ),
    "bridge": (
        'One day <she> had to carry the <object> {to the market|to <her> grandmother|over the river}, but a {<foe>|grumpy <foe>} sat on the bridge. "{Nobody passes|You shall not pass}", it growled, "unless you {answer my riddle|can tell me a riddle I cannot solve}." ',
        "{<name> sat down on a stone and thought|<name> took a deep breath}. {The river ran and the clouds went by|A frog croaked twice}. ",
        '"{What has a bed but never sleeps|What runs all day and never gets tired}?" <she> asked at last. The <foe> {scratched its head|counted on its toes} until the moon came up. ',
        '"{I do not know|I give up}", said the <foe>. "What is it?" "{The river under your feet|The river, of course}", said <name>, and the <foe> laughed so hard that {the bridge shook|a fish jumped out}. ',
        "It let <hers> pass, and {every week they met to trade riddles|it carried the <object> to the other side itself}. ",
    ),
    "wish": (
        'One evening <she> {caught a silver fish|helped a star down from a tree|freed a fairy from a spider\'s web}. "{Let me go|Thank you}", it said, "and I will grant you one wish." ',
        "{<name> thought of gold|<name> thought of a castle}, and then of {fine clothes|a hundred cakes}. But <she> looked at <her> <object>, and at <her> {warm little house|good friends}. ",
        'Just then <she> heard someone weeping: it was <a_helper>, who had lost its way home. "I know my wish", said <name>. "{Bring this <helper> home|Show this <helper> the way home}." ',
        '{There was a flash of light|The wind turned warm}, and the <helper> was gone. "You could have had anything", said the voice. "{I have enough|I have all I need}", said <name>. ',
        "In the morning {there was a full purse beside the <object>|the garden was full of flowers, though it was winter}. ",
    ),
    "contest": (
        "One summer the {queen|king|mayor} held a contest: whoever brought the {finest|strangest|loveliest} thing would win a {bag of gold|white horse}. {<name> polished the <object> all night|<name> wrapped the <object> in a clean cloth} and set out. ",
        "On the way <she> met <a_helper> who was {hungry|tired|cold}. So <name> {gave away <her> lunch|carried the <helper> on <her> back|lent it <her> coat}, and came to the castle late. ",
        '{The others laughed|Everyone laughed}: "Only <a_object>?" But the <helper> {began to dance around it|jumped up and told the whole story}. ',
        'The {hall|whole court} went quiet. "{The <object> is pretty|Many things are pretty}", said the judge, "but a {good heart|kind deed} is the {finest|rarest} thing I have seen today." ',
        "So <name> won, and {shared the prize with the <helper>|bought cake for the whole town}. ",
    ),
    "haunted": (
        "Every night there was a {strange noise|knocking and a moaning} <hiding>. {People said it was cursed|The neighbours spoke of ghosts}, and nobody dared to look. ",
        '"Someone has to", said <name>. <She> took <her> <object> and a candle, and went {there at midnight|out into the dark}. <Her> {knees shook|heart beat like a drum}, but <she> went on. ',
        '{"Who is there?" <she> called.|"Show yourself!" <she> said.} {Something moved|Two eyes blinked}. And out came <a_helper> with its {tail|foot|ear} caught in an old pot! ',
        "<name> {laughed until <she> had to sit down|was so relieved that <she> laughed}. <She> pulled the pot off, and the <helper> {sneezed three times|gave a happy hop}. ",
        "{The next night it was quiet|After that, the nights were quiet}, and the <helper> {slept at the foot of <her> bed|came to visit every Sunday}. ",
    ),
    "storm": (
        "One night a storm {broke every lamp in the harbour|blew out every light in the valley}. {A boat was still out on the water|A child had not come home}. ",
        "<name> took the <object>, climbed {the highest hill|up the bell tower} and {sang as loud as <she> could|rang and shouted}. {The wind pulled at <her> coat|The rain was cold as iron}. ",
        '"It is no use", said <a_helper> beside <hers>. "{Then help me|Two are louder than one}", said <name>. So they {sang together|both called out}, all through the night. ',
        "{Just before dawn|At first light} a voice answered. {They had heard|The sound had shown them the way home}! ",
        "{Everyone came running with blankets and soup|There were tears and hot soup for all}, and people still point to the {hill|tower} and {tell of that night|say <name>'s name}. ",
    ),
    "garden": (
        'One spring <she> planted a seed next to <her> <object>. {The neighbours smiled|"Nothing grows there", said the neighbours}. <name> watered it every morning all the same. ',
        'A week went by, and {nothing came|there was only mud}. A month went by, and {still nothing|not even a leaf}. <A_helper> came along and {asked what <she> was doing|asked why <she> sat there}. "Waiting", said <name>. ',
        '"{May I wait with you|Shall I wait with you}?" asked the <helper>. And so they {told each other stories|shared apples} while they waited. ',
        "And one {bright|dewy} morning a green shoot stood there. By summer it was {taller than the house|full of golden pears}, and {children came from three villages to climb it|the whole village ate from it}. ",
        '"{You see|There}", said <name> to the <helper>, "{it was only taking its time|it was worth the wait}." ',
    ),
}
# A foe asked for by name needs a plot in which it has a part.
FOE_PLOTS = ["foe", "bridge"]


def story(rng: random.Random, topics: tuple = (), name: str | None = None) -> tuple[str, dict]:
    """A story and its cast; the cast lets a chat ask about it afterwards."""
    pronoun = next((p for p in NAMES if name in NAMES[p]), pick(rng, ["she", "he"]))
    kinds = KINDS[pronoun]
    kind = pick(rng, ANIMALS if rng.random() < 0.25 else kinds)
    obj, foe = pick(rng, OBJECTS), pick(rng, FOES)
    plot = pick(rng, list(PLOTS))
    for topic in topics:
        if topic in FOES:
            foe, plot = topic, pick(rng, FOE_PLOTS)
        elif topic in ANIMALS:
            kind = topic
        elif topic in KINDS["she"] or topic in KINDS["he"]:
            pronoun = pick(rng, [p for p in KINDS if topic in KINDS[p]])
            kind = topic
        else:
            obj = topic
    name = name or pick(rng, NAMES[pronoun])
    helper = pick(rng, [a for a in ANIMALS if a != kind])
    trait = pick(rng, list(TRAITS))
    moral = TRAITS[trait]
    slots = {
        **PRONOUNS[pronoun],
        "name": name, "kind": kind, "a_kind": article(kind), "object": obj, "a_object": article(obj),
        "helper": helper, "a_helper": article(helper), "A_helper": capital(article(helper)), "foe": foe,
        "place": pick(rng, PLACES), "hiding": pick(rng, HIDING), "trait": trait,
        "moral": moral, "moral_low": moral[0].lower() + moral[1:], "plot": plot,
    }  # fmt: skip
    template = "{" + OPENING + "}" + CHARACTER + "".join(PLOTS[plot]) + "{" + ENDING + "}"
    return expand(rng, template, slots), slots
