"""Failed validation of a body as one error: the field as the client wrote it, what was expected, what came."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydllm_gateway.body import kind_of, quoted
from pydllm_gateway.errors import ApiError, invalid

Problem = Mapping[str, Any]
"""One entry of pydantic's `errors()`."""

_MOST_OF_VALUE = 60

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "none_required": "null",
}
_BOUNDS = {"greater_than": ("gt", "greater than"), "greater_than_equal": ("ge", "at least")}
_BOUNDS |= {"less_than": ("lt", "less than"), "less_than_equal": ("le", "at most")}
_SIZES = {"too_short": ("min_length", "at least"), "too_long": ("max_length", "at most")}
_SIZES |= {"string_too_short": ("min_length", "at least"), "string_too_long": ("max_length", "at most")}


def from_validation(problems: Sequence[Problem], body: Any) -> ApiError:
    """The deepest problem: with alternatives (a string or a list) it is in the alternative that fits best."""
    located = [(_path(problem, body), problem) for problem in problems]
    path, problem = max(located, key=lambda pair: len(pair[0]))
    name = field_name(path)
    if problem["type"] == "missing":
        return invalid(name, f"{name} is required", code="missing_required_parameter")
    if problem["type"] == "extra_forbidden":
        return invalid(name, f"{name}: there is no such field", code="unknown_parameter")
    return _mismatch(name, [other for place, other in located if place == path])


def field_name(path: Sequence[str | int]) -> str:
    """`messages[0].role` for ("messages", 0, "role")."""
    parts = [f"[{part}]" if isinstance(part, int) else "." + quoted(part)[1:-1] for part in path]
    return "".join(parts).removeprefix(".")


def _path(problem: Problem, body: Any) -> tuple[str | int, ...]:
    """Where a problem is in the body. pydantic puts the names of alternatives between keys; those are left out."""
    location = problem["loc"]
    if location[:1] != ("body",):
        return tuple(location[1:])  # a path or query parameter
    path: list[str | int] = []
    value = body
    for part in location[1:]:
        if _holds(value, part):
            value = value[part]
            path.append(part)
    return (*path, location[-1]) if problem["type"] == "missing" else tuple(path)


def _holds(value: Any, part: str | int) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _mismatch(name: str, problems: Sequence[Problem]) -> ApiError:
    expected = dict.fromkeys(expectation(problem) for problem in problems)
    value = problems[0].get("input")
    wrong_type = all(problem["type"] in _EXPECTED for problem in problems)
    code = "invalid_type" if wrong_type else "invalid_value"
    subject = f"{name}: " if name else "the request: "
    return invalid(name, f"{subject}expected {' or '.join(expected)}, got {shown(value)}", code=code)


def expectation(problem: Problem) -> str:
    """The rest of a sentence that begins with `expected`."""
    kind, context = problem["type"], problem.get("ctx") or {}
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"a number {words} {context[key]}"
    if kind in _SIZES:
        key, words = _SIZES[kind]
        return f"{words} {context[key]} {'characters' if kind.startswith('string') else 'items'}"
    if kind in {"literal_error", "enum"}:
        return str(context["expected"])
    return _other(problem)


def _other(problem: Problem) -> str:
    cause = (problem.get("ctx") or {}).get("error")
    text = str(cause) if isinstance(cause, Exception) else str(problem["msg"])
    return " ".join(text.split()).removeprefix("Input should be ")


def shown(value: Any) -> str:
    """A client's value in an error message: one line, bounded."""
    if isinstance(value, (list, dict)):
        return kind_of(value)
    if isinstance(value, str):
        return quoted(value, _MOST_OF_VALUE)
    text = json.dumps(value) if isinstance(value, (bool, int, float, type(None))) else "something else"
    return text if len(text) <= _MOST_OF_VALUE else text[:_MOST_OF_VALUE] + "…"
