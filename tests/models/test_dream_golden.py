"""The first logits of the Dream runs, recorded from the original implementation in float32, before its shift."""

import json

import numpy as np
import pytest
from first_logits import GOLDEN, FirstLogits, relative_error

CHECKPOINT = GOLDEN / "checkpoints" / "dream-tiny"
FOLDER = GOLDEN / "runs" / "dream_generate"
TOLERANCE = 2e-3


def recorded() -> list[tuple[str, list[int], int, np.ndarray]]:
    """(case id, prompt, max_new_tokens, logits) of every row of every run; left padding is dropped."""
    data = np.load(FOLDER / "data.npz")
    out = []
    for run in json.loads((FOLDER / "case.json").read_text())["runs"]:
        ids = run["prompt_ids"]
        prompts = ids if isinstance(ids[0], list) else [ids]
        count = run["params"]["max_new_tokens"]
        for row, prompt in enumerate(prompts):
            logits = data[f"r{run['id']}_first_logits"][row][-len(prompt) - count :]
            out.append((f"{run['id']}.{row}", prompt, count, logits))
    return out


RUNS = recorded()


@pytest.fixture(scope="module")
def float32() -> FirstLogits:
    return FirstLogits(CHECKPOINT, dtype="float32")


def test_the_recordings_are_complete() -> None:
    assert len({label.partition(".")[0] for label, _, _, _ in RUNS}) == 14


@pytest.mark.parametrize(("label", "prompt", "count", "expected"), RUNS, ids=[run[0] for run in RUNS])
def test_first_logits_match_the_original(
    float32: FirstLogits, label: str, prompt: list[int], count: int, expected: np.ndarray
) -> None:
    (logits,) = float32.of([prompt], count)
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() < TOLERANCE


def test_bfloat16_stays_near_the_original() -> None:
    reader = FirstLogits(CHECKPOINT, dtype="bfloat16")
    for _, prompt, count, expected in RUNS[:6]:
        (logits,) = reader.of([prompt], count)
        assert 0 < relative_error(logits, expected) < 0.035


def test_logits_are_bit_identical_alone_and_in_a_batch(float32: FirstLogits) -> None:
    prompts = [prompt for _, prompt, _, _ in RUNS]
    together = float32.of(prompts, 24)
    for prompt, batched in zip(prompts, together, strict=True):
        assert np.array_equal(float32.of([prompt], 24)[0], batched)
