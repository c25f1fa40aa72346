"""The supervisor over fake children: starts, restarts, draining. Crashes are exact, nothing is loaded."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fakes import READY, SERVE, TIMING, appears, everything_ended, failed, pid, spec, until, visible

from pydllm.supervisor.keeper import Backoff, StartError, Timing
from pydllm.supervisor.stop import Stop
from pydllm.supervisor.supervisor import LoadingStoppedError, supervise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pydllm.supervisor.child import Spec

HANG: list[list[Any]] = [["event", READY], ["hang"]]
DIE: list[list[Any]] = [["event", READY], ["kill", signal.SIGSEGV]]


class Run:
    """A supervisor in this process."""

    def __init__(self, specs: list[Spec], timing: Timing) -> None:
        self.stop = Stop()
        self.events: dict[str, Any] = {}
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(supervise(specs, timing=timing, stop=self.stop, announce=self._announce))

    def _announce(self, events: Any) -> None:
        self.events = dict(events)
        self.ready.set()

    async def end(self, *signals: int) -> int:
        """Sends the signals and waits for the exit code."""
        for number in signals or (signal.SIGTERM,):
            self.stop.take(number)
        return await asyncio.wait_for(self.task, 60)


@asynccontextmanager
async def supervised(*specs: Spec, timing: Timing = TIMING) -> AsyncIterator[Run]:
    run = Run(list(specs), timing)
    ready = asyncio.create_task(run.ready.wait())
    await asyncio.wait((run.task, ready), return_when=asyncio.FIRST_COMPLETED)
    assert run.ready.is_set(), run.task
    yield run
    if not run.task.done():
        await run.end(signal.SIGTERM, signal.SIGTERM)


async def fails(*specs: Spec) -> StartError:
    with pytest.raises(StartError) as caught:
        await asyncio.wait_for(Run(list(specs), TIMING).task, 60)
    return caught.value


async def test_ready_is_announced_once_when_every_child_is_ready(tmp_path: Path) -> None:
    engine = spec(tmp_path, "engine", [["wait", "gateway.0.ready"], *SERVE])
    gateway = spec(tmp_path, "gateway", [["event", READY], ["serve"]])
    run = Run([engine, gateway], TIMING)
    await appears(tmp_path / "gateway.0.config")
    assert not run.ready.is_set()
    (tmp_path / "gateway.0.ready").touch()
    await asyncio.wait_for(run.ready.wait(), 30)
    assert run.events == {"engine": READY, "gateway": READY}
    assert await run.end() == 0


async def test_a_child_reads_its_configuration_and_nothing_of_it_is_in_its_arguments(tmp_path: Path) -> None:
    async with supervised(spec(tmp_path, "engine", secret="s3cret\n\u2028\udcff")):
        config = json.loads((tmp_path / "engine.0.config").read_text())
        arguments = visible(pid(tmp_path, "engine"))
    assert config["secret"] == "s3cret\n\u2028\udcff"
    assert "s3cret" not in arguments


async def test_children_live_in_sessions_of_their_own(tmp_path: Path) -> None:
    async with supervised(spec(tmp_path, "engine"), spec(tmp_path, "gateway")):
        sessions = {os.getsid(pid(tmp_path, name)) for name in ("engine", "gateway")}
        assert sessions == {pid(tmp_path, "engine"), pid(tmp_path, "gateway")}


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (2, 2), (7, 1)])
async def test_a_failed_first_start_ends_everything_with_the_childs_words(
    code: int, expected: int, tmp_path: Path
) -> None:
    gateway = spec(tmp_path, "gateway")
    error = await fails(spec(tmp_path, "engine", [["wait", "gateway.0.config"], *failed("no model", code)]), gateway)
    assert (str(error), error.code) == ("no model", expected)
    assert (tmp_path / "gateway.0.stopped").exists()
    assert everything_ended(tmp_path)


@pytest.mark.parametrize(
    ("steps", "words", "code"),
    [
        ([["kill", signal.SIGSEGV]], "was killed by SIGSEGV", 1),
        ([["exit", 0]], "exited with code 0", 1),
        ([["exit", 2]], "exited with code 2", 2),
        ([["event", {"event": "failed", "message": 7}], ["exit", 1]], "exited with code 1", 1),
    ],
)
async def test_a_silent_end_before_ready_is_described(
    steps: list[list[Any]], words: str, code: int, tmp_path: Path
) -> None:
    error = await fails(spec(tmp_path, "engine", steps))
    assert str(error) == f"engine process {pid(tmp_path, 'engine')} {words} before it was ready"
    assert error.code == code


async def test_a_program_that_cannot_be_executed_is_one_line(tmp_path: Path) -> None:
    missing = replace(spec(tmp_path, "engine"), command=(str(tmp_path / "nothing"),))
    error = await fails(missing, spec(tmp_path, "gateway"))
    assert (str(error), error.code) == (
        "engine process cannot be started: No such file or directory before it was ready",
        1,
    )
    assert everything_ended(tmp_path)


async def test_a_killed_child_is_started_again_and_the_other_one_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(spec(tmp_path, "engine"), spec(tmp_path, "gateway")) as run:
        for number in range(2):
            killed = pid(tmp_path, "engine", number)
            os.kill(killed, signal.SIGKILL)
            await appears(tmp_path / f"engine.{number + 1}.config")
            backoff = 0.01 * 2**number
            assert f"engine process {killed} was killed by SIGKILL; starting it again in {backoff:g} s" in caplog.text
        assert await run.end() == 0
    assert (tmp_path / "engine.2.stopped").exists()
    assert (tmp_path / "gateway.0.stopped").exists()
    assert not (tmp_path / "gateway.1.config").exists()


async def test_a_failing_restart_is_tried_again_with_growing_backoff(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = spec(tmp_path, "engine", DIE, failed("no memory", 1), [["exit", 3]], failed("no memory", 2), SERVE)
    async with supervised(engine) as run:
        await appears(tmp_path / "engine.4.config")
        assert await run.end() == 0
    delays = [record.args[2] for record in caplog.records if "starting it again" in record.msg]  # type: ignore[index]
    assert delays == [0.01, 0.02, 0.04, 0.04]
    assert "(no memory); starting it again" in caplog.text


async def test_a_restarted_child_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with supervised(spec(tmp_path, "engine", DIE, SERVE)):
        await until(lambda: "is ready again" in caplog.text, "the log line")
    assert f"engine process {pid(tmp_path, 'engine', 1)} is ready again after" in caplog.text


async def test_ports_that_children_chose_are_asked_for_again(tmp_path: Path) -> None:
    engine = spec(tmp_path, "engine", DIE, SERVE, server={"port": 0, "metrics_port": 0, "host": "h"})
    gateway = spec(tmp_path, "gateway", DIE, SERVE, port=0)
    async with supervised(engine, gateway):
        await appears(tmp_path / "engine.1.config")
        await appears(tmp_path / "gateway.1.config")
        server = json.loads((tmp_path / "engine.1.config").read_text())["server"]
        assert server == {"port": 4001, "metrics_port": 4002, "host": "h"}
        assert json.loads((tmp_path / "gateway.1.config").read_text())["port"] == 4003


def test_backoff_doubles_to_its_limit_and_begins_anew_after_a_settled_life() -> None:
    backoff = Backoff(Timing())
    assert [backoff.after(lived) for lived in (0, 59, 1, 1, 1, 1, 1, 1)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [backoff.after(lived) for lived in (60, 1)] == [0.5, 1]


async def test_stop_reaches_all_children_at_once(tmp_path: Path) -> None:
    """Each ends only after the other one has got its SIGTERM: one after the other would never end."""
    engine = spec(tmp_path, "engine", [*SERVE, ["wait", "gateway.0.stopped"], ["exit", 0]])
    gateway = spec(tmp_path, "gateway", [*SERVE, ["wait", "engine.0.stopped"], ["exit", 0]])
    async with supervised(engine, gateway) as run:
        assert await run.end() == 0


async def test_stop_waits_until_the_last_child_has_drained(tmp_path: Path) -> None:
    engine = spec(tmp_path, "engine", [*SERVE, ["wait", "finished"], ["exit", 0]])
    async with supervised(engine, spec(tmp_path, "gateway")) as run:
        run.stop.take(signal.SIGTERM)
        await appears(tmp_path / "engine.0.stopped")
        assert not run.task.done()
        (tmp_path / "finished").touch()
        assert await asyncio.wait_for(run.task, 30) == 0


async def test_a_child_that_outlives_its_time_is_killed_and_the_exit_code_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    timing = Timing(drain=0.2)
    async with supervised(spec(tmp_path, "engine", HANG), spec(tmp_path, "gateway"), timing=timing) as run:
        assert await run.end() == 1
    assert "engine process did not end within 0.2 s of SIGTERM" in caplog.text
    assert everything_ended(tmp_path)


async def test_a_child_that_crashes_while_draining_is_no_success(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with supervised(spec(tmp_path, "engine", [*SERVE, ["exit", 5]]), spec(tmp_path, "gateway")) as run:
        assert await run.end() == 1
    assert "exited with code 5 instead of draining" in caplog.text
    assert not (tmp_path / "engine.1.config").exists()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_kills_at_once(second: int, tmp_path: Path) -> None:
    async with supervised(spec(tmp_path, "engine", HANG), spec(tmp_path, "gateway", HANG)) as run:
        begin = time.monotonic()
        assert await run.end(signal.SIGTERM, second) == 128 + second
        assert time.monotonic() - begin < TIMING.drain / 2
    assert everything_ended(tmp_path)


async def test_a_signal_while_loading_ends_without_waiting_for_it(tmp_path: Path) -> None:
    engine = spec(tmp_path, "engine", [["wait", "loaded"]])
    timing = Timing(drain=60, starting=0.2)
    run = Run([engine, spec(tmp_path, "gateway")], timing)
    await appears(tmp_path / "engine.0.config")
    await appears(tmp_path / "gateway.0.config")
    with pytest.raises(LoadingStoppedError, match="stopped while loading"):
        await run.end()
    assert not run.ready.is_set()
    assert everything_ended(tmp_path)


async def test_a_signal_before_anything_runs_leaves_nothing(tmp_path: Path) -> None:
    run = Run([spec(tmp_path, "engine"), spec(tmp_path, "gateway")], TIMING)
    with pytest.raises(LoadingStoppedError):
        await run.end()
    assert everything_ended(tmp_path)


async def test_a_signal_between_two_starts_ends_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    timing = Timing(first_backoff=3600)
    async with supervised(spec(tmp_path, "engine"), spec(tmp_path, "gateway"), timing=timing) as run:
        os.kill(pid(tmp_path, "engine"), signal.SIGKILL)
        await until(lambda: "starting it again in 3600 s" in caplog.text, "the log line")
        assert await run.end() == 0
    assert not (tmp_path / "engine.1.config").exists()


async def test_a_signal_while_a_child_loads_again_waits_only_for_the_other(tmp_path: Path) -> None:
    loading: list[list[Any]] = [["wait", "never"]]
    timing = Timing(first_backoff=0.01, drain=60, starting=0.2)
    gateway = spec(tmp_path, "gateway", [*SERVE, ["wait", "finished"], ["exit", 0]])
    async with supervised(spec(tmp_path, "engine", DIE, loading), gateway, timing=timing) as run:
        await appears(tmp_path / "engine.1.config")
        run.stop.take(signal.SIGTERM)
        await appears(tmp_path / "gateway.0.stopped")
        (tmp_path / "finished").touch()
        assert await asyncio.wait_for(run.task, 30) == 0
    assert everything_ended(tmp_path)


async def test_what_is_no_event_is_logged_and_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noise: list[list[Any]] = [["print", text] for text in ("hello \x1b[31m", "[1]", "{}", '{"event": 1}', "x" * 2**21)]
    async with supervised(spec(tmp_path, "engine", [*noise, *SERVE])) as run:
        assert run.events["engine"] == READY
    assert caplog.text.count("wrote no event") >= 4
    assert "was dropped" in caplog.text
    assert "\x1b" not in caplog.text


async def test_when_the_announcement_fails_nothing_is_left(tmp_path: Path) -> None:
    def broken(_: Any) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await supervise([spec(tmp_path, "engine")], timing=TIMING, stop=Stop(), announce=broken)
    assert (tmp_path / "engine.0.stopped").exists()
    assert everything_ended(tmp_path)
