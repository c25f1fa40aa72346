"""The problems: what is held out is never trained on, and the suite that ships is what the generator writes."""

from __future__ import annotations

import random
import re
from collections import Counter

import problems
import pytest
from tasks import (
    ASKED,
    COMPUTED,
    FAMILIES,
    FEW_KEYS,
    LEARNED_BY_HEART,
    LESSONS,
    SIBLING_LESSON,
    Lesson,
    Problem,
    draw,
    draw_of,
    held_out,
    held_out_set,
)

from pydllm.evaluate.suite import Item, demo_suite

PER_FAMILY = 3000


def drawn(family: str, count: int = PER_FAMILY) -> list[Problem]:
    rng = random.Random(f"{family}/training")
    return [draw_of(rng, family) for _ in range(count)]


def number_pair(problem: Problem) -> tuple[str, ...] | None:
    """The operands of a sum or difference, in order for differences only, whoever asks for it."""
    found = re.search(r"(\d+) ([+-]) (\d+) =", problem.answer)
    if found is None:
        return None
    operands = (found[1], found[3])
    return (found[2], *(sorted(operands, key=int) if found[2] == "+" else operands))


@pytest.mark.parametrize("family", COMPUTED)
def test_training_never_shows_a_held_out_problem(family: str) -> None:
    test = held_out_set(family, 200)
    trained = drawn(family)
    assert not {problem.key for problem in trained} & {problem.key for problem in test}
    assert not {problem.prompt for problem in trained} & {problem.prompt for problem in test}


def test_a_held_out_pair_of_numbers_is_in_no_family() -> None:
    families = ("add", "subtract", "word")
    test = {number_pair(problem) for family in families for problem in held_out_set(family, 200)}
    trained = {number_pair(problem) for family in (*families, "double") for problem in drawn(family)}
    assert not trained & test
    assert None not in test


@pytest.mark.parametrize("family", ["add", "word"])
def test_12_and_30_are_held_out(family: str) -> None:
    assert held_out(Problem(family, "12+30", "", ""))


@pytest.mark.parametrize("family", COMPUTED)
def test_the_share_held_out_is_what_the_split_says(family: str) -> None:
    rng = random.Random(family)
    problems = (FAMILIES[family](rng) for _ in range(4000))
    keys = {problem.key for problem in problems if not problem.key.startswith(LEARNED_BY_HEART)}
    split = {key for key in keys if held_out(Problem(family, key, "", ""))}
    share = 1 / FEW_KEYS.get(family, 12)
    deviation = (share * (1 - share) / len(keys)) ** 0.5
    assert abs(len(split) / len(keys) - share) < 4 * deviation


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_is_right_and_a_changed_one_is_not(family: str) -> None:
    for problem in drawn(family, 50):
        assert problem.right(problem.answer)
        assert not problem.right(problem.answer + "0")


def test_arithmetic_answers_are_true() -> None:
    for family in ("add", "subtract", "word", "double"):
        for problem in drawn(family, 500):
            a, sign, b, result = re.search(r"(\d+) ([+-]) (\d+) = (\d+)", problem.answer).groups()  # type: ignore[union-attr]
            assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))


@pytest.mark.parametrize("lesson", [*LESSONS, SIBLING_LESSON])
def test_a_lesson_shows_every_family_in_its_share(lesson: Lesson) -> None:
    assert set(ASKED) <= set(lesson.mixture) <= set(FAMILIES)
    assert sum(lesson.mixture.values()) == pytest.approx(1)
    rng = random.Random("shares")
    count = 3000
    seen = Counter(draw(rng, lesson).family for _ in range(count))
    for family, share in lesson.mixture.items():
        assert abs(seen[family] / count - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_the_suite_that_ships_is_what_problems_py_writes() -> None:
    assert problems.TARGET.read_text(encoding="utf-8") == problems.text()


def test_the_suite_judges_as_the_generator_does() -> None:
    items: dict[str, Item] = {item.prompt: item for item in demo_suite()}
    for family in ASKED:
        for problem in held_out_set(family, 40):
            assert items[problem.prompt].right(problem.answer)
            assert not items[problem.prompt].right(problem.answer[:-1])
