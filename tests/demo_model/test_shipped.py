"""The models that ship: small and complete, described by their cards, right on a sample of held-out problems."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from card import card
from tasks import CHOSEN, COMPUTED
from vocabulary import build

from pydllm.embedded import embedded_directory
from pydllm.evaluate.backends import Local
from pydllm.evaluate.grid import parse
from pydllm.evaluate.run import run
from pydllm.evaluate.suite import demo_suite, first_of_each
from pydllm.llm import AsyncLLM
from pydllm.params import SamplingParams

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"
MOST_BYTES = 10_000_000
FILES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
SAMPLE = 30
LEAST = 0.75
"""Of each family; 30 problems of a family that gets 90 % right fall below it once in 100 samples."""
LEAST_MEAN = 0.92
SETTINGS = {
    "demo": "confidence_threshold confidence_threshold=0.9 block_length=32",
    "demo-block": "low_confidence confidence_threshold=0.9",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_a_small_hugging_face_directory(name: str) -> None:
    files = {path.name: path.stat().st_size for path in embedded_directory(name).iterdir()}
    assert set(files) == FILES
    assert sum(files.values()) <= MOST_BYTES


@pytest.mark.parametrize("name", SETTINGS)
def test_its_tokenizer_is_what_the_script_builds(name: str) -> None:
    text = (embedded_directory(name) / "tokenizer.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(build().to_str())


@pytest.mark.parametrize("name", SETTINGS)
def test_its_card_shows_what_was_measured(name: str) -> None:
    folder = embedded_directory(name)
    report = json.loads((RESULTS / f"{folder.name.replace('_', '-')}.json").read_text(encoding="utf-8"))
    assert (folder / "README.md").read_text(encoding="utf-8") == card(folder, report)


@pytest.mark.parametrize("name", SETTINGS)
def test_it_answers_a_fixed_sample(name: str) -> None:
    items = first_of_each(demo_suite(), SAMPLE, set(COMPUTED) - set(CHOSEN))

    async def measured() -> dict[str, float]:
        async with AsyncLLM(name) as llm:
            sampling = SamplingParams(temperature=0.0, max_tokens=96)
            row = await run(Local(llm), items, parse(SETTINGS[name]), sampling, batch=64)
        return {family: score.accuracy for family, score in row.families.items()}

    accuracy = asyncio.run(measured())
    assert len(accuracy) >= 6
    assert min(accuracy.values()) >= LEAST, accuracy
    assert sum(accuracy.values()) / len(accuracy) >= LEAST_MEAN, accuracy
