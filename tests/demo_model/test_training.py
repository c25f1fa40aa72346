"""A few steps of training: the loss falls, a continued run is the uninterrupted one, and the engine computes what the
trained network computed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from export import export
from network import Network, Shape
from tasks import LESSONS
from train import Stage, Trainer

from pydllm import LLM, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STEPS = 40


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Before `trained`, too: with two threads sums are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(out: Path, parent: Path | None = None) -> Trainer:
    """A short lesson; with a parent, its block-causal sibling."""
    lesson = replace(LESSONS[0], steps=STEPS, horizon=100)
    stage = Stage(out=out, lesson=lesson, parent=parent, block_causal=parent is not None)
    return Trainer(stage, argparse.Namespace(seed=1, device="cpu", processes=1, tokens=600), rank=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    out = tmp_path_factory.mktemp("trained")
    run = trainer(out)
    losses = [run.one_step() for _ in range(STEPS)]
    run.save()
    return out, losses


def test_the_loss_falls(trained: tuple[Path, list[float]]) -> None:
    _, losses = trained
    assert losses[0] > 6.2  # about ln of the vocabulary
    assert sum(losses[-5:]) / 5 < losses[0] - 1


def test_a_continued_run_is_the_uninterrupted_one(trained: tuple[Path, list[float]], tmp_path: Path) -> None:
    _, losses = trained
    first = trainer(tmp_path)
    assert [first.one_step() for _ in range(15)] == losses[:15]
    first.save()
    second = trainer(tmp_path)
    second.restore()
    assert [second.one_step() for _ in range(STEPS - 15)] == losses[15:]


def test_the_engine_computes_what_was_trained(trained: tuple[Path, list[float]], tmp_path: Path) -> None:
    out, _ = trained
    export(out, tmp_path)
    saved = torch.load(out / "average.pt", weights_only=True)
    network = Network(Shape(**saved["shape"]))
    rounded = {name: weight.bfloat16().float() for name, weight in saved["weights"].items()}
    network.load_state_dict(rounded, strict=False)
    prompt, canvas = [2, 3, 300, 301, 4], 11
    with LLM(tmp_path, dtype="float32") as llm:
        trace = llm.trace(prompt, sampling=SamplingParams(max_tokens=canvas))
        logits = torch.from_dlpack(trace.first_logits)
    assert trace.canvases[0][: len(prompt)] == prompt
    with torch.inference_mode():
        wanted = network(torch.tensor([trace.canvases[0]]))[0]
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


def test_the_sibling_starts_where_its_parent_stands_and_learns(
    trained: tuple[Path, list[float]], tmp_path: Path
) -> None:
    parent, _ = trained
    run = trainer(tmp_path, parent)
    beginning = dict(run.network.named_parameters())
    saved = torch.load(parent / "average.pt", weights_only=True)["weights"]
    assert set(saved) == {name for name in beginning if not name.endswith(("q_norm.weight", "k_norm.weight"))}
    for name, weight in saved.items():
        torch.testing.assert_close(beginning[name].float(), weight.bfloat16().float(), rtol=0, atol=0)
    before = {name: weight.clone() for name, weight in run.optimizer.masters.items()}
    assert run.one_step() < 5  # an untrained network: more than 6.2
    assert all(not torch.equal(run.optimizer.masters[name], weight) for name, weight in before.items())
