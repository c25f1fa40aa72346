"""Bounded operators, methods and filters of chat templates. Each estimates its result before it computes."""

from __future__ import annotations

import json
import math
import operator
import re
import string
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.runtime import Undefined

from pydllm.text.template_budget import Budget, TemplateLimitError

MAX_WIDTH = 10_000
"""Padding widths, indents, precisions and batch sizes."""

_WIDE_PRINTF = re.compile(r"%\([^)]*\(|%(?:\([^)]*\))?[^a-zA-Z%(]*(?:\*|\d{5})")

Guard = Callable[[Budget, tuple[Any, ...], Mapping[str, Any]], None]


class TemplateValueError(TemplateError):
    """The template met a value that it cannot use; says what was expected and what came."""


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (Undefined, "nothing"),
    (type(None), "null"),
    (bool, "a truth value"),
    ((int, float), "a number"),
    (str, "text"),
    ((list, tuple), "a list"),
    (Mapping, "an object"),
)


def kind(value: object) -> str:
    """What a value is, in words for whoever wrote the request."""
    return next((words for types, words in _KINDS if isinstance(value, types)), "something else")


# ---- operators -----


def add(budget: Budget, left: Any, right: Any) -> Any:
    """left + right."""
    if not _are_numbers(left, right):
        budget.expect_chars(budget.weight(left) + budget.weight(right))
    return budget.admit(left + right)


def multiply(budget: Budget, left: Any, right: Any) -> Any:
    """left * right, repetition included."""
    if isinstance(left, int) and isinstance(right, int):
        budget.expect_bits(left.bit_length() + right.bit_length())
    elif isinstance(left, int) or isinstance(right, int):
        count, value = (left, right) if isinstance(left, int) else (right, left)
        if not isinstance(value, float):
            budget.expect_chars(max(0, count) * budget.weight(value))
    return budget.admit(left * right)


def power(budget: Budget, left: Any, right: Any) -> Any:
    """left ** right."""
    if isinstance(left, int) and isinstance(right, int):
        budget.expect_bits(left.bit_length() * abs(right))
    return budget.admit(left**right)


def modulo(budget: Budget, left: Any, right: Any) -> Any:
    """left % right: numbers, or printf-style formatting."""
    if isinstance(left, str):
        _check_printf(budget, left, right)
    return budget.admit(left % right)


def concat(budget: Budget, parts: Iterable[Any]) -> str:
    """a ~ b ~ c."""
    texts = list(parts)
    budget.expect_chars(sum(budget.weight(part) for part in texts))
    return str(budget.admit("".join(str(part) for part in texts)))


OPERATORS: dict[str, Callable[[Budget, Any, Any], Any]] = {
    "+": add,
    "*": multiply,
    "**": power,
    "%": modulo,
    "-": lambda budget, a, b: budget.admit(operator.sub(a, b)),
    "/": lambda _budget, a, b: operator.truediv(a, b),
    "//": lambda _budget, a, b: operator.floordiv(a, b),
}


def compute(budget: Budget, symbol: str, left: Any, right: Any) -> Any:
    """left symbol right; TemplateValueError when the operands do not fit."""
    try:
        return OPERATORS[symbol](budget, left, right)
    except TypeError:
        raise TemplateValueError(f"{symbol} expected operands that fit, got {kind(left)} and {kind(right)}") from None
    except ZeroDivisionError:
        raise TemplateValueError(f"{symbol} expected a divisor, got 0") from None


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _check_printf(budget: Budget, template: str, values: Any) -> None:
    if _WIDE_PRINTF.search(template):
        raise TemplateLimitError(f"formats wider than {MAX_WIDTH}")
    budget.expect_chars(_formatted_size(budget, template, template.count("%"), values))


def _formatted_size(budget: Budget, template: str, fields: int, values: Any) -> int:
    return len(template) + fields * (budget.weight(values) + MAX_WIDTH)


# ---- str.format -----


def check_format(budget: Budget, template: str, values: Any) -> None:
    """Refuses nested or wide format specifications and large results of template.format(values)."""
    fields = 0
    for _, name, spec, _ in string.Formatter().parse(template):
        fields += name is not None
        if spec and ("{" in spec or re.search(r"\d{5}", spec)):
            raise TemplateLimitError(f"formats wider than {MAX_WIDTH}")
    budget.expect_chars(_formatted_size(budget, template, fields, values))


# ---- methods -----


def check_widths(_budget: Budget, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuses integers above MAX_WIDTH, and text so long that padding each of its lines would be too much."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, int | float) and abs(value) > MAX_WIDTH:
            raise TemplateLimitError(f"asks for a width or count above {MAX_WIDTH}")


def check_replace(budget: Budget, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> None:
    """text.replace(old, new): counts before it replaces."""
    if len(args) >= 3 and all(isinstance(a, str) for a in args[:3]):
        text, old, new = args[:3]
        budget.expect_chars(len(text) + text.count(old) * len(new))


def check_split(budget: Budget, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Charges the strings that a split may make, 64 bytes each."""
    text = args[0]
    separator = args[1] if len(args) > 1 else kwargs.get("sep")
    pieces = text.count(separator) if isinstance(separator, str) and separator else len(text) // 2
    limits = [v for v in (*args[2:3], kwargs.get("maxsplit", -1)) if isinstance(v, int) and v >= 0]
    budget.spend(64 * min([pieces + 1, *(limit + 1 for limit in limits)]))


def check_splitlines(budget: Budget, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> None:
    """Charges the lines that a text may have."""
    text = args[0]
    budget.spend(64 * (1 + sum(text.count(c) for c in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")))


def check_join(budget: Budget, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> None:
    """separator.join(items)."""
    items = args[1] if len(args) > 1 else ()
    if not isinstance(items, list | tuple | str | Mapping):
        raise SecurityError("joins something that is not a list or text")
    budget.expect_chars(budget.weight(items) + len(args[0]) * len(items))


def _free(budget: Budget, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """A result of about the size of the arguments."""


_SIZE_KEEPING = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit islower "
    "isnumeric isspace istitle isupper lower lstrip partition removeprefix removesuffix rfind rindex "
    "rpartition rstrip startswith strip swapcase title upper"
)
_STR_METHODS: dict[str, Guard] = {
    **dict.fromkeys(_SIZE_KEEPING.split(), _free),
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), check_widths),
    **dict.fromkeys(("split", "rsplit"), check_split),
    "splitlines": check_splitlines,
    "replace": check_replace,
    "join": check_join,
}
_METHODS: dict[type, dict[str, Guard]] = {
    str: _STR_METHODS,
    dict: dict.fromkeys(("get", "items", "keys", "values", "copy"), _free),
    list: dict.fromkeys(("index", "count", "copy"), _free),
    tuple: dict.fromkeys(("index", "count"), _free),
    int: dict.fromkeys(("bit_length",), _free),
    float: dict.fromkeys(("is_integer",), _free),
}


def method_guard(owner: object, name: str) -> Guard:
    """The check before a method of a built-in value; SecurityError when templates have no use for it."""
    for kind, methods in _METHODS.items():
        if isinstance(owner, kind) and name in methods:
            return methods[name]
    raise SecurityError(f"calls {type(owner).__name__}.{name}, which chat templates may not")


# ---- filters -----

_PLAIN = (
    "abs capitalize count d default dictsort first float int items last length lower map reject "
    "rejectattr select selectattr string trim upper"
)
PLAIN_FILTERS = tuple(_PLAIN.split())
"""Filters of jinja2 used as they are: their work is about the size of their input."""

LISTING_FILTERS = ("batch", "groupby", "max", "min", "reverse", "slice", "sort", "title", "unique")
"""Filters of jinja2 that put their input's elements into lists."""


def materialise(budget: Budget, values: Any) -> list[Any]:
    """list(values), an element at a time, so that endless or huge input is refused early."""
    items: list[Any] = []
    for item in values:
        budget.tick(64)
        items.append(item)
    return items


def join(budget: Budget, values: Any, separator: Any = "", attribute: Callable[[Any], Any] | None = None) -> str:
    """separator.join(values), each value as text; `attribute` maps a value to what is joined."""
    items = materialise(budget, values)
    if attribute is not None:
        items = [attribute(item) for item in items]
    budget.expect_chars(sum(map(budget.weight, items)) + budget.weight(separator) * len(items))
    return str(separator).join(map(str, items))


def replace(budget: Budget, text: Any, old: Any, new: Any, count: int | None = None) -> str:
    """text.replace(old, new): counted before it is done."""
    budget.expect_chars(max(map(budget.weight, (text, old, new))))
    args = (str(text), str(old), str(new))
    check_replace(budget, args, {})
    return args[0].replace(args[1], args[2], -1 if count is None else count)


def indent(budget: Budget, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Indents lines as jinja2's filter of this name: not the first and not empty ones unless asked."""
    check_widths(budget, (width,), {})
    step = width if isinstance(width, str) else " " * width
    lines = (str(text) + "\n").splitlines()
    budget.expect_chars(len(str(text)) + len(lines) * (1 + len(step)))
    rest = [step + line if line or blank else line for line in lines[1:]]
    return "\n".join([step + lines[0] if first else lines[0], *rest])


def total(budget: Budget, values: Any, attribute: Callable[[Any], Any] | None = None, start: Any = 0) -> Any:
    """The sum of numbers."""
    for value in materialise(budget, values):
        start = add(budget, start, value if attribute is None else attribute(value))
    return start


def rounded(_budget: Budget, value: Any, precision: int = 0, method: str = "common") -> float:
    """jinja2's round, to at most 300 digits."""
    if not isinstance(precision, int) or abs(precision) > 300:
        raise TemplateLimitError("rounds to more than 300 digits")
    return bounded_round(value, precision, method)


def bounded_round(value: Any, precision: int = 0, method: str = "common") -> float:
    """jinja2's round, with its three methods."""
    if method == "common":
        return round(value, precision)  # type: ignore[no-any-return]
    if method not in ("ceil", "floor"):
        raise ValueError("method must be common, ceil or floor")
    scale = 10**precision
    return float((math.ceil if method == "ceil" else math.floor)(value * scale) / scale)


def to_json(
    budget: Budget,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON as chat templates of Hugging Face expect it: not escaped for HTML, not ASCII-only."""
    check_widths(budget, (), {"indent": indent or 0})
    items = budget.weight(value)
    step = indent if isinstance(indent, int) else len(indent or "")
    budget.expect_chars(items + (items // 8) * step * 4)
    options: dict[str, Any] = {
        "separators": tuple(separators) if separators else None,
        "sort_keys": bool(sort_keys),
    }
    return json.dumps(value, ensure_ascii=bool(ensure_ascii), indent=indent, default=_refuse_value, **options)


def _refuse_value(value: object) -> NoReturn:
    raise TemplateValueError(f"tojson expected JSON data, got {kind(value)}")


def time_now(pattern: Any) -> str:
    """The local time by strftime; no widths, at most 200 characters of pattern."""
    if not isinstance(pattern, str) or len(pattern) > 200 or re.search(r"%[^a-zA-Z%]*\d", pattern):
        raise TemplateLimitError("asks for a time in an unreasonable format")
    return datetime.now().strftime(pattern)
