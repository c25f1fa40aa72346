"""What is read from and done to rows of logits, on every device of this build, against formulas in float64. Which token
a draw chooses is compared with the CPU's op, whose draws tests/core holds to their formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from on_device import OnDevice, assert_near, normal

from pydllm import _core

ops = _core.ops
SIZES = [1, 2, 33, 1023, 1024, 4096, 4097, 9001]
BANNED = -math.inf


def stats_of(device: OnDevice, logits: torch.Tensor, sampling: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    wishes = [ops.RowSampling(**wish) for wish in sampling or [{}] * logits.shape[0]]
    return ops.row_stats(device.work, device.put(logits), wishes, **more)


def assert_probability(actual: float, expected: float) -> None:
    assert abs(actual - expected) <= 1e-6 * expected + 1e-37


@pytest.mark.parametrize("vocab", SIZES)
@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])
def test_row_stats_are_those_of_a_softmax_in_float64(device: OnDevice, vocab: int, scale: float) -> None:
    logits = normal(2, vocab, seed=vocab, scale=scale)
    for row, stats in zip(logits.double(), stats_of(device, logits), strict=True):
        order = row.sort(descending=True, stable=True).indices.tolist()
        probability = row.softmax(-1)
        assert stats.finite
        assert [stats.token, stats.top1, stats.text] == [order[0]] * 3
        assert stats.top2 == (order[1] if vocab > 1 else -1)
        assert_probability(stats.confidence, probability[order[0]].item())
        assert_probability(stats.top1_probability, probability[order[0]].item())
        assert_probability(stats.top2_probability, probability[order[1]].item() if vocab > 1 else 0.0)
        total = row.logsumexp(-1).item()
        assert abs(stats.log_sum_exp - total) <= 5e-7 * abs(total) + 5e-7
        assert abs(stats.entropy - torch.special.entr(probability).sum().item()) <= 4e-6


def test_ties_go_to_the_lowest_id_and_halves_are_exact(device: OnDevice) -> None:
    logits = torch.full((2, 9000), -1e30)
    logits[0, [17, 5000]] = 1234.5
    logits[1, [8999, 4096, 4095]] = -3.0
    first, second = stats_of(device, logits)
    assert (first.token, first.top2, first.confidence, first.top2_probability) == (17, 5000, 0.5, 0.5)
    assert (second.token, second.top2) == (4095, 4096)


def test_forbidden_ids_and_controls_are_passed_over_but_normalise(device: OnDevice) -> None:
    logits = normal(1, 5000, seed=4, scale=2)
    order = logits[0].sort(descending=True).indices.tolist()
    [stats] = stats_of(device, logits, [{"controls": sorted(order[1:3])}], forbidden=[order[0]])
    probability = logits[0].double().softmax(-1)
    assert (stats.token, stats.top1, stats.top2, stats.text) == (order[1], order[1], order[2], order[3])
    assert_probability(stats.confidence, probability[order[1]].item())
    assert_probability(stats.text_probability, probability[order[3]].item())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_says_so_and_spares_its_neighbours(device: OnDevice, value: float) -> None:
    logits = normal(3, 5000)
    logits[1, 4096] = value
    assert [stats.finite for stats in stats_of(device, logits)] == [True, False, True]


WISHES: list[dict[str, Any]] = [
    {"temperature": 1.0},
    {"temperature": 0.5, "seed": 2**63 + 5, "step": 3},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 3.0, "top_k": 40},
    {"temperature": 0.3, "top_p": 0.9},
    {"temperature": 5.0, "top_p": 0.99},
    {"temperature": 1.0, "top_p": 0.01},
    {"temperature": 2.0, "min_p": 0.05},
    {"temperature": 2.0, "top_p": 0.7, "top_k": 30},
    {"temperature": 2.0, "top_p": 0.9, "top_k": 1_000_000, "min_p": 0.1},
    {"top_p": 0.8, "top_k": 7, "min_p": 0.5},
]


def wishes() -> list[dict[str, Any]]:
    return [{"seed": 5 + i, "position": 40 + i, **wish, "filtered": True} for i, wish in enumerate(WISHES)]


def kept(row: torch.Tensor, wish: dict[str, Any]) -> torch.Tensor:
    """The distribution that is drawn from: temperature, top-k, top-p, min-p, renormalised."""
    scaled = row.double() / (wish.get("temperature") or 1.0)
    top_k = wish.get("top_k") or row.numel()
    values = scaled.masked_fill(scaled < scaled.topk(min(top_k, row.numel())).values[-1], -torch.inf)
    order = values.sort(descending=True, stable=True).indices
    sorted_weights = values[order].softmax(-1)
    beyond = sorted_weights.cumsum(-1) - sorted_weights > wish.get("top_p", 1.0)
    values[order[beyond]] = -torch.inf
    if wish.get("temperature") and wish.get("min_p"):
        values = values.masked_fill(scaled < scaled.max() + math.log(wish["min_p"]), -torch.inf)
    return values.softmax(-1)


@pytest.mark.parametrize("vocab", [7, 255, 257, 4100])
def test_filters_keep_what_their_formula_keeps_and_draw_the_token_of_the_cpu(
    device: OnDevice, cpu: OnDevice, vocab: int
) -> None:
    logits = normal(len(WISHES), vocab, seed=vocab, scale=3)
    everywhere = zip(stats_of(device, logits, wishes()), stats_of(cpu, logits, wishes()), strict=True)
    for row, wish, (stats, expected) in zip(logits, wishes(), everywhere, strict=True):
        distribution = kept(row, wish)
        best = distribution.topk(2).values.tolist()
        assert stats.token == expected.token
        assert distribution[stats.token] > 0
        assert abs(stats.filtered.confidence - distribution[stats.token].item()) <= 1e-6
        assert abs(stats.filtered.margin - (best[0] - best[1])) <= 1e-6
        assert abs(stats.filtered.entropy - torch.special.entr(distribution).sum().item()) <= 4e-6
        assert_probability(stats.confidence, row.double().softmax(-1)[stats.token].item())


def test_a_draw_depends_on_seed_step_and_position_alone(device: OnDevice) -> None:
    logits = normal(1, 3000, scale=0.1)
    wish = {"temperature": 1.0, "seed": 7, "step": 1, "position": 9}
    [alone] = stats_of(device, logits, [wish])
    among = stats_of(device, torch.cat([normal(4, 3000, seed=8), logits]), [*wishes()[:4], wish])
    assert among[4].token == alone.token
    others = [{**wish, "seed": 8}, {**wish, "step": 2}, {**wish, "position": 10}]
    assert alone.token not in [stats_of(device, logits, [other])[0].token for other in others]


def edited(row: torch.Tensor, edits: list[tuple[int, float, float]]) -> torch.Tensor:
    out = row.double()
    for token, factor, bias in edits:
        x = out[token] / factor if out[token] > 0 else out[token] * factor
        out[token] = torch.finfo(torch.float32).min if bias == BANNED else x + bias
    return out.float()


def test_edits_are_rounded_once_and_bans_cannot_be_chosen(device: OnDevice) -> None:
    logits = normal(3, 300, scale=3)
    best = int(logits[1].argmax())
    edits = [[(0, 1.5, -0.25), (7, 0.7, 0.0), (299, 1.0, 3.5)], [(best, 1.0, BANNED)], []]
    inside = device.put(logits)
    wishes = [ops.RowSampling(edits=edits_of_row) for edits_of_row in edits]
    ops.edit_logits(device.work, inside, wishes)
    expected = torch.stack([edited(row, list(own)) for row, own in zip(logits, edits, strict=True)])
    assert torch.equal(device.get(inside), expected)
    stats = ops.row_stats(device.work, inside, wishes)
    assert stats[1].token not in (best, -1)


@pytest.mark.parametrize("vocab", [1, 255, 257])
def test_guidance(device: OnDevice, vocab: int) -> None:
    conditional, unconditional = normal(3, vocab), normal(3, vocab, seed=1)
    inside = device.put(conditional)
    ops.guide(device.work, inside, device.put(unconditional), 1.5)
    expected = unconditional.double() + 2.5 * (conditional.double() - unconditional.double())
    assert_near(device.get(inside), expected, absolute=2e-6)
