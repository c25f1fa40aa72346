"""The whole server when one of its processes dies, and when it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from asking import ANSWER, CHAT, SLOW
from stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def own() -> Iterator[Stack]:
    with Stack() as stack:
        yield stack


def ask(stack: Stack, **body: Any) -> httpx.Response:
    return httpx.post(f"{stack.url}/v1/chat/completions", json={"messages": CHAT, **body}, timeout=60, trust_env=False)


def in_background(stack: Stack, **body: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    replies: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: replies.append(ask(stack, **body)))
    thread.start()
    stack.wait_busy()
    return thread, replies


def until_answered(stack: Stack) -> tuple[float, set[int]]:
    """Asks until an answer comes; the seconds it took and the other statuses on the way."""
    start, statuses = time.monotonic(), set()
    while (reply := ask(stack)).status_code != 200:
        statuses.add(reply.status_code)
        assert reply.headers["retry-after"]
        assert time.monotonic() - start < 30
        time.sleep(0.02)
    assert reply.json()["choices"][0]["message"]["content"] == ANSWER
    return time.monotonic() - start, statuses


def test_a_killed_engine_is_replaced_and_the_gateway_stays(
    own: Stack, record_property: Callable[[str, object], None]
) -> None:
    before = own.pids()
    thread, replies = in_background(own, **SLOW, n=4)
    os.kill(before["engine"], signal.SIGKILL)
    thread.join(5)
    assert replies, "a running request hangs after the engine died"
    assert replies[0].status_code == 503
    seconds, statuses = until_answered(own)
    assert statuses <= {503}
    after = own.pids()
    assert after["gateway"] == before["gateway"]
    assert after["engine"] != before["engine"]
    record_property("figure", f"the next answer {seconds:.1f} s after the engine was killed")


def test_a_killed_gateway_is_replaced_on_its_port_and_the_engine_drops_its_requests(own: Stack) -> None:
    before = own.pids()
    with httpx.stream(
        "POST", f"{own.url}/v1/chat/completions", json={"messages": CHAT, "stream": True, **SLOW}, trust_env=False
    ) as reply:
        assert reply.status_code == 200
        own.wait_busy()
        os.kill(before["gateway"], signal.SIGKILL)
        assert own.wait_idle() < 2
    deadline = time.monotonic() + 30
    while True:
        try:
            assert ask(own).json()["choices"][0]["message"]["content"] == ANSWER
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert own.pids()["engine"] == before["engine"]


def test_sigterm_lets_a_running_request_finish(own: Stack, record_property: Callable[[str, object], None]) -> None:
    thread, replies = in_background(own, **SLOW)
    start = time.monotonic()
    own.process.send_signal(signal.SIGTERM)
    assert own.process.wait(60) == 0
    thread.join(10)
    assert replies[0].status_code == 200
    assert replies[0].json()["usage"]["completion_tokens"] == SLOW["max_tokens"]
    record_property("figure", f"SIGTERM: the running request finished, exit 0 after {time.monotonic() - start:.1f} s")


def test_the_children_of_a_killed_supervisor_end_by_themselves(own: Stack) -> None:
    pids = own.pids()
    own.process.kill()
    own.process.wait()
    deadline = time.monotonic() + 20
    while any(_is_running(pid) for pid in pids.values()):
        assert time.monotonic() < deadline, "a child outlived its supervisor"
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
