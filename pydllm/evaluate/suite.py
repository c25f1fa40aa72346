"""Problems with checkable answers: the demo suite and GSM8K-style files."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydllm.errors import PydllmError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_DOUBLED = re.compile(r"(\d{1,2}) \+ (\d{1,2}) = (\d{1,3})")
MARK = "####"


class SuiteError(PydllmError):
    """A suite cannot be read: one line that says which line and why."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One problem. Exactly one of `answers`, `double` and `number` says what is right."""

    family: str
    prompt: str
    answers: tuple[str, ...] = ()
    """Texts that are right, exactly."""
    double: tuple[int, int] | None = None
    """Any "a + a = 2a" is right whose a lies between these two or is one of them."""
    number: Decimal | None = None
    """The number after ####, else the last number of the text, is right when it has this value."""

    def right(self, text: str) -> bool:
        """Whether the text answers the problem."""
        if self.double is not None:
            return _doubles(text, *self.double)
        if self.number is not None:
            return _last_number(text) == self.number
        return text.strip() in self.answers


def _doubles(text: str, least: int, most: int) -> bool:
    found = _DOUBLED.fullmatch(text.strip())
    if found is None:
        return False
    a, b, result = map(int, found.groups())
    return least <= a <= most and a == b and result == 2 * a


def _last_number(text: str) -> Decimal | None:
    numbers = _NUMBER.findall(text.rpartition(MARK)[2])
    return _decimal(numbers[-1]) if numbers else None


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None


def demo_suite() -> list[Item]:
    """Problems of the demo model's families (examples/demo_model/problems.py writes the file)."""
    text = resources.files("pydllm.evaluate").joinpath("demo_suite.jsonl").read_text(encoding="utf-8")
    return [_demo_item(json.loads(line)) for line in text.splitlines()]


def _demo_item(entry: dict[str, Any]) -> Item:
    return Item(
        family=entry["family"],
        prompt=entry["prompt"],
        answers=tuple(entry.get("answers", ())),
        double=tuple(entry["double"]) if "double" in entry else None,
    )


def read_suite(path: str) -> list[Item]:
    """A JSONL file with "question" and "answer" (the number after ####). Raises SuiteError."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    items = [_item(line, f"{path}:{at}", Path(path).stem) for at, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise SuiteError(f"{path}: no problems in it")
    return items


def _item(line: str, where: str, family: str) -> Item:
    try:
        entry = json.loads(line)
    except ValueError:
        raise SuiteError(f"{where}: no valid JSON") from None
    question, answer = (entry.get(key) if isinstance(entry, dict) else None for key in ("question", "answer"))
    if not (isinstance(question, str) and isinstance(answer, str)):
        raise SuiteError(f'{where}: expected an object with the texts "question" and "answer"')
    number = _last_number(answer)
    if number is None:
        raise SuiteError(f"{where}: answer: expected a number after {MARK}")
    return Item(family=family, prompt=question, number=number)


def first_of_each(items: Iterable[Item], limit: int | None, families: Iterable[str] = ()) -> list[Item]:
    """At most `limit` items of each family, of the named families only (none named: all). SuiteError for others."""
    listed, wanted = list(items), set(families)
    known = {item.family for item in listed}
    for family in wanted - known:
        raise SuiteError(f"--family: no family {family!r}; expected one of {', '.join(sorted(known))}")
    return list(_limited((item for item in listed if not wanted or item.family in wanted), limit))


def _limited(items: Iterable[Item], limit: int | None) -> Iterator[Item]:
    seen: Counter[str] = Counter()
    for item in items:
        seen[item.family] += 1
        if limit is None or seen[item.family] <= limit:
            yield item
