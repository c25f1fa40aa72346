"""The boundary: what goes in is checked, what comes out names the field."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pydllm import _core
from pydllm.checkpoint import Checkpoint, open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPTIONS = {"max_model_len": 64, "pages": 64, "page_size": 16, "mask_token_id": 332, "debug_checks": True}
REQUEST: dict[str, Any] = {"max_tokens": 4, "algorithm": "confidence_threshold"}


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint)


@pytest.fixture
def model(checkpoint: Checkpoint) -> _core.Model:
    return _core.load_model(checkpoint.config, checkpoint.shards, threads=1)


@pytest.fixture(scope="module")
def engine(checkpoint: Checkpoint) -> Iterator[_core.Engine]:
    model = _core.load_model(checkpoint.config, checkpoint.shards, threads=1)
    core = _core.Engine(model, OPTIONS, threads=1)
    yield core
    core.stop()


def events_of(core: _core.Engine, request_id: int) -> list[_core.Event]:
    events: list[_core.Event] = []
    while not events or events[-1].kind not in ("finished", "failed"):
        assert core.wait(30)
        events += [event for event in core.drain() if event.id == request_id]
    return events


def refused(call: Callable[[], object], kind: type[_core.CoreError], field: str) -> str:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def test_a_request_runs_and_its_events_add_up(engine: _core.Engine) -> None:
    request_id = engine.submit([1, 2, 3], **REQUEST)
    events = events_of(engine, request_id)
    assert events[0].kind == "started"
    tokens = [token for event in events for token in event.final_tokens]
    assert events[-1].finish_reason == "length"
    assert len(tokens) == 4
    assert [(block.begin, block.end) for event in events for block in event.blocks] == [(0, 4)]
    assert events[-1].forward_passes == events[-1].denoise_steps > 0
    assert engine.stats().pages_used == 0
    assert engine.stats().integrity == ""


def test_snapshots_have_a_confidence_per_position(engine: _core.Engine) -> None:
    request_id = engine.submit([1, 2, 3], **{**REQUEST, "algorithm": "llada_schedule"}, snapshots=True)
    steps = [event for event in events_of(engine, request_id) if event.kind == "step"]
    assert len(steps) == 4
    for event in steps:
        pairs = list(zip(event.snapshot_tokens, event.snapshot_confidences, strict=True))
        assert all((confidence > 0) == (token >= 0) for token, confidence in pairs)
        assert all(confidence <= 1 for _, confidence in pairs)
    assert sum(confidence > 0 for confidence in steps[1].snapshot_confidences) == 2


def test_statistics_count_steps_blocks_and_batch_sizes(model: _core.Model) -> None:
    core = _core.Engine(model, OPTIONS, threads=1)
    before = core.stats()
    assert before.forward_batch_sizes == [0] * 9
    request = {"max_tokens": 6, "algorithm": "llada_schedule", "params": {"block_length": 4}}
    events_of(core, core.submit([1, 2, 3], **request))
    stats = core.stats()
    core.stop()
    assert (stats.denoise_steps, stats.blocks_finished) == (6, 2)
    assert stats.canvas_positions == 4 * 4 + 2 * 2  # four steps on a block of four, two on the rest
    assert stats.forward_batch_sizes == [6, 0, 0, 0, 0, 0, 0, 0, 0]
    assert len(stats.forward_batch_sizes) == len(_core.EngineStats.FORWARD_BATCH_BOUNDS) + 1
    assert _core.EngineStats.FORWARD_BATCH_BOUNDS == (1, 2, 4, 8, 16, 32, 64, 128)


def test_integers_of_numpy_are_integers(engine: _core.Engine) -> None:
    prompt = np.array([1, 2, 3], np.int16)
    request_id = engine.submit(
        prompt,
        max_tokens=np.int64(3),
        algorithm="llada_schedule",
        seed=np.uint64(2**64 - 1),
        top_k=np.int8(4),
    )
    assert events_of(engine, request_id)[-1].kind == "finished"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"max_tokens": -1}, "sampling.max_tokens"),
        ({"max_tokens": 2**31}, "sampling.max_tokens"),
        ({"max_tokens": 10**40}, "sampling.max_tokens"),
        ({"max_tokens": 4.0}, "sampling.max_tokens"),
        ({"max_tokens": True}, "sampling.max_tokens"),
        ({"max_tokens": "4"}, "sampling.max_tokens"),
        ({"max_tokens": None}, "sampling.max_tokens"),
        ({"max_tokens": 62}, "sampling.max_tokens"),
        ({"temperature": float("nan")}, "sampling.temperature"),
        ({"temperature": float("inf")}, "sampling.temperature"),
        ({"temperature": 1e300}, "sampling.temperature"),
        ({"temperature": -0.1}, "sampling.temperature"),
        ({"temperature": "hot"}, "sampling.temperature"),
        ({"temperature": True}, "sampling.temperature"),
        ({"temperature": 10**400}, "sampling.temperature"),
        ({"top_p": 0}, "sampling.top_p"),
        ({"top_p": 1.5}, "sampling.top_p"),
        ({"top_k": -1}, "sampling.top_k"),
        ({"seed": -1}, "sampling.seed"),
        ({"seed": 2**64}, "sampling.seed"),
        ({"seed": 1.0}, "sampling.seed"),
        ({"min_p": 1.5}, "sampling.min_p"),
        ({"min_p": "0.5"}, "sampling.min_p"),
        ({"repetition_penalty": 0}, "sampling.repetition_penalty"),
        ({"presence_penalty": 3}, "sampling.presence_penalty"),
        ({"frequency_penalty": float("nan")}, "sampling.frequency_penalty"),
        ({"min_tokens": -1}, "sampling.min_tokens"),
        ({"min_tokens": 2**20}, "sampling.min_tokens"),
        ({"logit_bias": {352: 1.0}}, "sampling.logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "sampling.logit_bias"),
        ({"logit_bias": {True: 1.0}}, "sampling.logit_bias"),
        ({"logit_bias": {1: "x"}}, "sampling.logit_bias"),
        ({"logit_bias": {1: 1e300}}, "sampling.logit_bias"),
        ({"logit_bias": [(1, 2.0)]}, "sampling.logit_bias"),
        ({"max_repetition_run": 1}, "sampling.max_repetition_run"),
        ({"max_repetition_run": -1}, "sampling.max_repetition_run"),
        ({"max_repetition_run": 2**31}, "sampling.max_repetition_run"),
        ({"eos_token_ids": [352]}, "eos_token_ids"),
        ({"stop_token_ids": [-1]}, "sampling.stop_token_ids[0]"),
        ({"stop_token_ids": 5}, "sampling.stop_token_ids"),
        ({"algorithm": "nonesuch"}, "diffusion.algorithm"),
        ({"algorithm": 7}, "diffusion.algorithm"),
        ({"algorithm": "\ud800"}, "diffusion.algorithm"),
        ({"params": {"nonesuch": 1}}, "diffusion.extra.nonesuch"),
        ({"params": {"block_length": 0}}, "diffusion.block_length"),
        ({"params": {"block_length": [1]}}, "diffusion.block_length"),
        ({"params": {"confidence_threshold": float("nan")}}, "diffusion.confidence_threshold"),
        ({"params": {7: 1}}, "diffusion.extra"),
        ({"params": [("block_length", 4)]}, "diffusion.extra"),
        ({"max_forward_passes": -1}, "diffusion.max_forward_passes"),
        ({"deadline_seconds": float("nan")}, "deadline_seconds"),
        ({"deadline_seconds": "soon"}, "deadline_seconds"),
        ({"snapshots": 1}, "snapshots"),
        ({"trace": None}, "trace"),
    ],
)
def test_a_bad_field_is_named(engine: _core.Engine, change: dict[str, Any], field: str) -> None:
    refused(lambda: engine.submit([1, 2, 3], **{**REQUEST, **change}), _core.InvalidRequest, field)


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ([], "prompt_token_ids"),
        (None, "prompt_token_ids"),
        ("text", "prompt_token_ids"),
        (b"bytes", "prompt_token_ids"),
        ({1: 2}, "prompt_token_ids"),
        ({1, 2}, "prompt_token_ids"),
        ([1, 352], "prompt_token_ids"),
        ([1, -1], "prompt_token_ids[1]"),
        ([1, 2**31], "prompt_token_ids[1]"),
        ([1, 2**80], "prompt_token_ids[1]"),
        ([1, 2.0], "prompt_token_ids[1]"),
        ([1, True], "prompt_token_ids[1]"),
        ([1, None], "prompt_token_ids[1]"),
    ],
)
def test_a_bad_prompt_is_named(engine: _core.Engine, prompt: Any, field: str) -> None:
    refused(lambda: engine.submit(prompt, **REQUEST), _core.InvalidRequest, field)


def test_a_parameter_of_another_algorithm_is_unsupported(engine: _core.Engine) -> None:
    request = {**REQUEST, "params": {"entropy_threshold": 0.5}}
    refused(lambda: engine.submit([1], **request), _core.Unsupported, "diffusion.entropy_threshold")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"nonesuch": 1}, "nonesuch"),
        ({"pages": 0}, "pages"),
        ({"pages": 2.5}, "pages"),
        ({"pages": 2**31}, "pages"),
        ({"max_model_len": 1025}, "max_model_len"),
        ({"mask_token_id": 352}, "mask_token_id"),
        ({"page_size": 0}, "page_size"),
        ({"debug_checks": 1}, "debug_checks"),
        ({7: 1}, "options"),
    ],
)
def test_a_bad_option_is_named(model: _core.Model, change: dict[Any, Any], field: str) -> None:
    refused(lambda: _core.Engine(model, {**OPTIONS, **change}), _core.InvalidRequest, field)


def test_options_must_be_a_mapping(model: _core.Model) -> None:
    refused(lambda: _core.Engine(model, [("pages", 1)]), _core.InvalidRequest, "options")  # type: ignore[arg-type]
    refused(lambda: _core.Engine(model, OPTIONS, threads=-1), _core.InvalidRequest, "threads")


def test_a_model_is_taken_once(model: _core.Model) -> None:
    assert model.info.vocab_size == 352
    assert model.info.weight_dtype == "float32"
    assert model.info.kv_bytes_per_position == 2 * 3 * 64 * 4  # K and V, 3 layers, 64 floats
    first = _core.Engine(model, OPTIONS)
    refused(lambda: _core.Engine(model, OPTIONS), _core.InvalidRequest, "model")
    refused(lambda: model.info, _core.InvalidRequest, "model")
    assert first.model_info.vocab_size == 352


@pytest.mark.parametrize(
    ("change", "kind", "field"),
    [
        ({"nonesuch": 1}, _core.InvalidRequest, "nonesuch"),
        ({"dtype": "int8"}, _core.InvalidRequest, "dtype"),
        ({"dtype": 7}, _core.InvalidRequest, "dtype"),
        ({"rope_theta": "big"}, _core.InvalidRequest, "rope_theta"),
        ({"rope_theta": float("nan")}, _core.InvalidRequest, "rope_theta"),
        ({"vocab_size": 2**31}, _core.InvalidRequest, "vocab_size"),
        ({"tie_word_embeddings": 0}, _core.InvalidRequest, "tie_word_embeddings"),
        ({"architecture": "Nonesuch"}, _core.InvalidCheckpoint, "architectures"),
    ],
)
def test_a_bad_config_is_named(checkpoint: Checkpoint, change: dict[str, Any], kind: Any, field: str) -> None:
    config = {**checkpoint.config, **change}
    refused(lambda: _core.load_model(config, checkpoint.shards), kind, field)


def test_a_missing_config_field_is_named(checkpoint: Checkpoint) -> None:
    config = {name: value for name, value in checkpoint.config.items() if name != "head_dim"}
    refused(lambda: _core.load_model(config, checkpoint.shards), _core.InvalidRequest, "head_dim")


def test_bad_shards_are_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    refused(lambda: _core.load_model(checkpoint.config, "a.safetensors"), _core.InvalidRequest, "shards")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\xff" * 64)
    refused(lambda: _core.load_model(checkpoint.config, [str(bad)]), _core.InvalidCheckpoint, "bad.safetensors")
    refused(lambda: _core.load_model(checkpoint.config, []), _core.InvalidCheckpoint, "shards")


def test_load_progress_reaches_its_total(checkpoint: Checkpoint) -> None:
    progress = _core.LoadProgress()
    _core.load_model(checkpoint.config, checkpoint.shards, progress=progress)
    assert progress.bytes_done == progress.bytes_total == 4 * parameters(checkpoint)


def parameters(checkpoint: Checkpoint) -> int:
    """From the header of the file."""
    data = Path(checkpoint.shards[0]).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return sum(int(np.prod(entry["shape"])) for name, entry in header.items() if name != "__metadata__")


def test_stop_ends_everything_and_later_submissions_fail(model: _core.Model) -> None:
    core = _core.Engine(model, {**OPTIONS, "max_running_requests": 1})
    ids = [core.submit([1, 2, 3], max_tokens=61, algorithm="llada_schedule") for _ in range(3)]
    core.stop()
    core.stop()
    ends = {event.id: event for event in core.drain() if event.kind in ("finished", "failed")}
    assert sorted(ends) == ids
    assert ends[ids[2]].fail_reason == "shutdown"
    refused(lambda: core.submit([1], **REQUEST), _core.ResourceExhausted, "")
    assert core.stats().pages_used == 0


def test_cancel_takes_any_id(engine: _core.Engine) -> None:
    before = engine.stats().late_commands
    engine.cancel(2**63)
    refused(lambda: engine.cancel(-1), _core.InvalidRequest, "request_id")
    events_of(engine, engine.submit([1], **REQUEST))
    assert engine.stats().late_commands == before + 1


def test_wait_lets_other_threads_run(engine: _core.Engine) -> None:
    engine.drain()
    waited = threading.Thread(target=engine.wait, args=(60.0,))
    waited.start()
    request = engine.submit([1], **REQUEST)
    waited.join(30)  # before the drain: who comes late would find no events
    assert not waited.is_alive()
    events_of(engine, request)
    assert engine.wait(0) is False
    refused(lambda: engine.wait(float("nan")), _core.InvalidRequest, "timeout_seconds")


def test_registry_tells_names_types_and_ranges() -> None:
    known = {algorithm.name: algorithm for algorithm in _core.algorithms()}
    assert {"llada_schedule", "confidence_threshold", "entropy_threshold"} <= set(known)
    specs = {spec.name: spec for spec in known["confidence_threshold"].params}
    threshold = specs["confidence_threshold"]
    assert (threshold.type, threshold.minimum, threshold.maximum, threshold.default) == ("float", 0, 1, "0.9")
    assert specs["remasking"].choices == ["low_confidence", "random"]
    assert known["confidence_threshold"].aliases == ["fast_dllm"]
    llada = {architecture.name: architecture for architecture in _core.architectures()}["LLaDAModelLM"]
    assert llada.default_algorithm == "confidence_threshold"
    dream = {architecture.name: architecture for architecture in _core.architectures()}["DreamModel"]
    own = {(one.algorithm, one.param): one.value for one in dream.defaults}
    assert own["multi_block_entropy", "entropy_threshold"] == "0.4"
    assert llada.defaults == []
    assert {name for name, info in known.items() if info.edits} == {"joint_threshold", "levenshtein"}
    full = {name for name, info in known.items() if "full" in info.attention}
    assert full - set(llada.algorithms) == {"dream", "rnd1_entropy"}  # for models with shifted logits
    assert known["d2f"].attention == ["prompt_block_causal"]
    either = {name for name, info in known.items() if info.attention == ["full", "block_causal"]}
    assert either == {"near_max", "credit", "hierarchical"}
    of_full = {spec.name for spec in known["near_max"].params if spec.attention == ["full"]}
    assert of_full == {"block_length", "remasking", "cache"}


def test_checked_parameters_have_their_own_names_and_types() -> None:
    checked = _core.check_params("fast_dllm", {"threshold": 1, "block_length": 4.0}, attention="full")
    assert checked == {"confidence_threshold": 1.0, "block_length": 4}
    assert [type(value) for value in checked.values()] == [float, int]
    for name, params, attention, error, field in [
        ("nonesuch", {}, "full", _core.InvalidRequest, "algorithm"),
        ("fast_dllm", {"a": 1}, "full", _core.InvalidRequest, "diffusion.extra.a"),
        ("fast_dllm", {"entropy_threshold": 1}, "full", _core.Unsupported, "diffusion.entropy_threshold"),
        ("near_max", {"cache": "dual"}, "block_causal", _core.Unsupported, "diffusion.cache"),
        ("near_max", {"remasking": "random"}, "block_causal", _core.Unsupported, "diffusion.extra.remasking"),
        ("near_max", {}, "prompt_block_causal", _core.InvalidRequest, "attention"),
    ]:
        refused(lambda: _core.check_params(name, params, attention=attention), error, field)  # noqa: B023


def test_build_info_is_complete() -> None:
    info = _core.build_info()
    assert set(info) == {"compiler", "build_type", "cpu", "usable_cores", "cuda"}
    assert set(info["cpu"]) == {"float32", "bfloat16", "float16"}
    assert set(info["cpu"].values()) <= {"amxbf16", "avx512bf16", "avx512", "avx2", "scalar"}
    assert info["usable_cores"] >= 1
    cuda = info["cuda"]
    assert set(cuda) == {"built", "runtime", "driver", "devices", "error", "problems", "cublaslt"}
    assert bool(cuda["devices"]) != bool(cuda["error"])
    assert cuda["devices"] or cuda["problems"]
    assert all("\n" not in problem for problem in cuda["problems"])
    assert set(cuda["cublaslt"]) == {"version", "place", "path", "error"}
    assert bool(cuda["cublaslt"]["path"]) != bool(cuda["cublaslt"]["error"])


def test_cublaslt_is_looked_for_in_the_wheel_folders(tmp_path: Path) -> None:
    (tmp_path / "libcublasLt.so.13").write_bytes(b"\x7fELF" + bytes(100))
    library = _core.build_info(wheel_folders=[str(tmp_path)])["cuda"]["cublaslt"]
    if library["path"]:
        pytest.skip(f"this machine has a cuBLASLt of its own: {library['place']}")
    assert f"wheel {tmp_path}: {tmp_path}/libcublasLt.so.13: " in library["error"]
    assert library["error"].endswith("run: pip install nvidia-cublas")


def test_a_wrong_matmul_is_refused_by_name() -> None:
    def choose(wanted: Any, **changes: Any) -> Callable[[], _core.Matmul]:
        return lambda: _core.choose_matmul(wanted, **{"device": "cpu", "dtype": "bfloat16", **changes})

    assert choose("auto")().description == "builtin"
    refused(choose("cublas"), _core.InvalidRequest, "matmul")
    refused(choose(1), _core.InvalidRequest, "matmul")
    refused(choose("cublaslt"), _core.Unsupported, "matmul")
    refused(choose("auto", dtype="int5"), _core.InvalidRequest, "dtype")
    refused(choose("auto", wheel_folders="text"), _core.InvalidRequest, "wheel_folders")


def test_every_error_is_a_core_error_with_a_field() -> None:
    for name in ("InvalidRequest", "Unsupported", "ResourceExhausted", "InvalidCheckpoint", "InternalError"):
        kind = getattr(_core, name)
        assert issubclass(kind, _core.CoreError)
        assert kind.field == ""
