"""Request bodies read strictly: bounded in size and time, and JSON that means one thing only."""

from __future__ import annotations

import asyncio
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydllm_gateway.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from pydllm_gateway.settings import Settings

MAX_DEPTH = 32
"""Nesting of objects and lists. Deeper values would not fit the nesting limit of a protobuf message."""
MAX_DIGITS = 40
_IN_THREAD = 256 * 1024  # bytes from which parsing would stall other requests

_PARSER = ThreadPoolExecutor(1, "json")  # one: several would only multiply the memory, Python parses one at a time

_LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")


class ClientGone(Exception):  # noqa: N818 - an event, nobody is left to be told
    """The client closed the connection; there is nobody to answer."""


async def read_json(request: Request, settings: Settings) -> dict[str, Any]:
    """The body as an object. ApiError: 400 (not strict JSON), 408 (too slow), 413 (too large), 415 (other type)."""
    _check_type(request)
    data = await _read(request, settings)
    if len(data) < _IN_THREAD:
        return parse(data)
    return await asyncio.get_running_loop().run_in_executor(_PARSER, parse, data)


def parse(data: bytes) -> dict[str, Any]:
    """Strict JSON: no NaN, no overflowing numbers, no duplicate keys, no lone surrogates, an object at the top."""
    text = _decode(data)
    try:
        value = json.loads(
            text,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int if _LONG_NUMBER.search(text) else None,
            object_pairs_hook=_object,
        )
    except json.JSONDecodeError as error:
        raise _bad(f"the body is not valid JSON: {error.msg}, line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise _bad(f"the body is not a JSON object but {kind_of(value)}")
    _check_depth(value)
    if "\\u" in text:
        _check_surrogates(value, "")
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, with its article."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")


def _check_type(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise ApiError(415, "Content-Encoding: only identity is supported", code="unsupported_content_encoding")
    if not _is_json(request.headers.get("content-type", "")):
        raise ApiError(415, "Content-Type: expected application/json", code="unsupported_media_type")


def _is_json(header: str) -> bool:
    kind, *parameters = [part.strip().lower() for part in header.split(";")]
    charsets = [p.removeprefix("charset=").strip('"') for p in parameters if p.startswith("charset=")]
    if any(charset not in {"utf-8", "utf8", "us-ascii"} for charset in charsets):
        return False
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def _read(request: Request, settings: Settings) -> bytes:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > settings.max_body_bytes:
        raise _too_large(settings)
    try:
        async with asyncio.timeout(settings.body_timeout):
            return await _collect(request.receive, settings)
    except TimeoutError:
        message = f"the request body did not arrive within {settings.body_timeout:g} s"
        raise ApiError(408, message, code="request_timeout") from None


async def _collect(receive: Callable[[], Any], settings: Settings) -> bytes:
    data = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        data += message.get("body", b"")
        if len(data) > settings.max_body_bytes:
            raise _too_large(settings)
        if not message.get("more_body", False):
            return bytes(data)


def _decode(data: bytes) -> str:
    if not data.strip():
        raise _bad("the body is empty: expected a JSON object")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not valid UTF-8 at byte {error.start}") from None


def _constant(name: str) -> Any:
    raise _bad(f"the body is not valid JSON: {name} is no JSON number")


def _float(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise _bad(f"the body holds a number that is out of range: {_short(literal)}")
    return value


def _int(literal: str) -> int:
    if len(literal) > MAX_DIGITS:
        raise _bad(f"the body holds a number that is out of range: {_short(literal)}")
    return int(literal)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        key = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ApiError(400, f"the body holds the key {quoted(key)} twice", param=_clean(key), code="duplicate_key")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise _too_deep()


def _check_surrogates(value: Any, path: str) -> None:
    if isinstance(value, str):
        _check_text(value, path)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            _check_surrogates(child, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, child in value.items():
            _check_text(key, path)
            _check_surrogates(child, f"{path}.{key}" if path else key)


def _check_text(text: str, path: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        where = f"{_clean(path)}: " if path else "the body: a key "
        raise ApiError(
            400, f"{where}holds a lone surrogate, which is no character", param=path or None, code="invalid_json"
        )


def quoted(text: str, limit: int = 64) -> str:
    """A client's text for an error message: one line, bounded, JSON quotes."""
    return json.dumps(text if len(text) <= limit else text[: limit - 1] + "…")


def _clean(text: str) -> str:
    return quoted(text, 128)[1:-1]


def _short(literal: str) -> str:
    return literal if len(literal) <= 24 else literal[:24] + "…"


def _too_large(settings: Settings) -> ApiError:
    return ApiError(413, f"the request body has more than {settings.max_body_bytes} bytes", code="request_too_large")


def _too_deep() -> ApiError:
    return _bad(f"the body is nested more than {MAX_DEPTH} levels deep")


def _bad(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_json")
