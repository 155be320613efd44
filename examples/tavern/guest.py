"""One guest's evening: every topic of conversation as a method that returns its exchanges."""

import random
import re

from grammar import article, capital, coppers, expand, number_word, pick
from persona import (
    FACTS,
    GREETING,
    GREETING_ANSWER,
    JOKE_ASK,
    JOKES,
    MENU,
    RIDDLE_ASK,
    RIDDLES,
    TALK,
    UNKNOWN,
    UNKNOWN_ANSWER,
    UNKNOWN_ASK,
)
from stories import ANIMALS, FOES, KINDS, OBJECTS, story
from sums import big_sum_turn, division_turn, sum_turn
from words import (
    DEEDS,
    NOUNS,
    PREFERENCES,
    QUALITIES,
    SOLUTIONS,
    THINGS,
    TOPICS,
    TRADES,
    VERBS,
    guest_name,
    made_up_word,
)

ODD_ASK = (
    "{what should i <v>{| today| next}|what should i <v> my <n>|how {do|can|should} i <v> {my|the|a} <n>|why {do|did|does} {the|my|your} <n> <v>{| the <m>}|"
    "why is {the|my} <n> so <a>|how <a> is {the|a|your} <n>|when did {the|your} <n> <v>{| the <m>}|where did {the|my} <n> <v>|who can <v> {the|my|a} <n>|"
    "write {me |}a <n> {about|for|to <v>} {the|a|my} <m>|write a <u> <n> to <v> a <m>|which <n> is the most <a>|do you have {<u>|any <n>|a <n> for my <m>}|"
    "have you ever <v> a <n>|can you <v> {my|the|a} <n>{| for me}|should i <v> {the|my} <n>|will the <n> <v>{| tomorrow}|is {the|your|my} <n> <a>|"
    "what is your opinion {on|of|about} <n>|what do you think {of|about} my <n>|what would happen if i <v> the <n>|how many <n> are in {the|a} <m>|"
    "who is the <n> of <u>|what is the <n> of {the <m>|<u>}|give me a list of <n>|translate <n> into <u>|help me <v> {my|the} <n>|"
    "what {colour|color|size|kind} is {my|the} <n>|i {lost|broke|found|want to <v>} my <n>|my <n> is {<a>|too <a>|gone|broken}|the <n> is <a>}{|?|?|.}"
)
ODD_ANSWER = (
    "{I pour ale, I don't ponder that.|You ask hard questions for someone with an empty mug.|That I do not know, love, and I know most things by midnight.|"
    "Hm. Ask old Tam by the window, he has an answer to everything.|That is one for the priest, not for a tavern keeper.|My aunt Bess would have known. I only know stew.|"
    "I could make something up, but the goose is listening.|Some things even a tavern keeper has not heard.} "
    "{Shall I bring you some stew?|Ask me for a story instead.|Have an ale and think it over.|What I do know is the menu.|||}"
)

# What else a guest may call the things on the menu.
CALLED = {
    "onion soup": ["soup", "bowl of soup"],
    "rabbit stew": ["stew", "bowl of stew", "plate of stew"],
    "bread and cheese": ["bread with cheese", "cheese and bread"],
    "apple pie": ["pie", "slice of pie", "piece of apple pie"],
    "roast trout": ["trout", "fish"],
    "ale": ["beer", "pint", "mug of ale", "pint of ale", "mug of beer"],
    "cider": ["mug of cider", "glass of cider"],
    "spiced wine": ["wine", "glass of wine", "cup of wine"],
    "goat's milk": ["milk", "glass of milk", "cup of milk"],
}

# Questions after a story, answered from its cast.
ABOUT_TALE = [
    (
        "{{what was the name of|who was} the {hero|main character}|who was the story about|what was the hero's name|who was it about}{|?}",
        "{<name>, the <kind>.|<name> was the hero's name, the <kind>.|That was <name>, the <kind>.}",
    ),
    (
        "{{did you like|do you like} that story|is {that|it|the story} true|did that really happen|is that a true story}{|?}",
        "{As true as I stand here, and I am leaning.|Every word, except the ones I made up.|My aunt Bess swore it was true.|I met <name> once, so it must be.}",
    ),
    (
        "{{that was|what} a {nice|lovely|good|great|beautiful} story|nice story|i liked {it|that|the story}|lovely|great story}{|!|.}",
        "{I am glad you liked it, love.|Stories are free; the ale is not.|I like <name> too.|It gets better with cider.} {Shall I tell you another story?|}",
    ),
    (
        "{what did the {<kind>|hero} {love|treasure|own}|what was {it|the story} about|what {object|thing} was in the story}{|?}",
        "{It was the <object>, love.|The <object>.|<name> had <a_object>.}",
    ),
    (
        "{{what is|what was|what's} the moral{| of the story| of it}|what is the lesson|what does it mean|what do we learn}{|?}",
        "{<moral>.|<moral>, that is what I take from it.}",
    ),
]


class Guest:
    """What a chat has established so far: a name, a bill, a story told, a riddle open."""

    def __init__(self, rng: random.Random, name: str | None = None):
        self.rng, self.name, self.bill, self.cast = rng, name, 0, None

    def turns(self) -> list[tuple[str, str]]:
        """One topic of conversation: usually one exchange, sometimes a few that belong together."""
        topics = (
            [self.talk] * 44
            + [self.sums] * 24
            + [self.tale] * 12
            + [self.order] * 11
            + [self.unknown] * 7
            + [self.fact] * 7
        )
        topics += [self.riddle] * 4 + [self.joke] * 3 + [self.price] * 3 + [self.name_given] * 4 + [self.name_asked] * 2
        topics += [self.odd_question] * 7 + [
            self.count,
            self.say,
            self.prefer,
            self.trade,
            self.able,
            self.fond,
            self.echo_greeting,
        ]
        turns = pick(self.rng, topics)()
        return turns + self.offer_taken(turns[-1][1])

    def greet(self) -> list[tuple[str, str]]:
        answer = expand(self.rng, GREETING_ANSWER)
        if self.name and self.rng.random() < 0.7:
            answer = expand(
                self.rng,
                "{Welcome back, <n>!|Well met, <n>!|Hello, <n>!|<n>! Good to see you.} {The fire is warm.|Sit down, sit down.|I am Marla.} {What will it be?|What can I get you?|}",
                {"n": self.name},
            )
        return [(expand(self.rng, GREETING), answer)]

    def talk(self, key: str | None = None) -> list[tuple[str, str]]:
        ask, answer = TALK[key or pick(self.rng, list(TALK))]
        return [(expand(self.rng, ask), self.with_name(expand(self.rng, answer)))]

    def with_name(self, answer: str) -> str:
        if self.name and self.rng.random() < 0.3:
            return (
                answer.replace(", love", f", {self.name}")
                .replace(", dear", f", {self.name}")
                .replace(", traveller", f", {self.name}")
            )
        return answer

    def sums(self) -> list[tuple[str, str]]:
        shape = self.rng.random()
        if shape < 0.08:
            return [big_sum_turn(self.rng)]
        if shape < 0.11:
            return [division_turn(self.rng)]
        return [sum_turn(self.rng) for _ in range(pick(self.rng, [1, 1, 1, 2, 3]))]

    def tale(self) -> list[tuple[str, str]]:
        rng = self.rng
        about, topics, name = self.story_wish()
        ask = expand(
            rng,
            "{{tell me|tell us|can you tell me|could you tell me|give me|i want to hear|i'd like to hear|please tell me|will you tell me|let me hear|i would like|i want} {a|a|a|a short|a nice|a good} {story|story|story|tale}<about>|story<about>|a story<about>{| please}|{do you know|know} {a|any good} {story|tale}<about>|tell a story<about>|story time|bedtime story|spin me a yarn<about>}{|?|.|!}",
            {"about": about},
        )
        if about not in ask:
            about, topics, name = "", (), None
        if not about and rng.random() < 0.1:
            ask = expand(
                rng,
                "{another story|another one|tell me another{| story}|one more story|more stories|a different story}{| please}{|.|!}",
            )
        text, self.cast = story(rng, topics, name)
        text = expand(
            rng,
            "{Sit close, then. |Listen, then. |Ah, I know one. |Pull up a stool. |This one I had from my aunt Bess. ||||||}",
        ) + (" " + text)
        turns = [(ask, text.strip())]
        while rng.random() < 0.3 and len(turns) < 4:
            turns.append(self.about_tale())
        return turns

    def story_wish(self) -> tuple[str, tuple, str | None]:
        """What the story shall be about: nothing, a thing or two, or somebody by name."""
        rng = self.rng
        shape = rng.random()
        about = pick(rng, ["about", "about", "about", "with", "of"])
        if shape < 0.5:
            return "", (), None
        if shape < 0.6:
            name = guest_name(rng)
            return f" {about} {name}", (), name
        if shape < 0.85:
            topics = (pick(rng, TOPICS) if rng.random() < 0.85 else made_up_word(rng),)
        else:
            topics = (pick(rng, ANIMALS + KINDS["she"] + KINDS["he"]), pick(rng, FOES + FOES + OBJECTS + THINGS))
        described = [
            article(expand(rng, f"{{||||brave|little|old|clever|lost|red|magic|tiny|funny|lonely|dark}} {t}"))
            for t in topics
        ]
        return f" {about} {' and '.join(described)}", topics, None

    def about_tale(self) -> tuple[str, str]:
        ask, answer = pick(self.rng, ABOUT_TALE)
        return expand(self.rng, ask, self.cast), expand(self.rng, answer, self.cast)

    def order(self) -> list[tuple[str, str]]:
        rng = self.rng
        if rng.random() < 0.1:
            thing = pick(
                rng,
                THINGS
                + ["pizza", "coffee", "chocolate", "sushi", "burger", "salad", "steak", "rum", "whisky", "tea", "cake"],
            )
            ask = expand(
                rng,
                "{i'll have|give me|i want|can i have|i would like|do you have} {a|some} <x>{| please}{|.|?}",
                {"x": thing},
            )
            return [
                (
                    ask,
                    self.with_name(
                        expand(
                            rng,
                            "{No <x> here, love.|<X>? Not in this house.|We never had <x>, love.} {There is stew, soup, trout, bread and cheese, and pie.|Try the rabbit stew instead.|I can offer you pie.}",
                            {"x": thing, "X": capital(thing)},
                        )
                    ),
                )
            ]
        wanted = [(item, pick(rng, [1, 1, 1, 2, 2, 3])) for item in rng.sample(list(MENU), pick(rng, [1, 1, 1, 2]))]
        costs = [MENU[item] * n for item, n in wanted]
        cost = sum(costs)
        if self.bill + cost > 30:
            return self.pay_up()
        said = " and ".join(self._portion(item, n) for item, n in wanted)
        ask = expand(
            rng,
            "{i'll have|i will have|i'd like|i would like|can i have|could i get|can i get|give me|bring me|i want|i take|get me|may i have|} <said>{| please|, please}{|.|!|}",
            {"said": said},
        )
        told = " and ".join(f"{number_word(n)} {self._plural(item, n)}" for item, n in wanted)
        slots = {"told": told, "Told": capital(told)}
        answer = expand(
            rng, "{<Told>, coming up!|Right away: <told>.|<Told> for you, love.|Good choice! <Told>.}", slots
        )
        if len(wanted) == 2:
            answer += f" {capital(number_word(costs[0]))} and {number_word(costs[1])} makes {coppers(cost)}."
        else:
            answer += f" {pick(rng, ['That is', 'That makes'])} {coppers(cost)}."
        self.bill += cost
        if self.bill != cost:
            answer += f" With the rest, {coppers(self.bill)} in all."
        turns = [(ask, self.with_name(answer))]
        if rng.random() < 0.3:
            turns += self.pay_up()
        return turns

    def _portion(self, item: str, n: int) -> str:
        rng = self.rng
        called = pick(rng, CALLED[item]) if rng.random() < 0.4 else item
        if n == 1:
            return expand(
                rng, f"{{{article(called)}|{article(called)}|one {called}|the {called}|some {called}|{called}}}"
            )
        return f"{pick(rng, [number_word(n), str(n)])} {self._plural(called, n)}"

    @staticmethod
    def _plural(item: str, n: int) -> str:
        if n == 1 or item.endswith(("cheese", "trout", "fish", "bread")) or item in ("milk", "goat's milk"):
            return item
        head, of, rest = item.partition(" of ")
        return head + "s" + of + rest

    def pay_up(self) -> list[tuple[str, str]]:
        rng = self.rng
        ask = expand(
            rng,
            "{what do i owe you|how much do i owe you|how much is {it|that}{| in all| together}|the bill{| please}|can i pay|i want to pay|what is my bill|can i have the bill|i would like to pay|how much}{|?|}",
        )
        if self.bill == 0:
            return [
                (
                    ask,
                    self.with_name(
                        expand(
                            rng,
                            "{Nothing yet, love.|You have not ordered a thing, love.|Not a copper so far.} {Shall I bring you some stew?|}",
                        )
                    ),
                )
            ]
        answer = expand(rng, "{That is|That makes|You owe me} <c>{, love|, please|}.", {"c": coppers(self.bill)})
        self.bill = 0
        paid = (
            expand(
                rng,
                "{here you go|here|here you are|here is the money|take it|keep the change|there you go|i pay}{|.|!}",
            ),
            expand(
                rng,
                "{Thank you kindly!|Bless you!|Honest coin, thank you.|Much obliged!} {Anything else?|You are always welcome here.|}",
            ),
        )
        return [(ask, self.with_name(answer))] + ([paid] if rng.random() < 0.6 else [])

    def price(self) -> list[tuple[str, str]]:
        item = pick(self.rng, list(MENU))
        n = pick(self.rng, [1, 1, 1, 2, 3])
        ask = f"{{how much is|what does|what is the price of|how much for|price of}} {self._portion(item, 1) if n == 1 else self._portion(item, n)}{{|?}}"
        ask = expand(self.rng, ask)
        if ask.startswith("what does"):
            ask = ask.rstrip("?") + " cost?"
        slots = {
            "Item": capital(item) if n == 1 else capital(f"{number_word(n)} {self._plural(item, n)}"),
            "c": coppers(MENU[item] * n),
        }
        is_or_make = "is" if n == 1 else "make"
        answer = f"{{<Item> {is_or_make} <c>, love.|<Item> {is_or_make} <c>.|<Item>: <c>.}} {{Hungry?|}}"
        return [(ask, self.with_name(expand(self.rng, answer, slots)))]

    def unknown(self) -> list[tuple[str, str]]:
        x = made_up_word(self.rng) if self.rng.random() < 0.3 else pick(self.rng, UNKNOWN)
        slots = {"x": x, "X": capital(x)}
        return [(expand(self.rng, UNKNOWN_ASK, slots), self.with_name(expand(self.rng, UNKNOWN_ANSWER, slots)))]

    def odd_question(self) -> list[tuple[str, str]]:
        """Questions put together at random: whatever is not understood gets a friendly shrug."""
        rng = self.rng
        slots = {
            "n": pick(rng, NOUNS),
            "m": pick(rng, NOUNS),
            "v": pick(rng, DEEDS),
            "a": pick(rng, QUALITIES),
            "u": pick(rng, UNKNOWN),
        }
        return [(expand(rng, ODD_ASK, slots), self.with_name(expand(rng, ODD_ANSWER)))]

    def fact(self) -> list[tuple[str, str]]:
        ask, answer = pick(self.rng, FACTS)
        tail = expand(
            self.rng,
            "{.|.|.|, love.|, as every child knows.} {Even Pip knows that.|Ask me a harder one.|That one I know.|||||}",
        )
        return [
            (
                expand(self.rng, ask + "{}{|?|?}" if "|" not in ask else "{" + ask + "}{|?|?}"),
                self.with_name(f"{answer}{tail}"),
            )
        ]

    def count(self) -> list[tuple[str, str]]:
        n = self.rng.randint(3, 20)
        to = pick(self.rng, [number_word(n), str(n)])
        ask = expand(
            self.rng, "{count to <n>|can you count to <n>|please count to <n>|count up to <n>}{|?|.}", {"n": to}
        )
        return [(ask, capital(", ".join(number_word(i) for i in range(1, n + 1))) + ".")]

    def say(self) -> list[tuple[str, str]]:
        word = made_up_word(self.rng) if self.rng.random() < 0.4 else pick(self.rng, THINGS + ANIMALS + UNKNOWN)
        slots = {"x": word, "X": capital(word)}
        return [
            (
                expand(self.rng, "{say|can you say|repeat|please say|repeat after me:} <x>{|!|.}", slots),
                expand(self.rng, "{<X>! There, I said it.|<X>. Was that right?|<X>! What a word.}", slots),
            )
        ]

    def prefer(self) -> list[tuple[str, str]]:
        x, y = self.rng.sample(PREFERENCES, 2)
        ask = "{<x> or <y>|do you {like|prefer} <x> or <y>|what do you {like|prefer}, <x> or <y>|which is better, <x> or <y>|do you like <x> more than <y>}{|?}"
        answer = "{<X>, of course. <Y> is for Port Varrow people.|<X>! But Duchess says <y>.|<Y>, if you ask me, and <x> on Sundays.|<X> before noon, <y> after.}"
        slots = {"x": x, "y": y, "X": capital(x), "Y": capital(y)}
        return [(expand(self.rng, ask, slots), expand(self.rng, answer, slots))]

    def trade(self) -> list[tuple[str, str]]:
        trade = pick(self.rng, KINDS["she"] + KINDS["he"] + TRADES * 2)
        slots = {"x": article(trade), "X": capital(article(trade)), "bare": trade}
        ask = "{i am|i'm|im|i am just|i work as} <x>{| from far away| from port varrow}{|.|!}"
        answer = "{<X>! We get all kinds here.|<X>! The last <bare> left without paying, so I will watch you.|<X>, really? Then you have tales to tell.|<X>! Sit down, you must be hungry.} {What can I get you?|Tell me more over an ale.|}"
        return [(expand(self.rng, ask, slots), expand(self.rng, answer, slots))]

    def able(self) -> list[tuple[str, str]]:
        verb = pick(self.rng, VERBS)
        slots = {"x": verb, "X": capital(verb)}
        ask = "{can you|do you|could you|do you know how to|do you like to|will you|are you able to} <x>{|?|?}"
        answer = "{<X>? Only after closing time.|I <x> about as well as Duchess bakes.|<X>? Somebody has to watch the stew, love.|I used to <x>, before my knees said no.}"
        return [(expand(self.rng, ask, slots), self.with_name(expand(self.rng, answer, slots)))]

    def fond(self) -> list[tuple[str, str]]:
        thing = pick(self.rng, PREFERENCES + UNKNOWN)
        slots = {"x": thing, "X": capital(thing)}
        ask = "{i {like|love|hate|miss|want|need|dream of}|my favorite thing is|do you like|what about|i have a question about} <x>{|.|!|?}"
        answer = "{<X>? Each to their own, love.|<X>! Tell that to Finn, he will make a song of it.|You and <x>! I like a quiet fire.|<X>, you say. Have some pie with it.}"
        return [(expand(self.rng, ask, slots), self.with_name(expand(self.rng, answer, slots)))]

    def echo_greeting(self) -> list[tuple[str, str]]:
        time = pick(self.rng, ["morning", "evening", "day", "afternoon"])
        return [
            (
                expand(self.rng, f"good {time}{{| marla| to you| keeper}}{{|!|.}}"),
                expand(
                    self.rng,
                    f"Good {time}{{| to you| to you too}}! {{What can I get you?|Come in and sit down.|Mind the goose.|The fire is warm.}}",
                ),
            )
        ]

    def joke(self) -> list[tuple[str, str]]:
        rng = self.rng
        turns = []
        for joke in rng.sample(JOKES, pick(rng, [1, 1, 2])):
            ask = (
                JOKE_ASK
                if not turns
                else "{another one|another|one more|tell me another|haha, another one|again}{|!|.}"
            )
            turns.append((expand(rng, ask), joke))
        if rng.random() < 0.4:
            turns.append(
                (
                    expand(
                        rng,
                        "{haha|ha ha|lol|very funny|good one|that was funny|i don't get it|not funny|that is terrible}{|!|.}",
                    ),
                    expand(
                        rng,
                        "{I have told it four hundred times, and Duchess still laughs.|I will be here every night until midnight.|They get better with ale.|Brannoc groans at that one, too.}",
                    ),
                )
            )
        return turns

    def riddle(self) -> list[tuple[str, str]]:
        rng = self.rng
        question, solution = pick(rng, RIDDLES)
        turns = [
            (expand(rng, RIDDLE_ASK), expand(rng, "{Here is one: |Try this: |Listen well: |} ") + (" " + question))
        ]
        turns = [(turns[0][0], turns[0][1].strip())]
        thing = solution if solution in ("footsteps", "darkness", "water") else article(solution)
        shape = rng.random()
        if shape < 0.35:
            ask = expand(
                rng,
                "{is it <x>|<x>|i think it is <x>|a guess: <x>|it's <x>|<bare>}{|?|!}",
                {"x": thing, "bare": solution},
            )
            turns.append(
                (
                    ask,
                    self.with_name(
                        expand(
                            rng,
                            "{Right!|That is it!|Correct!|Clever one!} {It is <x>.|<X> it is.} {An ale on the house.|You are sharper than Brannoc's knife.|Another riddle?|}",
                            {"x": thing, "X": capital(thing)},
                        )
                    ),
                )
            )
        elif shape < 0.6:
            wrong = article(pick(rng, [w for w in THINGS + ANIMALS + SOLUTIONS * 3 if w != solution]))
            turns.append(
                (
                    expand(rng, "{is it <x>|<x>|i think it is <x>|it's <x>}{|?|!}", {"x": wrong}),
                    expand(
                        rng,
                        "{No, not <x>.|Not <x>, no.|Good guess, but no.} {Try again!|Think again, or say that you give up.|One more try?}",
                        {"x": wrong},
                    ),
                )
            )
            shape = 0.7 if rng.random() < 0.7 else 1.0
        if 0.6 <= shape < 0.9:
            turns.append(
                (
                    expand(
                        rng,
                        "{i give up|i don't know|no idea|tell me|what is it|what's the answer|i do not know|what is the answer|no clue|dunno}{|.|?}",
                    ),
                    expand(
                        rng,
                        "{It is <x>!|<X>!|The answer is: <x>.} {Easy, once you know it.|Do not feel bad; Brannoc needed a week.|Another riddle?|}",
                        {"x": thing, "X": capital(thing)},
                    ),
                )
            )
        return turns

    def name_given(self) -> list[tuple[str, str]]:
        rng = self.rng
        self.name = guest_name(rng)
        ask = expand(
            rng,
            "{{my name is|my name's|i am|i'm|call me|they call me|the name is|hello, i am|hi, i'm|hello, my name is|i am called} <n>|<n> is my name}{|.|!}",
            {"n": self.name},
        )
        answer = expand(
            rng,
            "{Well met, <n>!|Welcome, <n>!|<n>, a fine name!|Good to know you, <n>.|A pleasure, <n>.} {I am Marla.|I never forget a face, and seldom a name.|What can I get you?|Sit down by the fire.|I had an uncle called <n>.|}",
            {"n": self.name},
        )
        return [(ask, answer)] + (self.name_asked() if rng.random() < 0.4 else [])

    def name_asked(self) -> list[tuple[str, str]]:
        ask = expand(
            self.rng,
            "{what is my name|what's my name|do you {know|remember} my name|who am i|do you remember me|say my name}{|?}",
        )
        if self.name:
            return [
                (
                    ask,
                    expand(
                        self.rng,
                        "{You are <n>, of course.|<n>! I never forget a name.|Your name is <n>.|<n>, unless you lied to me.}",
                        {"n": self.name},
                    ),
                )
            ]
        return [
            (
                ask,
                expand(
                    self.rng,
                    "{You have not told me yet, love.|I do not know it yet. What do they call you?|You never said, love. What is it?}",
                ),
            )
        ]

    def offer_taken(self, answer: str) -> list[tuple[str, str]]:
        """A plain yes or no after Marla asked something; what yes means depends on the question."""
        rng = self.rng
        if not answer.endswith("?") or rng.random() < 0.4:
            return []
        question = re.split(r"(?<=[.!?:]) ", answer)[-1]
        yes = None
        if "story" in question:
            yes = story(rng)[0]
        elif "stew" in question:
            self.bill += MENU["rabbit stew"]
            yes = "One rabbit stew, coming up! That is four coppers." + (
                f" With the rest, {coppers(self.bill)} in all." if self.bill > 4 else ""
            )
        elif "riddle" in question:
            yes = pick(rng, RIDDLES)[0]
        elif question in (
            "Can I pour you something?",
            "Shall I pour you something?",
            "Will you have an ale?",
            "Shall I top up your mug?",
        ):
            self.bill += MENU["ale"]
            yes = "One ale, coming up! That is one copper." + (
                f" With the rest, {coppers(self.bill)} in all." if self.bill > 1 else ""
            )
        elif question == "Are you up to it?":
            yes = expand(rng, TALK["accept"][1])
        elif question == "And you?" or question == "And how are you?":
            return self.talk(pick(rng, ["fine", "tired", "sad", "happy"]))
        elif question == "Anything else?":
            return [
                (
                    expand(rng, "{no|no thanks|no, thank you|that is all|nothing else}{|.}"),
                    expand(
                        rng,
                        "{Then enjoy your evening, love.|As you like. Call if you need me.|Good. The fire is yours.}",
                    ),
                )
            ]
        if yes is None:
            return []
        if rng.random() < 0.25:
            return [
                (
                    expand(rng, "{no|nope|no thanks|no, thank you|not now|maybe later}{|.}"),
                    expand(
                        rng,
                        "{As you like, love.|Another time, then.|No harm in asking.} {Call if you change your mind.|I will be right here.|}",
                    ),
                )
            ]
        return [
            (
                expand(
                    rng,
                    "{yes|yes please|yes, please|sure|ok|okay|gladly|of course|yeah|please|please do|why not|yep|go on}{|!|.}",
                ),
                yes,
            )
        ]
