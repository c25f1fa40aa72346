"""The engine for ordinary threads."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from devices import DEVICE

from pydllm import DiffusionParams, SamplingParams
from pydllm.engine import Engine, EngineConfig, Generation, load
from pydllm.errors import DeadlineExceededError, EngineStoppedError, QueueFullError

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = [1, 2, 3]
SHORT = SamplingParams(max_tokens=8, ignore_eos=True)
ENDLESS = DiffusionParams(algorithm="llada_schedule", extra={"steps": 1_000_000})


def make(checkpoint: Path, **options: int) -> Engine:
    limits: dict[str, Any] = {"max_model_len": 64, "kv_cache_tokens": 512, **options}
    config = EngineConfig.from_options(device=DEVICE, debug_checks=True, **limits)
    return Engine(load(checkpoint, config))


@pytest.fixture
def engine(tiny_checkpoint: Path) -> Engine:
    return make(tiny_checkpoint)


def endless(engine: Engine, n: int = 1) -> Generation:
    generation = engine.generate(PROMPT, sampling=SamplingParams(max_tokens=8, n=n, ignore_eos=True), diffusion=ENDLESS)
    assert next(generation)[1].kind == "started"
    return generation


def make_full(checkpoint: Path) -> tuple[Engine, Generation, Generation]:
    """One request runs without end, one waits, nobody else may."""
    engine = make(checkpoint, max_running_requests=1, max_waiting_requests=1)
    running = endless(engine)
    return engine, running, engine.generate(PROMPT, sampling=SHORT)


def completed(engine: Engine) -> list[int]:
    return [token for _, event in engine.generate(PROMPT, sampling=SHORT) for token in event.final_tokens]


def assert_idle(engine: Engine) -> None:
    completed(engine)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.pages_used, stats.integrity) == (0, 0, 0, "")


def test_threads_get_their_own_events(engine: Engine) -> None:
    alone = completed(engine)
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda _: completed(engine), range(64))) == [alone] * 64
    assert_idle(engine)
    engine.close()


@pytest.mark.parametrize("leave", ["close", "with", "forget"])
def test_leaving_early_cancels_every_candidate(engine: Engine, leave: str) -> None:
    generation = endless(engine, n=3)
    if leave == "close":
        generation.close()
        generation.close()
        assert list(generation) == []
    elif leave == "with":
        with generation:
            pass
    else:
        del generation
        gc.collect()
    assert_idle(engine)
    assert engine.stats().requests_failed == 3
    engine.close()


def test_a_deadline_ends_a_running_request_with_what_is_final(engine: Engine) -> None:
    crawl = DiffusionParams(algorithm="llada_schedule", block_length=1, extra={"steps": 1_000_000})
    events = [event for _, event in engine.generate(PROMPT, sampling=SHORT, diffusion=crawl, deadline_seconds=0.5)]
    assert (events[-1].kind, events[-1].finish_reason) == ("finished", "step_limit")
    assert sum(len(event.final_tokens) for event in events) == 1
    assert_idle(engine)
    engine.close()


def test_a_batch_without_a_place_waits_until_its_deadline(tiny_checkpoint: Path) -> None:
    engine, running, waiting = make_full(tiny_checkpoint)
    with pytest.raises(DeadlineExceededError, match="place in the queue"):
        list(engine.batch([engine.prepare(PROMPT, SHORT)], deadline_seconds=0.05))
    running.close()
    assert [event.kind for _, event in waiting][-1] == "finished"
    assert_idle(engine)
    engine.close()


def test_close_releases_a_blocked_reader(engine: Engine) -> None:
    generation = endless(engine)
    with ThreadPoolExecutor(1) as threads:
        reader = threads.submit(list, generation)
        engine.close()
        with pytest.raises(EngineStoppedError):
            reader.result(30)
    with pytest.raises(EngineStoppedError):
        engine.generate(PROMPT)
    engine.close()


def test_dropping_an_engine_ends_its_thread(tiny_checkpoint: Path) -> None:
    before = set(threading.enumerate())
    engine = make(tiny_checkpoint)
    completed(engine)
    (pump,) = set(threading.enumerate()) - before
    del engine
    gc.collect()
    pump.join(30)
    assert not pump.is_alive()


def test_a_batch_is_fed_as_the_queue_has_room(tiny_checkpoint: Path) -> None:
    engine = make(tiny_checkpoint, max_running_requests=2, max_waiting_requests=1)
    request = engine.prepare(PROMPT, SHORT)
    finished = [at for at, _, event in engine.batch([request] * 50) if event.kind == "finished"]
    assert sorted(finished) == list(range(50))
    assert_idle(engine)
    engine.close()


def test_a_batch_waits_while_others_fill_the_queue(tiny_checkpoint: Path) -> None:
    engine, running, waiting = make_full(tiny_checkpoint)
    with pytest.raises(QueueFullError):
        engine.generate(PROMPT, sampling=SHORT)
    with ThreadPoolExecutor(1) as threads:
        batch = threads.submit(list, engine.batch([engine.prepare(PROMPT, SHORT)] * 3))
        running.close()
        assert [event.kind for _, event in waiting][-1] == "finished"
        assert [event.kind for _, _, event in batch.result(60)].count("finished") == 3
    engine.close()


def test_a_failing_batch_cancels_the_rest(engine: Engine) -> None:
    endless_request = engine.prepare(PROMPT, SHORT, ENDLESS)
    batch = engine.batch([endless_request] * 5)
    assert next(batch)[2].kind == "started"
    bad = [engine.prepare(PROMPT, SHORT), engine.prepare([351, 352], SHORT)]
    with pytest.raises(ValueError, match="351"):
        list(engine.batch(bad))
    batch.close()
    batch.close()
    assert list(batch) == []
    assert_idle(engine)
    engine.close()


def test_closing_the_engine_ends_a_waiting_batch(tiny_checkpoint: Path) -> None:
    engine = make(tiny_checkpoint, max_running_requests=1, max_waiting_requests=1)
    running = endless(engine)
    waiting = engine.generate(PROMPT, sampling=SHORT)
    with ThreadPoolExecutor(1) as threads:
        batch = threads.submit(list, engine.batch([engine.prepare(PROMPT, SHORT)]))
        engine.close()
        with pytest.raises(EngineStoppedError):
            batch.result(30)
    assert running is not waiting
