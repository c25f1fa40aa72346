"""Hostile HTTP against the whole server: never a 5xx, never a traceback, every refusal in words, memory flat."""

from __future__ import annotations

import gzip
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from asking import ANSWER, CHAT, SUM
from demo_facts import VOCABULARY
from rawhttp import Reply, chunked, exchange, post
from stack import Stack, rss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHAT_PATH = "/v1/chat/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT_PATH: {"messages": CHAT},
    "/v1/completions": {"prompt": SUM, "max_tokens": 8},
    "/generate": {"prompt": SUM, "max_tokens": 8},
    "/tokenize": {"prompt": SUM},
    "/detokenize": {"tokens": [5, 6]},
}
SGLANG = {"text": SUM, "sampling_params": {"max_new_tokens": 8}}
LEAKS = re.compile(rb'Traceback|File "|/site-packages/|\.py\b|pydantic|Exception|0x[0-9a-f]{6}')
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def victim() -> Iterator[Stack]:
    """A server of its own, so that its memory is what these requests made of it."""
    with Stack() as stack:
        yield stack


def with_raw(body: dict[str, Any], field: str, raw: str) -> bytes:
    """The body with one value written as it is."""
    return json.dumps({**body, field: "@"}).replace('"@"', raw).encode()


# --- the tables: name -> bytes ---


def not_json(path: str) -> dict[str, bytes]:
    good = json.dumps(BODIES[path]).encode()
    bodies = {
        "empty": b"",
        "blank": b" \n",
        "cut": good[:-1],
        "twice": good + good,
        "trailing comma": good[:-1] + b",}",
        "single quotes": good.replace(b'"', b"'"),
        "comment": b"/* */" + good,
        "list": b"[" + good + b"]",
        "null": b"null",
        "string": b'"x"',
        "number": b"1",
        "deep lists": b"[" * 100_000 + b"]" * 100_000,
        "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "deep value": good[:-1] + b',"dllm":' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}",
        "utf-16": good.decode().encode("utf-16"),
        "byte order mark": b"\xef\xbb\xbf" + good,
        "invalid utf-8": good.replace(b"{", b'{"\xff":1,', 1),
        "overlong utf-8": good.replace(b"{", b'{"\xc0\xaf":1,', 1),
        "raw control character": good.replace(b"{", b'{"a\x01":1,', 1),
        "duplicate key": good[:-1] + b',"seed":1,"seed":2}',
        "surrogate key": good.replace(b"{", b'{"\\ud800":1,', 1),
        "nul bytes": b"\0" * 100,
        "unknown key": good[:-1] + b',"surprise":1}',
    }
    return {name: post(path, body) for name, body in bodies.items()}


NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1" + "0" * 400,
    "0." + "9" * 5000,
    "1e-99999999",
    "--1",
    "01",
)
FIELDS = {
    CHAT_PATH: ("temperature", "top_p", "seed", "max_tokens", "n", "presence_penalty", "top_logprobs"),
    "/v1/completions": ("temperature", "max_tokens", "seed", "n", "logprobs", "prompt"),
    "/generate": ("temperature", "max_tokens", "max_nfe", "prompt"),
    "/tokenize": ("prompt",),
    "/detokenize": ("tokens",),
}
TYPES = ("true", '"1"', "[]", "{}", "[[]]", "1.5", "-1", "0.0001e-400", "[null]", '{"a":1}', "18446744073709551616")


def bad_values(path: str, values: tuple[str, ...]) -> dict[str, bytes]:
    return {
        f"{field}={value[:12]}": post(path, with_raw(BODIES[path], field, value))
        for field in FIELDS[path]
        for value in values
    }


SURROGATES = ('"\\ud800"', '"\\udfff x"', '"x \\ud83d"', '["\\ud800"]')


def surrogates(path: str) -> dict[str, bytes]:
    field = {CHAT_PATH: "user", "/v1/completions": "prompt", "/generate": "prompt", "/tokenize": "prompt"}.get(
        path, "model"
    )
    bodies = {value: with_raw(BODIES[path], field, value) for value in SURROGATES}
    if path == CHAT_PATH:
        for value in SURROGATES[:3]:
            bodies[f"content {value}"] = f'{{"messages":[{{"role":"user","content":{value}}}]}}'.encode()
            bodies[f"stop {value}"] = with_raw(BODIES[path], "stop", value)
    return {name: post(path, body) for name, body in bodies.items()}


def large(path: str) -> dict[str, bytes]:
    text = "x" * (10 * MEGABYTE)
    bodies: dict[str, dict[str, Any]] = {
        f"{size} MB of text": _with_text(path, text[: size * MEGABYTE]) for size in (10, 7)
    }
    bodies["n of a billion"] = {**BODIES[path], "n": 1_000_000_000, "tokens": [2**31]}
    if path == CHAT_PATH:
        bodies |= {
            "100,000 messages": {"messages": CHAT * 100_000},
            "a million stop strings": {**BODIES[path], "stop": ["x"] * 1_000_000},
            "a stop string of 7 MB": {**BODIES[path], "stop": text[: 7 * MEGABYTE]},
            "a name of 7 MB": {**BODIES[path], "model": text[: 7 * MEGABYTE]},
            "a key of 7 MB": {**BODIES[path], text[: 7 * MEGABYTE]: 1},
            "100,000 keys": {**BODIES[path], **{f"k{i}": i for i in range(100_000)}},
            "100,000 biases": {**BODIES[path], "logit_bias": {str(i): 1 for i in range(100_000)}},
        }
    if path == "/v1/completions":
        bodies |= {
            "a million ids": {"prompt": [1] * 1_000_000},
            "100,000 prompts": {"prompt": ["x"] * 100_000},
            "tokens beyond the vocabulary": {"prompt": [VOCABULARY]},
        }
    if path == "/detokenize":
        bodies |= {"a million ids": {"tokens": [2**31] * 700_000}, "words": {"tokens": ["x"] * 100_000}}
    return {name: post(path, json.dumps(body).encode()) for name, body in bodies.items()}


def _with_text(path: str, text: str) -> dict[str, Any]:
    if path == CHAT_PATH:
        return {"messages": [{"role": "user", "content": text}]}
    return {"model": text} if path == "/detokenize" else {"prompt": text}


GOOD = json.dumps(BODIES[CHAT_PATH]).encode()
HEX = f"{len(GOOD):x}".encode()
BLANK_CHUNK = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
# Whatever h11 itself refuses is answered by the server, not by a route; some of it only by closing the connection.
PROTOCOL: dict[str, bytes] = {
    "header of 64 KB": post(CHAT_PATH, GOOD, "X-Big: " + "x" * 65536),
    "header of 8 MB": post(CHAT_PATH, GOOD, "X-Big: " + "x" * (8 * MEGABYTE)),
    "10,000 headers": post(CHAT_PATH, GOOD, *(f"X-{i}: {i}" for i in range(10_000))),
    "endless header": b"POST / HTTP/1.1\r\nX: " + b"x" * (2 * MEGABYTE),
    "path of 1 MB": post("/" + "x" * MEGABYTE, GOOD),
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "space before colon": post(CHAT_PATH, GOOD, "X-Bad : 1"),
    "control character in a header": post(CHAT_PATH, GOOD, "X-Bad: a\x00b"),
    "folded header": post(CHAT_PATH, GOOD, "X-Folded: a\r\n b"),
    "unknown version": b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
    "http/0.9": b"GET /health\r\n\r\n",
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls hello": bytes.fromhex("16030100c8010000c40303") + b"\0" * 200,
    "binary": bytes(range(256)) * 8,
    "negative length": post(CHAT_PATH, b"").replace(b"Content-Length: 0", b"Content-Length: -1"),
    "length of words": post(CHAT_PATH, b"").replace(b"Content-Length: 0", b"Content-Length: ten"),
    "astronomic length": post(CHAT_PATH, b"").replace(b"Content-Length: 0", b"Content-Length: " + b"9" * 30),
    "large length": post(CHAT_PATH, b"").replace(b"Content-Length: 0", b"Content-Length: 1000000000"),
    "two lengths": post(CHAT_PATH, GOOD, "Content-Length: 1"),
    "length and chunked": post(CHAT_PATH, GOOD, "Transfer-Encoding: chunked"),
    "unknown transfer encoding": post(CHAT_PATH, GOOD, "Transfer-Encoding: gzip, chunked"),
    "chunk size no number": chunked(CHAT_PATH, b"zz\r\n" + GOOD + b"\r\n0\r\n\r\n"),
    "chunk size negative": chunked(CHAT_PATH, b"-5\r\n" + GOOD + b"\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": chunked(CHAT_PATH, b"f" * 17 + b"\r\n" + GOOD + b"\r\n0\r\n\r\n"),
    "chunk size too small": chunked(CHAT_PATH, b"1\r\n" + GOOD + b"\r\n0\r\n\r\n"),
    "chunk extension of 1 MB": chunked(CHAT_PATH, HEX + b";" + b"x" * MEGABYTE + b"\r\n" + GOOD + b"\r\n0\r\n\r\n"),
    "chunks of 10 MB": chunked(CHAT_PATH, BLANK_CHUNK * 10),
    "trailers of 1 MB": chunked(CHAT_PATH, HEX + b"\r\n" + GOOD + b"\r\n0\r\nX: " + b"x" * MEGABYTE + b"\r\n\r\n"),
    "gzip": post(CHAT_PATH, gzip.compress(b" " * (100 * MEGABYTE)), "Content-Encoding: gzip"),
    "text": post(CHAT_PATH, GOOD, content_type="text/plain"),
    "form": post(CHAT_PATH, GOOD, content_type="application/x-www-form-urlencoded"),
    "other charset": post(CHAT_PATH, GOOD, content_type="application/json; charset=utf-16"),
    "request id of 1000": post(CHAT_PATH, GOOD, "X-Request-Id: " + "x" * 1000),
    "two request ids": post(CHAT_PATH, GOOD, "X-Request-Id: a", "X-Request-Id: b"),
    "request id with spaces": post(CHAT_PATH, GOOD, "X-Request-Id: a b"),
    "get": b"GET /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n",
    "trace": b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "connect": b"CONNECT example.com:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown method": b"BREW /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown path": b"GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n",
    "path with nul": b"GET /v1/models/%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "path with dots": b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "path with encoded dots": b"GET /v1/models/%2e%2e%2f%2e%2e%2fetc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "path with bad utf-8": b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: a\r\n\r\n",
    "path with raw bytes": b"GET /v1/models/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
    "script in the path": b"GET /v1/models/<script>alert(1)</script> HTTP/1.1\r\nHost: a\r\n\r\n",
}  # fmt: skip
CLOSED = {"endless header", "tls hello", "binary", "http/0.9", "http/2 preface", "chunk size beyond 64 bits"}
ENDED = {"chunk size beyond 64 bits"}  # the server would wait for the rest of the chunk, up to its time limit
# Codes above 500 that say what this client has sent, not that the server has failed.
NAMED = {"unknown version": 505, "http/2 preface": 505, "unknown transfer encoding": 501}
HARMLESS = {
    "folded header",  # obsolete, but a legal spelling of a space
    "no host", "trailers of 1 MB", "chunk extension of 1 MB", "length and chunked",
}  # fmt: skip


def json_cases() -> dict[str, bytes]:
    tables: dict[str, bytes] = {}
    for path in BODIES:
        for kind in (not_json(path), bad_values(path, NUMBERS), surrogates(path), large(path)):
            tables.update({f"{path} {name}": data for name, data in kind.items()})
    for value in NUMBERS:
        body = json.dumps({**SGLANG, "sampling_params": {"temperature": "@"}}).replace('"@"', value)
        tables[f"sglang temperature={value[:12]}"] = post("/generate", body.encode())
    return tables


def check_refused(name: str, reply: Reply) -> None:
    assert 400 <= reply.status < 500, (name, reply.status, reply.body[:300])
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}, (name, error)
    assert "\n" not in error["message"], (name, error)
    assert len(reply.body) < 2000, (name, len(reply.body))
    assert not LEAKS.search(reply.body), (name, reply.body[:300])


def test_what_is_no_valid_request_is_a_400_in_openais_form(
    victim: Stack, record_property: Callable[[str, object], None]
) -> None:
    cases = json_cases()
    harmless = [name for name, data in cases.items() if _is_valid(name)]
    statuses: dict[int, int] = {}
    for name, data in cases.items():
        reply = exchange(victim.http, data)
        statuses[reply.status] = statuses.get(reply.status, 0) + 1
        if name not in harmless:
            check_refused(name, reply)
        assert reply.status < 500, (name, reply.body[:300])
    assert_alive(victim)
    record_property("figure", f"{len(cases)} hostile bodies: {statuses}")


def _is_valid(name: str) -> bool:
    """Odd, but JSON that means something: the digits of a float may go on for ever, and tiny numbers are 0."""
    return name.endswith(("=0.9999999999", "=1e-99999999"))


def test_values_of_a_wrong_type_never_break_anything(victim: Stack) -> None:
    for path in BODIES:
        for name, data in bad_values(path, TYPES).items():
            reply = exchange(victim.http, data)
            if reply.status != 200:
                check_refused(name, reply)
    assert_alive(victim)


@pytest.mark.parametrize("name", PROTOCOL)
def test_broken_http_is_refused_or_closed(victim: Stack, name: str) -> None:
    reply = exchange(victim.http, PROTOCOL[name], end=name in ENDED)
    if name in HARMLESS and reply.status == 200:
        return
    closed = reply.status == 0 and name in CLOSED
    refused = 400 <= reply.status < 500 or reply.status == NAMED.get(name)
    assert closed or refused, (reply.status, reply.body[:300])
    assert not LEAKS.search(reply.body)
    assert b"alert(1)</script>" not in reply.body or "application/json" in reply.head
    assert_alive(victim)


def test_a_body_that_stops_half_way_is_nobodys_request(victim: Stack) -> None:
    before = victim.engine()["forward_passes_total"]
    for data in (post(CHAT_PATH, GOOD)[:-5], chunked(CHAT_PATH, HEX + b"\r\n" + GOOD[:9])):
        assert exchange(victim.http, data, end=True).status in (0, 400)
    assert victim.engine()["forward_passes_total"] == before


@pytest.mark.slow
def test_memory_stays_flat_under_hostile_requests(
    victim: Stack, record_property: Callable[[str, object], None]
) -> None:
    cases = {**json_cases(), **PROTOCOL}

    def all_of_them() -> dict[str, float]:
        for name, data in cases.items():
            exchange(victim.http, data, end=name in ENDED)
        return {name: rss(pid) for name, pid in victim.pids().items()}

    all_of_them()  # what a first time allocates stays
    before = all_of_them()
    all_of_them()
    after = all_of_them()
    growth = {name: after[name] - before[name] for name in before}
    record_property("figure", "; ".join(
        f"{name} {before[name]:.0f} -> {after[name]:.0f} MiB over {2 * len(cases)} requests" for name in before
    ))  # fmt: skip
    assert all(grown < 16 for grown in growth.values()), growth
    assert "Traceback" not in victim.errors(), victim.errors()[-3000:]


def assert_alive(stack: Stack) -> None:
    reply = exchange(stack.http, post(CHAT_PATH, GOOD))
    assert reply.json()["choices"][0]["message"]["content"] == ANSWER
