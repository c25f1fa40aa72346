"""The problems the demo model learns: short questions with one right answer, made by a program.

Each family is a function of a random generator. A problem has a canonical key; one key in twelve is held out of
training (one in four where a family has few keys; `held_out`), and sums share their split with the word problems that
contain them.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NAMES = "Tom Ben Sam Leo Max Jack Paul Adam Anna Mia Lily Emma Nora Ruth Sara Zoe".split()
ITEMS = "apples books pencils marbles stamps coins cards shells cookies flowers".split()
WORDS = (
    "apple river stone moon garden window table chair music paper letter summer winter purple silver castle forest "
    "island desert valley cloud snow flower tree leaf seed bread butter cheese honey lemon banana tomato onion kitten "
    "puppy rabbit horse sheep tiger turtle spider button bottle candle mirror pillow ladder wheel rocket"
).split()
LETTERS = "abcdefghiklmnoprstuw"
HELD_OUT_ONE_IN = 12
FEW_KEYS = {"make": 4, "story": 4}
"""Families with a few hundred keys -> one in how many is held out."""


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
        if self.family == "make":
            return _is_sum(text, int(self.key))
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


def _count(rng: random.Random, tally: Callable[[str, str], str]) -> Problem:
    """Letters are spelled out in most questions, so that counting is a skill and not a table of words."""
    if rng.random() < 0.25:
        word = rng.choice(WORDS)
        shown, key = word, f"w{word}"
    else:
        few = rng.sample(LETTERS, 4)
        word = "".join(rng.choice(few) for _ in range(rng.randint(3, 6)))
        shown, key = " ".join(word), word
    letter = rng.choice(word) if rng.random() < 0.8 else rng.choice(LETTERS)
    asked = ("How many times does {} appear in {}?", "Count the letter {} in {}.", "How many letters {} are in {}?")
    answer = f"Letters: {tally(word, letter)} = {word.count(letter)}"
    return Problem("count", f"{key}/{letter}", rng.choice(asked).format(letter, shown), answer)


def _spelled(word: str, _letter: str) -> str:
    return " ".join(word)


def _running_count(word: str, letter: str) -> str:
    """Each letter with how often `letter` came so far: the result is then a short step from what stands before it."""
    return " ".join(f"{one}{word[: at + 1].count(letter)}" for at, one in enumerate(word))


def _reverse(rng: random.Random) -> Problem:
    if rng.random() < 0.3:
        word = rng.choice(WORDS)
        prompt = rng.choice(("Spell {} backwards.", "Reverse the word {}.")).format(word)
        return Problem("reverse", f"w{word}", prompt, "Backwards: " + " ".join(reversed(word)))
    word = "".join(rng.choice(LETTERS) for _ in range(rng.randint(3, 5)))
    return Problem("reverse", word, f"Reverse: {' '.join(word)}.", "Backwards: " + " ".join(reversed(word)))


def _any_pair(rng: random.Random) -> tuple[int, int]:
    total = rng.randint(0, 198)
    a = rng.randint(max(0, total - 99), min(99, total))
    return a, total - a


def _small_second(rng: random.Random) -> tuple[int, int]:
    total = rng.randint(1, 198)
    b = rng.randint(1, min(9, total))
    return total - b, b


def _make(rng: random.Random, pair: Callable[[random.Random], tuple[int, int]]) -> Problem:
    """Many right answers: tokens must agree with each other, so writing them all at once fails."""
    a, b = pair(rng)
    asked = (
        "Which two numbers make {}?",
        "Give me a sum that makes {}.",
        "Find two numbers that make {}.",
        "What adds up to {}?",
        "Write {} as a sum.",
    )
    return Problem("make", str(a + b), rng.choice(asked).format(a + b), f"{a} + {b} = {a + b}")


def _is_sum(text: str, total: int) -> bool:
    found = re.fullmatch(r"(\d{1,3}) \+ (\d{1,2}) = (\d{1,3})", text)
    return found is not None and int(found[1]) + int(found[2]) == total == int(found[3])


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
        ("I can add and subtract numbers, sort them, count letters, reverse words, tell a story and chat a little.",),
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
    "count": functools.partial(_count, tally=_running_count),
    "reverse": _reverse,
    "make": functools.partial(_make, pair=_small_second),
    "story": _story,
    "chat": _chat,
    "describe": _describe,
}
MEMORISED = ("chat", "describe")
"""Families without held-out problems: their sentences are learned by heart."""
COMPUTED = tuple(name for name in FAMILIES if name not in MEMORISED)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A stretch of training: what is shown in which shares, and how the learning rate goes."""

    mixture: Mapping[str, float]
    families: Mapping[str, Callable[[random.Random], Problem]]
    horizon: int
    """Steps after which the learning rate would be 0."""
    steps: int
    rate: float
    """Factor of the learning rates."""


LESSONS = (
    Lesson(
        mixture={
            "add": 0.18,
            "subtract": 0.19,
            "word": 0.16,
            "sort": 0.14,
            "compare": 0.04,
            "count": 0.09,
            "reverse": 0.04,
            "make": 0.06,
            "story": 0.03,
            "chat": 0.05,
            "describe": 0.02,
        },
        families={
            **FAMILIES,
            "count": functools.partial(_count, tally=_spelled),
            "make": functools.partial(_make, pair=_any_pair),
        },
        horizon=7000,
        steps=5750,
        rate=1.0,
    ),
    Lesson(
        mixture={
            "add": 0.09,
            "subtract": 0.11,
            "word": 0.24,
            "sort": 0.14,
            "compare": 0.07,
            "count": 0.15,
            "reverse": 0.03,
            "make": 0.10,
            "story": 0.02,
            "chat": 0.03,
            "describe": 0.02,
        },
        families=FAMILIES,
        horizon=3000,
        steps=3000,
        rate=0.6,
    ),
)
"""First the formats, the tables of digits and copying; then what was hardest takes more of the time, counting is done
letter by letter, and sums are found by taking a small number away."""
SIBLING_LESSON = replace(LESSONS[-1], horizon=1200, steps=1200)
"""The block-causal sibling continues from the finished model."""


def held_out(problem: Problem) -> bool:
    """Whether training never shows this problem; the same sum is held out in every family that contains it."""
    family, key = problem.family, problem.key
    if family in MEMORISED or key.startswith("w"):
        return False
    if family == "word":
        family = "add" if "+" in key else "subtract"
    digest = hashlib.sha256(f"pydllm/{family}/{key}".encode()).hexdigest()
    return int(digest[:8], 16) % FEW_KEYS.get(family, HELD_OUT_ONE_IN) == 0


def draw(rng: random.Random, lesson: Lesson = LESSONS[-1]) -> Problem:
    """A training problem."""
    family = rng.choices(list(lesson.mixture), list(lesson.mixture.values()))[0]
    return draw_of(rng, family, lesson.families[family])


def draw_of(
    rng: random.Random, family: str, make: Callable[[random.Random], Problem] | None = None, *, test: bool = False
) -> Problem:
    """A training problem of one family, or a held-out one (any, where the family has none)."""
    make = make or FAMILIES[family]
    while True:
        problem = make(rng)
        if test and problem.key.startswith("w"):
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
