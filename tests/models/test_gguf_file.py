"""What the benchmarks tell llama.cpp about a checkpoint, without llama.cpp: the order of rotated rows, stacked experts,
names. And how the benchmarks make ratios of turns."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.numpy import save_file

BENCH = Path(__file__).resolve().parents[2] / "bench"


def load(path: Path) -> ModuleType:
    """A program of the benchmarks as a module."""
    spec = importlib.util.spec_from_file_location(f"bench_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


gguf_file = load(BENCH / "peers" / "gguf_file.py")
peers = load(BENCH / "peers.py")


def rotated(x: np.ndarray, position: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One head's vector with elements first[i] and second[i] turned by position * 100^(-i / pairs)."""
    angles = position * 100.0 ** -(np.arange(len(first)) / len(first))
    out = x.copy()
    out[first] = x[first] * np.cos(angles) - x[second] * np.sin(angles)
    out[second] = x[second] * np.cos(angles) + x[first] * np.sin(angles)
    return out


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (3, 1)])
def test_rotating_neighbours_of_reordered_rows_gives_the_scores_of_rotating_halves(heads: int, kv_heads: int) -> None:
    pairs, hidden = 5, 7
    random = np.random.default_rng(0)
    q = random.normal(size=(heads * 2 * pairs, hidden))
    k = random.normal(size=(kv_heads * 2 * pairs, hidden))
    x, y = random.normal(size=(2, hidden))
    halves = np.arange(pairs), np.arange(pairs) + pairs
    neighbours = 2 * np.arange(pairs), 2 * np.arange(pairs) + 1

    def scores(q: np.ndarray, k: np.ndarray, first: np.ndarray, second: np.ndarray) -> list[float]:
        queries, keys = (q @ x).reshape(heads, -1), (k @ y).reshape(kv_heads, -1)
        turned = [rotated(query, 11, first, second) for query in queries]
        return [float(query @ rotated(keys[h * kv_heads // heads], 4, first, second)) for h, query in enumerate(turned)]

    ours = scores(gguf_file.pairs_interleaved(q, heads), gguf_file.pairs_interleaved(k, kv_heads), *neighbours)
    np.testing.assert_allclose(ours, scores(q, k, *halves), rtol=1e-12)


def test_keys_are_reordered_by_their_own_number_of_heads(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = {"q_proj": 8, "k_proj": 4, "v_proj": 4}
    at = "model.transformer.blocks.0.{}.weight"
    stored = {at.format(n): random.normal(size=(rows, 12)).astype(np.float32) for n, rows in names.items()}
    save_file(stored, tmp_path / "model.safetensors")
    facts = gguf_file.Facts(
        "llada", 1, 12, 8, heads=2, kv_heads=1, context=8, vocabulary=8, epsilon=1e-5, rope_theta=1e4
    )
    found = dict(gguf_file.llama_tensors(tmp_path, facts))
    order = [0, 2, 1, 3]  # of a head of four rows
    queries = stored[at.format("q_proj")].reshape(2, 4, 12)[:, order].reshape(8, 12)
    np.testing.assert_array_equal(found["blk.0.attn_q.weight"], queries)
    np.testing.assert_array_equal(found["blk.0.attn_k.weight"], stored[at.format("k_proj")][order])
    np.testing.assert_array_equal(found["blk.0.attn_v.weight"], stored[at.format("v_proj")])


def test_experts_are_stacked_by_their_number_in_any_order() -> None:
    values = {e: np.full((2, 3), e, np.float32) for e in (10, 2, 0, 1, 3, 4, 5, 6, 7, 8, 9)}
    named = ((f"model.layers.0.mlp.experts.{e}.up_proj.weight", value) for e, value in values.items())
    [(name, stack)] = gguf_file.stacked_experts(named, 11)
    assert gguf_file.gguf_name(name) == "blk.0.ffn_up_exps.weight"
    assert stack[:, 0, 0].tolist() == list(range(11))


def test_a_missing_expert_is_named() -> None:
    one = iter([("model.layers.0.mlp.experts.1.up_proj.weight", np.zeros((2, 3)))])
    with pytest.raises(ValueError, match=r"experts: expected 2 .*model\.layers\.0\.mlp\.experts\.up_proj\.weight"):
        list(gguf_file.stacked_experts(one, 2))


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary.weight", "blocks.0.q_proj.weight", "lm_head.bias"])
def test_a_tensor_that_llama_cpp_has_no_name_for_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"tensor: expected one of .*, got {name}"):
        gguf_file.gguf_name(name)


def test_an_architecture_that_the_file_cannot_describe_is_refused() -> None:
    with pytest.raises(ValueError, match=r"architectures: expected LLaDAModelLM.*, got SDARForCausalLM"):
        gguf_file.facts_of({"architectures": ["SDARForCausalLM"]})


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    assert gguf_file.as_float32(bytes([0x80, 0x3F, 0x20, 0xC0]), "BF16").tolist() == [1.0, -2.5]
    with pytest.raises(ValueError, match="dtype: expected F32, F16 or BF16, got I8"):
        gguf_file.as_float32(b"\0", "I8")


RESULT = {
    "row": {"model": "llada", "size": "1.0b", "dtype": "bfloat16", "threads": 1},
    "turns": {
        "forward": {
            "pydllm": [{"wall": 2.0}, {"wall": 4.0}, {"wall": 1.0}],
            "torch": [{"wall": 3.0}, {"wall": 8.0}, {"wall": 1.0}],
            "llama": [{"wall": 4.0}, {"wall": 4.0}, {"wall": 3.0}],
        },
        "block": {
            "pydllm": [{"wall": 8.0}, {"wall": 16.0}, {"wall": 16.0}],
            "torch": [{"wall": 8.0}, {"wall": 8.0}, {"wall": 20.0}],
        },
    },
}


def test_a_ratio_is_of_one_round_and_above_1_when_pydllm_is_faster() -> None:
    assert peers.ratios(RESULT, "forward", "torch", "wall") == [1.5, 2.0, 1.0]
    assert peers.ratios(RESULT, "block", "torch", "wall") == [1.0, 0.5, 1.25]


def test_a_block_of_llama_cpp_is_32_of_its_forwards_in_the_same_round() -> None:
    assert peers.ratios(RESULT, "block", "llama", "wall") == [16.0, 8.0, 6.0]


def test_two_threads_are_timed_by_the_wall_whatever_the_clock() -> None:
    turns = {"forward": {"pydllm": [{"wall": 2.0, "cpu": 3.0}], "torch": [{"wall": 4.0, "cpu": 9.0}]}}
    results = [{"row": {"threads": threads}, "turns": turns} for threads in (1, 2)]
    assert [peers.ratios(result, "forward", "torch", "cpu") for result in results] == [[3.0], [2.0]]
    assert peers.processor_share(results[1]) == "pydllm 75%, torch 112%"


def test_a_verdict_is_of_the_median() -> None:
    found = {line: kept for kept, line in peers.verdicts([RESULT], "wall")}
    assert [line.split(": ")[0] for line in found] == ["pass", "pass", "FAIL", "pass"]
    assert list(found.values()) == [True, True, False, True]


def test_peers_that_disagree_are_an_error() -> None:
    row = peers.Row("llada", "tiny", "float32", 1)
    logits = np.random.default_rng(0).normal(size=(9, 50))
    peers.expect_agreement(row, {"torch": peers.agreement(logits, logits * (1 + 1e-6))})
    for wrong in (logits[:, ::-1], logits * 1.001, np.full_like(logits, np.nan)):
        with pytest.raises(RuntimeError, match="llada tiny float32 1: pydllm and torch disagree, nothing is timed"):
            peers.expect_agreement(row, {"torch": peers.agreement(logits, wrong)})
