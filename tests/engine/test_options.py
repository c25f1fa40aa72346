"""Engine options, the sizing of the page pool, loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pydllm import LLM, DiffusionParams, SamplingParams
from pydllm.engine import Engine, EngineConfig, find, load
from pydllm.engine.memory import available_memory, kv_pages
from pydllm.errors import CheckpointError, InvalidRequestError, PydllmError, UnsupportedError


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"device": "tpu"}, "device"),
        ({"device": None}, "device"),
        ({"dtype": "int4"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"matmul": "cublas"}, "matmul"),
        ({"matmul": None}, "matmul"),
        ({"max_model_len": 1}, "max_model_len"),
        ({"max_model_len": True}, "max_model_len"),
        ({"page_size": 0}, "page_size"),
        ({"page_size": 2**31}, "page_size"),
        ({"max_running_requests": 1.5}, "max_running_requests"),
        ({"threads": -1}, "threads"),
        ({"mem_fraction": 0}, "mem_fraction"),
        ({"mem_fraction": 1.1}, "mem_fraction"),
        ({"mem_fraction": float("nan")}, "mem_fraction"),
        ({"mem_fraction": "half"}, "mem_fraction"),
        ({"debug_checks": 1}, "debug_checks"),
        ({"algorithm": None}, "algorithm"),
        ({"algorithm_params": None}, "algorithm_params"),
        ({"algorithm_params": ["block_length"]}, "algorithm_params"),
        ({"algorithm_params": {1: 2}}, "algorithm_params"),
        ({"algorithm_params": {"block_length": None}}, "algorithm_params.block_length"),
        ({"algorithm_params": {"confidence_threshold": float("nan")}}, "algorithm_params.confidence_threshold"),
        ({"nonesuch": 1}, "nonesuch"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        EngineConfig.from_options(**options)
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (10**9, 4 * 10),  # all of max_running_requests
        (2 * 1600 * 25, 25),  # half of it holds 25 pages
        (2 * 1600 * 25 - 1, 24),
        (2 * 1600 * 10, 10),  # exactly one context
    ],
)
def test_pages_follow_requests_memory_and_context(available: int, expected: int) -> None:
    config = EngineConfig(page_size=16, max_running_requests=4)
    assert kv_pages(config, max_model_len=150, bytes_per_position=100, available=available) == expected


def test_too_little_memory_for_one_context_is_one_clear_error() -> None:
    config = EngineConfig(page_size=16)
    with pytest.raises(InvalidRequestError, match="max_model_len") as caught:
        kv_pages(config, max_model_len=150, bytes_per_position=100, available=2 * 1600 * 10 - 1)
    assert caught.value.field == "mem_fraction"


@pytest.mark.parametrize(("tokens", "expected"), [(150, 10), (160, 10), (161, 11), (10**6, 62500)])
def test_explicit_kv_tokens_are_rounded_up_to_pages(tokens: int, expected: int) -> None:
    config = EngineConfig(page_size=16, kv_cache_tokens=tokens)
    assert kv_pages(config, max_model_len=150, bytes_per_position=100, available=0) == expected


def test_explicit_kv_tokens_hold_one_context() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        kv_pages(EngineConfig(kv_cache_tokens=96), max_model_len=150, bytes_per_position=1, available=0)
    assert caught.value.field == "kv_cache_tokens"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 1000 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V2 = {"sys/fs/cgroup/memory.current": "300000\n", "sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 1000\n"}
V1 = {
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "400000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "100000\n",
    "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 2000\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 1_024_000),
        ({**V2, "sys/fs/cgroup/memory.max": "max\n"}, 1_024_000),
        ({**V2, "sys/fs/cgroup/memory.max": "500000\n"}, 201_000),
        ({**V2, "sys/fs/cgroup/memory.max": "1000\n"}, 0),
        (V1, 302_000),
    ],
)
def test_available_memory_respects_the_control_group(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert available_memory(machine(tmp_path, files)) == expected


def test_this_machine_has_memory() -> None:
    assert available_memory() > 2**20


def test_options_reach_the_engine(tiny_checkpoint: Path) -> None:
    config = EngineConfig(
        max_model_len=64,
        page_size=16,
        kv_cache_tokens=128,
        algorithm="fast_dllm",
        block_length=4,
        dtype="bfloat16",
    )
    loaded = load(tiny_checkpoint, config)
    engine = Engine(loaded)
    assert loaded.info.weight_dtype == "bfloat16"
    assert engine.facts.max_model_len == 64
    assert engine.facts.default_algorithm == "confidence_threshold"
    assert engine.prepare([1]).params == {"block_length": 4}
    assert engine.prepare([1]).max_tokens == 63
    assert engine.stats().pages_total == 8
    engine.close()


def test_parameters_of_the_default_algorithm_reach_its_requests(tiny_checkpoint: Path) -> None:
    config = EngineConfig(
        max_model_len=64,
        algorithm="llada_schedule",
        algorithm_params={"steps": 4.0, "cfg_scale": 1, "block_length": 2},
    )
    engine = Engine(load(tiny_checkpoint, config))
    sampling = SamplingParams(max_tokens=8, ignore_eos=True)
    assert engine.prepare([1], sampling).params == {"steps": 4, "cfg_scale": 1.0, "block_length": 2}
    other = engine.prepare([1], sampling, DiffusionParams(algorithm="entropy_threshold"))
    assert other.params == {}
    (end,) = [event for _, event in engine.generate([1], sampling=sampling) if event.kind == "finished"]
    assert end.forward_passes == 4
    engine.close()


@pytest.mark.parametrize(
    ("params", "field", "says"),
    [
        ({"steps": 4}, "algorithm_params.steps", "confidence_threshold, block_length, max_steps_per_block, remasking"),
        ({"entropy_threshold": 1}, "algorithm_params.entropy_threshold", "(it has confidence_threshold,"),
        ({"confidence_threshold": 1.5}, "algorithm_params.confidence_threshold", "a number in [0, 1], got 1.5"),
        ({"threshold": -1}, "algorithm_params.threshold", "a number in [0, 1], got -1"),
        ({"block_length": 2.5}, "algorithm_params.block_length", "an integer in [1, 1000000], got 2.5"),
        ({"remasking": "best"}, "algorithm_params.remasking", "one of low_confidence, random, got 'best'"),
        ({"remasking": True}, "algorithm_params.remasking", "one of low_confidence, random, got true"),
        (
            {"threshold": 0.5, "confidence_threshold": 0.5},
            "algorithm_params.confidence_threshold",
            "confidence_threshold twice",
        ),
    ],
)
def test_a_wrong_parameter_of_the_default_algorithm_is_named_before_weights_are_read(
    tiny_checkpoint: Path, params: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        find(tiny_checkpoint, EngineConfig(algorithm_params=params))
    assert caught.value.field == field
    assert str(caught.value).startswith(field + ": ")
    assert says in str(caught.value)
    assert "diffusion" not in str(caught.value)


@pytest.mark.parametrize("name", ["block_length", "cache", "remasking"])
def test_a_default_of_full_attention_is_refused_for_a_block_causal_model(name: str) -> None:
    checkpoint = Path(__file__).parents[1] / "golden" / "checkpoints" / "llada2-tiny"
    config = EngineConfig(algorithm="near_max", algorithm_params={name: "dual"})
    with pytest.raises(InvalidRequestError, match="near_max has it for models with full attention only") as caught:
        find(checkpoint, config)
    assert caught.value.field == f"algorithm_params.{name}"


def test_two_options_for_the_block_length_are_refused(tiny_checkpoint: Path) -> None:
    config = EngineConfig(block_length=4, algorithm_params={"block_length": 4})
    with pytest.raises(InvalidRequestError) as caught:
        find(tiny_checkpoint, config)
    assert caught.value.field == "algorithm_params.block_length"


def test_algorithm_parameters_are_copied() -> None:
    given = {"block_length": 4}
    config = EngineConfig(algorithm_params=given)
    given["block_length"] = 5
    assert config.algorithm_params == {"block_length": 4}


def test_the_default_algorithm_must_run_on_the_model(tiny_checkpoint: Path) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        load(tiny_checkpoint, EngineConfig(algorithm="nonesuch"))
    assert caught.value.field == "algorithm"


@pytest.mark.parametrize(
    ("config", "field"),
    [(EngineConfig(max_model_len=1025), "max_model_len"), (EngineConfig(page_size=10**6), "page_size")],
)
def test_options_beyond_the_model_are_named(tiny_checkpoint: Path, config: EngineConfig, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        load(tiny_checkpoint, config)
    assert caught.value.field == field


def test_the_mask_may_be_overridden(tiny_checkpoint: Path) -> None:
    loaded = load(tiny_checkpoint, EngineConfig(mask_token_id=5, max_model_len=8))
    loaded.core.stop()
    assert loaded.facts.mask_token_id == 5
    with pytest.raises(PydllmError):
        load(tiny_checkpoint, EngineConfig(mask_token_id=352))


def test_loading_reports_progress_to_the_end(tiny_checkpoint: Path) -> None:
    reports: list[tuple[int, int]] = []
    loaded = load(tiny_checkpoint, progress=lambda done, total: reports.append((done, total)))
    loaded.core.stop()
    assert reports[-1][0] == reports[-1][1] > 0


@pytest.mark.parametrize("model", [7, b"bytes", "/nonexistent/model", ""])
def test_a_model_that_is_none_is_one_line(model: Any) -> None:
    with pytest.raises((CheckpointError, InvalidRequestError)) as caught:
        load(model)
    assert "\n" not in str(caught.value)


def test_no_model_is_the_demo_model() -> None:
    loaded = load(None, EngineConfig(max_running_requests=1))
    loaded.core.stop()
    assert loaded.checkpoint.name == "demo"


def test_the_embedded_models_have_names() -> None:
    for name, architecture in (("demo", "LLaDAModelLM"), ("demo-block", "SDARForCausalLM")):
        loaded = load(name, EngineConfig(max_running_requests=1))
        loaded.core.stop()
        assert (loaded.checkpoint.name, loaded.checkpoint.architecture) == (name, architecture)


def test_a_directory_comes_before_an_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load("demo")


def test_an_embedded_model_has_no_revisions() -> None:
    with pytest.raises(CheckpointError, match="revision: only a Hub id has revisions, demo-block is embedded"):
        load("demo-block", revision="main")


def test_the_pages_hold_the_whole_blocks_of_a_full_context() -> None:
    """A context of 100 tokens ends within a block of 16, which is denoised whole."""
    options: dict[str, Any] = {"max_model_len": 100, "page_size": 8}
    with pytest.raises(InvalidRequestError, match="expected at least one full context of 112 tokens, got 104"):
        load("demo-block", EngineConfig(kv_cache_tokens=104, **options))
    sampling = SamplingParams(max_tokens=97, ignore_eos=True)
    with LLM("demo-block", kv_cache_tokens=112, **options) as llm:
        [output] = llm.generate([[5, 6, 7]], sampling=sampling)
    assert len(output.token_ids) == 97


def test_a_checkpoint_with_control_tokens_edits_by_them(tmp_path: Path) -> None:
    with_tokens = Path(__file__).parents[1] / "golden" / "checkpoints" / "llada2-tiny"
    sampling = SamplingParams(max_tokens=40, ignore_eos=True, temperature=0)
    with LLM(with_tokens, debug_checks=True) as llm:
        assert llm.algorithms[0] == "levenshtein"
        [output] = llm.generate([[5, 6, 7]], sampling=sampling)
        assert len(output.token_ids) == 40
        assert not {335, 339, 340} & set(output.token_ids)  # mask, DELETE, SPLIT
    without = Path(shutil.copytree(with_tokens, tmp_path / "without"))
    config = json.loads((without / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in ("delete_token_id", "split_token_id")}
    (without / "config.json").write_text(json.dumps(config))
    with LLM(without) as llm:
        assert llm.algorithms[0] == "low_confidence"
        assert "levenshtein" not in llm.algorithms
        with pytest.raises(UnsupportedError, match="levenshtein"):
            llm.generate([[5, 6, 7]], sampling=sampling, diffusion=DiffusionParams(algorithm="levenshtein"))
