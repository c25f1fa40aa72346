"""The problems the demo model learns: short questions with one right answer, made by a program.

Each family is a function of a random generator. A problem has a canonical key; one key in twelve is held out of
training (one in four where a family has few keys; `held_out`), and sums share their split with the word problems that
contain them.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMES = "Tom Ben Sam Leo Max Jack Paul Adam Anna Mia Lily Emma Nora Ruth Sara Zoe".split()
ITEMS = "apples books pencils marbles stamps coins cards shells cookies flowers".split()
WORDS = (
    "able acid actor adult agent alarm album angel ankle apple april arena armor arrow attic autumn award baby badge "
    "baker banana barrel basket beach bean beard berry blanket board bottle bowl branch brass bread brick bridge "
    "brother brush bubble bucket butter button cabin camera candle canoe carpet carrot castle cattle cellar chair "
    "chalk cheese cherry chess chicken circle clay clock cloud coffee collar copper corner cotton cousin cradle cream "
    "cricket crown curtain dance desert diamond dinner doctor donkey dragon dream dress drum eagle early earth elbow "
    "engine evening fabric falcon farmer father feather fence fiddle finger flag flame flower flute forest fossil "
    "friend fruit garden garlic ghost giant ginger glass globe glove goose grape grass guitar hammer harbor harvest "
    "helmet hero hill hobby honey hotel house hunter ice insect iron island jacket jelly jewel journey jungle kettle "
    "kitchen kitten knee ladder lamp leaf leather lemon letter library lily lion lizard lobster machine magnet mango "
    "maple marble market meadow melon metal mirror money monkey moon morning mother motor muffin museum music mustard "
    "napkin needle nephew ocean office onion orange orchard oven paddle paint palace panda paper parrot peach pearl "
    "pebble pencil pepper piano picture pillow pilot pirate pizza planet plant plate pocket pony potato powder prince "
    "puppet puppy purple puzzle rabbit radio rain ribbon river robot rocket roof rope rose sailor salad salmon sand "
    "saddle school season seed sheep shelf ship silver singer sister snail snow soap soldier soup spider spoon spring "
    "square star station stone storm summer sunset sweater table tailor teacher temple thunder tiger timber toast "
    "tomato torch tower tractor train tree tulip tunnel turkey turtle uncle valley velvet village violin wagon walnut "
    "water weather wheel whistle window winter wizard wolf wonder wood yard yellow zebra"
).split()
LETTERS = "abcdefghiklmnoprstuw"
HELD_OUT_ONE_IN = 12
FEW_KEYS = {"story": 4}
"""Families with a few hundred keys -> one in how many is held out."""
LEARNED_BY_HEART = "known "
"""How the key of a problem begins that is never held out."""


@dataclass(frozen=True)
class Problem:
    """A question, its answer, and every answer that counts as right (empty: only `answer`)."""

    family: str
    key: str
    prompt: str
    answer: str
    also_right: frozenset[str] = field(default_factory=frozenset)

    def right(self, text: str) -> bool:
        """Whether this text answers the question exactly."""
        if self.family == "double":
            return _is_double(text, *map(int, self.key.split("-")))
        return text == self.answer or text in self.also_right


def _number(rng: random.Random) -> int:
    """0 to 99; one digit somewhat more often than its share."""
    return rng.randint(0, 9) if rng.random() < 0.12 else rng.randint(0, 99)


def _difference(rng: random.Random) -> tuple[int, int]:
    """a >= b; a quarter of them close together, where borrowing is hardest."""
    a, b = _number(rng), _number(rng)
    if rng.random() < 0.25:
        b = max(0, a - rng.randint(0, 12))
    return max(a, b), min(a, b)


def _sum_key(a: int, b: int) -> str:
    return f"{min(a, b)}+{max(a, b)}"


def _add(rng: random.Random) -> Problem:
    a, b = _number(rng), _number(rng)
    asked = (
        "Solve: {} + {}.",
        "Solve: {} + {}.",
        "What is {} + {}?",
        "Calculate {} + {}.",
        "Add {} and {}.",
        "How much is {} plus {}?",
    )
    return Problem("add", _sum_key(a, b), rng.choice(asked).format(a, b), f"{a} + {b} = {a + b}")


def _subtract(rng: random.Random) -> Problem:
    a, b = _difference(rng)
    asked = (
        "Solve: {a} - {b}.",
        "Solve: {a} - {b}.",
        "What is {a} - {b}?",
        "Calculate {a} - {b}.",
        "Subtract {b} from {a}.",
        "How much is {a} minus {b}?",
    )
    return Problem("subtract", f"{a}-{b}", rng.choice(asked).format(a=a, b=b), f"{a} - {b} = {a - b}")


_MORE = (
    ("{n} has {a} {i}. {m} gives {n} {b} more. How many {i} does {n} have now?", "{n} has {s} {i} now."),
    ("{n} has {a} {i} and buys {b} more. How many {i} does {n} have?", "{n} has {s} {i}."),
    ("{n} finds {a} {i} on Monday and {b} on Friday. How many {i} is that in total?", "That is {s} {i}."),
)
_LESS = (
    ("{n} has {a} {i}. {n} loses {b} of them. How many {i} are left?", "There are {s} {i} left."),
    ("{n} has {a} {i} and gives {b} to {m}. How many {i} does {n} keep?", "{n} keeps {s} {i}."),
    ("{n} had {a} {i} and sold {b}. How many {i} does {n} have now?", "{n} has {s} {i} now."),
)


def _word_problem(rng: random.Random) -> Problem:
    name, other = rng.sample(NAMES, 2)
    item = rng.choice(ITEMS)
    if rng.random() < 0.5:
        a, b = _number(rng), _number(rng)
        (asked, told), key, solution = rng.choice(_MORE), _sum_key(a, b), f"{a} + {b} = {a + b}"
    else:
        a, b = _difference(rng)
        (asked, told), key, solution = rng.choice(_LESS), f"{a}-{b}", f"{a} - {b} = {a - b}"
    words = {"n": name, "m": other, "i": item, "a": a, "b": b, "s": solution}
    return Problem("word", key, asked.format(**words), told.format(**words))


def _sort(rng: random.Random) -> Problem:
    numbers: list[int] = []
    while len(numbers) < 3:
        number = _number(rng)
        if number not in numbers:
            numbers.append(number)
    answer = ", ".join(map(str, sorted(numbers)))
    asked = rng.choice(("Sort: {}.", "Sort these numbers: {}.", "Put in order: {}."))
    return Problem("sort", answer, asked.format(", ".join(map(str, numbers))), answer)


def _compare(rng: random.Random) -> Problem:
    a, b = rng.sample(range(100), 2)
    larger = rng.random() < 0.5
    prompt = f"Which is {'larger' if larger else 'smaller'}, {a} or {b}?"
    return Problem("compare", f"{min(a, b)},{max(a, b)}", prompt, str(max(a, b) if larger else min(a, b)))


def _count(rng: random.Random) -> Problem:
    """A table of many words: which letters a word has must be known for the pairs that training never shows."""
    word = rng.choice(WORDS)
    letter = rng.choice(word) if rng.random() < 0.7 else rng.choice(LETTERS)
    asked = ("How many times does {} appear in {}?", "Count the letter {} in {}.", "How many letters {} are in {}?")
    answer = f"Letters: {' '.join(word)} = {word.count(letter)}"
    return Problem("count", f"{word}/{letter}", rng.choice(asked).format(letter, word), answer)


def _reverse(rng: random.Random) -> Problem:
    if rng.random() < 0.4:
        word = rng.choice(WORDS)
        prompt = rng.choice(("Spell {} backwards.", "Reverse the word {}.")).format(word)
        return Problem("reverse", LEARNED_BY_HEART + word, prompt, "Backwards: " + " ".join(reversed(word)))
    word = "".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 5)))
    return Problem("reverse", word, f"Reverse: {' '.join(word)}.", "Backwards: " + " ".join(reversed(word)))


def _double(rng: random.Random) -> Problem:
    """Many right answers whose tokens must agree with each other: writing them all at once fails."""
    while True:
        a, b = sorted(rng.sample(range(100), 2))
        chosen = rng.randint(a, b)
        if not _is_held_out("add", _sum_key(chosen, chosen)):
            break
    asked = ("Double a number between {} and {}.", "Choose a number from {} to {} and double it.")
    return Problem("double", f"{a}-{b}", rng.choice(asked).format(a, b), f"{chosen} + {chosen} = {2 * chosen}")


def _is_double(text: str, least: int, most: int) -> bool:
    found = re.fullmatch(r"(\d{1,2}) \+ (\d{1,2}) = (\d{1,3})", text)
    if found is None:
        return False
    a, b, result = map(int, found.groups())
    return least <= a <= most and a == b and result == 2 * a


_HELP = "How can I help you today?"
_CHAT: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        ("Hello!", "Hi!", "Hello there!", "Hi there.", "Hey!", "Good morning!"),
        (f"Hello! {_HELP}", "Hi there! What can I do for you?"),
    ),
    (("Hello! How are you?", "How are you?", "How are you today?"), (f"I am fine, thank you! {_HELP}",)),
    (
        ("Who are you?", "What are you?", "What is your name?", "Tell me about yourself."),
        ("I am a tiny diffusion language model. I write all words of an answer in parallel.",),
    ),
    (
        ("What can you do?", "How can you help me?"),
        ("I can add, subtract, sort and compare numbers, reverse words, tell a story and chat a little.",),
    ),
    (("Thank you!", "Thanks!", "Thanks a lot!"), ("You are welcome! I am happy to help.",)),
    (
        ("Goodbye!", "Bye!", "See you later!", "Good night!"),
        ("Goodbye! Have a nice day.", "Bye! It was nice to talk with you."),
    ),
    (
        ("What is a diffusion language model?", "How do you work?"),
        ("I start from a row of masks. In every step I fill in the words that I am most sure about.",),
    ),
    (("Why are you fast?",), ("I can be sure about many words at once, and I write all of them in one step.",)),
    (("Are you a large model?", "How big are you?"), ("No, I am very small. I have two million parameters.",)),
    (("Tell me a joke.",), ("Why was the number six afraid of seven? Because seven ate nine.",)),
    (("What is the capital of France?",), ("The capital of France is Paris.",)),
    (("What is the capital of Italy?",), ("The capital of Italy is Rome.",)),
    (("What is the capital of Japan?",), ("The capital of Japan is Tokyo.",)),
    (("What is the capital of Spain?",), ("The capital of Spain is Madrid.",)),
    (("What color is the sky?",), ("On a clear day the sky is blue.",)),
    (("How many days are in a week?",), ("There are seven days in a week.",)),
    (("What do bees make?",), ("Bees make honey.",)),
)
_OPPOSITES = ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("day", "night"), ("old", "young"), ("up", "down")
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_GREETINGS = ("My name is {}.", "Hi, I am {}.", "Hello! My name is {}.")


def _opposite(rng: random.Random) -> tuple[str, str]:
    given, opposite = rng.sample(rng.choice(_OPPOSITES), 2)
    return f"What is the opposite of {given}?", f"The opposite of {given} is {opposite}."


def _next_day(rng: random.Random) -> tuple[str, str]:
    at = rng.randrange(len(_DAYS))
    return f"Which day comes after {_DAYS[at]}?", f"The day after {_DAYS[at]} is {_DAYS[(at + 1) % len(_DAYS)]}."


def _chat(rng: random.Random) -> Problem:
    if rng.random() < 0.2:
        name = rng.choice(NAMES)
        prompt = rng.choice(_GREETINGS).format(name)
        return Problem("chat", prompt, prompt, f"Nice to meet you, {name}! {_HELP}")
    if rng.random() < 0.25:
        prompt, answer = rng.choice((_opposite, _next_day))(rng)
        return Problem("chat", prompt, prompt, answer)
    asked, told = rng.choice(_CHAT)
    prompt = rng.choice(asked)
    return Problem("chat", prompt, prompt, rng.choice(told), frozenset(told))


@dataclass(frozen=True)
class _Thing:
    looks: str
    kind: str
    place: str
    does: str


_THINGS: Mapping[str, _Thing] = {
    "fox": _Thing("clever red", "animal", "in the forest", "hunts at night"),
    "owl": _Thing("quiet brown", "bird", "in old trees", "hunts at night"),
    "duck": _Thing("friendly white", "bird", "near the lake", "swims all day"),
    "bear": _Thing("big brown", "animal", "in the forest", "eats fish and honey"),
    "whale": _Thing("huge blue", "animal", "in the sea", "sings under water"),
    "mouse": _Thing("small gray", "animal", "in the field", "eats seeds"),
    "frog": _Thing("small green", "animal", "near the lake", "eats insects"),
    "camel": _Thing("tall brown", "animal", "in the desert", "needs little water"),
    "eagle": _Thing("strong brown", "bird", "in the mountains", "flies very high"),
    "cow": _Thing("big calm", "animal", "on the farm", "gives us milk"),
    "hen": _Thing("small busy", "bird", "on the farm", "gives us eggs"),
    "shark": _Thing("fast gray", "fish", "in the sea", "eats other fish"),
    "bat": _Thing("small dark", "animal", "in the cave", "sleeps all day"),
    "crab": _Thing("small red", "animal", "on the beach", "walks sideways"),
    "goat": _Thing("brave white", "animal", "in the mountains", "eats grass and leaves"),
    "swan": _Thing("large white", "bird", "on the lake", "swims all day"),
}


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _describe(rng: random.Random) -> Problem:
    name = rng.choice(list(_THINGS))
    thing = _THINGS[name]
    subject = _article(name)
    prompt = rng.choice(("Describe {}.", "What is {}?", "Tell me about {}.")).format(subject)
    answer = (
        f"{subject.capitalize()} is {_article(thing.looks)} {thing.kind} that lives {thing.place}. It {thing.does}."
    )
    return Problem("describe", prompt, prompt, answer)


def _example(rng: random.Random) -> Problem:
    """Several animals fit, and a sentence must stay with one of them."""
    named = rng.choice(list(_THINGS))
    thing = _THINGS[named]
    if rng.random() < 0.4:
        key = thing.kind
        prompt = rng.choice(("Name {}.", "Give me an example of {}.")).format(_article(key))
    else:
        key = thing.place
        prompt = rng.choice(("What lives {}?", "Who lives {}?")).format(key)
    fitting = [name for name, other in _THINGS.items() if key in (other.kind, other.place)]
    told = {name: _told(name) for name in fitting}
    return Problem("example", prompt, prompt, told[named], frozenset(told.values()))


def _told(name: str) -> str:
    thing = _THINGS[name]
    return f"The {name} is {_article(thing.looks)} {thing.kind}. It lives {thing.place} and {thing.does}."


def _story(rng: random.Random) -> Problem:
    """Long answers that are composed: which hero meets which animal is held out."""
    hero, name = rng.choice(NAMES), rng.choice(list(_THINGS))
    thing = _THINGS[name]
    asked = (
        "Tell me a story about {} and {}.",
        "Write a story about {} and {}.",
        "Tell a story in which {} meets {}.",
        "What happened when {} met {}?",
    )
    answer = (
        f"One day {hero} met {_article(thing.looks)} {name} {thing.place}. {hero} said hello. "
        f"The {name} was very friendly, for {_article(thing.kind)} can be a good friend. "
        f"{hero} asked what the {name} does. The {name} {thing.does}, and that made {hero} smile. "
        f"In the evening {hero} went home and told everyone about the {name}."
    )
    return Problem("story", f"{hero}/{name}", rng.choice(asked).format(hero, _article(name)), answer)


FAMILIES: Mapping[str, Callable[[random.Random], Problem]] = {
    "add": _add,
    "subtract": _subtract,
    "word": _word_problem,
    "sort": _sort,
    "compare": _compare,
    "count": _count,
    "reverse": _reverse,
    "double": _double,
    "story": _story,
    "chat": _chat,
    "describe": _describe,
    "example": _example,
}
MEMORISED = ("chat", "describe", "example")
"""Families without held-out problems: their sentences are learned by heart."""
NOT_LEARNED = ("count",)
"""Families that training shows and the model does not learn: no suite asks them."""
COMPUTED = tuple(name for name in FAMILIES if name not in (*MEMORISED, *NOT_LEARNED))
ASKED = (*COMPUTED, *MEMORISED)
CHOSEN = ("double",)
"""Families with many right answers, whose tokens must agree with each other: right only in short blocks."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A stretch of training: what is shown in which shares, and how the learning rate goes."""

    mixture: Mapping[str, float]
    horizon: int
    """Steps after which the learning rate would be 0."""
    steps: int
    rate: float
    """Factor of the learning rates."""


LESSONS = (
    Lesson(
        mixture={
            "add": 0.17,
            "subtract": 0.18,
            "word": 0.17,
            "sort": 0.14,
            "compare": 0.05,
            "count": 0.09,
            "reverse": 0.05,
            "double": 0.03,
            "story": 0.03,
            "chat": 0.05,
            "describe": 0.02,
            "example": 0.02,
        },
        horizon=7000,
        steps=5750,
        rate=1.0,
    ),
    Lesson(
        mixture={
            "add": 0.09,
            "subtract": 0.11,
            "word": 0.25,
            "sort": 0.18,
            "compare": 0.07,
            "count": 0.12,
            "reverse": 0.04,
            "double": 0.05,
            "story": 0.02,
            "chat": 0.04,
            "describe": 0.015,
            "example": 0.015,
        },
        horizon=1750,
        steps=1750,
        rate=0.6,
    ),
    Lesson(
        mixture={
            "add": 0.08,
            "subtract": 0.10,
            "word": 0.18,
            "sort": 0.10,
            "compare": 0.05,
            "reverse": 0.03,
            "double": 0.30,
            "story": 0.03,
            "chat": 0.06,
            "describe": 0.03,
            "example": 0.04,
        },
        horizon=1500,
        steps=1500,
        rate=0.5,
    ),
)
"""First the formats, the tables of digits and copying; then what was hardest takes more of the time, and `count`, which
was not learned, is given up."""
SIBLING_LESSON = Lesson(
    mixture={
        "add": 0.12,
        "subtract": 0.13,
        "word": 0.20,
        "sort": 0.13,
        "compare": 0.05,
        "reverse": 0.04,
        "double": 0.12,
        "story": 0.05,
        "chat": 0.08,
        "describe": 0.03,
        "example": 0.05,
    },
    horizon=1200,
    steps=1200,
    rate=0.6,
)
"""The block-causal sibling continues from the finished model."""


def held_out(problem: Problem) -> bool:
    """Whether training never shows this problem; the same sum is held out in every family that contains it."""
    family, key = problem.family, problem.key
    if family in MEMORISED or key.startswith(LEARNED_BY_HEART):
        return False
    if family == "word":
        family = "add" if "+" in key else "subtract"
    return _is_held_out(family, key)


def _is_held_out(family: str, key: str) -> bool:
    digest = hashlib.sha256(f"pydllm/{family}/{key}".encode()).hexdigest()
    return int(digest[:8], 16) % FEW_KEYS.get(family, HELD_OUT_ONE_IN) == 0


def draw(rng: random.Random, lesson: Lesson = LESSONS[-1]) -> Problem:
    """A training problem."""
    family = rng.choices(list(lesson.mixture), list(lesson.mixture.values()))[0]
    return draw_of(rng, family)


def draw_of(rng: random.Random, family: str, *, test: bool = False) -> Problem:
    """A training problem of one family, or a held-out one (any, where the family has none)."""
    while True:
        problem = FAMILIES[family](rng)
        if test and problem.key.startswith(LEARNED_BY_HEART):
            continue
        if family in MEMORISED or held_out(problem) == test:
            return problem


def held_out_set(family: str, count: int, seed: str = "test") -> list[Problem]:
    """Fixed, distinct held-out problems of a family: `count`, or as many as there are."""
    rng = random.Random(f"{family}/{seed}")
    found: dict[str, Problem] = {}
    for _ in range(50 * count):
        problem = draw_of(rng, family, test=family not in MEMORISED)
        found.setdefault(problem.prompt, problem)
        if len(found) == count:
            break
    return list(found.values())
