"""Matrix products, routers and experts, on every device of this build, against their formulas in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from on_device import OnDevice, as_type, assert_near, normal

from pydllm import _core

ops = _core.ops
DTYPES = ("float32", "bfloat16", "float16")
INPUT = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float32"}
"""What `linear` reads beside a weight of this type."""
SIZES = [(1, 7, 3), (33, 64, 64), (65, 130, 65), (31, 96, 129)]
"""Rows, inputs, outputs: below, at, above and not a multiple of the kernels' tiles."""


def product(
    device: OnDevice,
    x: torch.Tensor,
    parts: list[torch.Tensor],
    dtype: str,
    start: torch.Tensor | None = None,
    **more: Any,
) -> torch.Tensor:
    """y = x W^T + bias on the device, added to `start` where there is one."""
    weight = ops.PackedWeight(device.work, [_core.Tensor.from_dlpack(part) for part in parts], dtype, **more)
    outputs = sum(part.shape[0] for part in parts)
    y = device.empty(x.shape[0], outputs) if start is None else device.put(start)
    ops.linear(device.work, device.put(as_type(x, INPUT[dtype])), weight, y, accumulate=start is not None)
    return device.get(y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SIZES)
def test_linear_is_within_the_bound_of_its_sums(
    device: OnDevice, dtype: str, rows: int, inputs: int, outputs: int
) -> None:
    x, weight = as_type(normal(rows, inputs), INPUT[dtype]), as_type(normal(outputs, inputs, seed=1), dtype)
    bias, start = normal(outputs, seed=2), normal(rows, outputs, seed=3)
    parts = [weight[: outputs // 2], weight[outputs // 2 :]]
    plain = product(device, x, parts, dtype, bias=device.put(bias))
    added = product(device, x, parts, dtype, start=start, bias=device.put(bias))
    expected = x.double() @ weight.double().T + bias.double()
    magnitude = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    bound = (inputs + 4) * 2.0**-24
    assert_near(plain, expected, absolute=bound * magnitude)
    assert_near(added, expected + start.double(), absolute=bound * (magnitude + start.double().abs()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_integers_are_exact(device: OnDevice, dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randint(-8, 9, shape, generator=generator).float() for shape in ((34, 72), (66, 72)))
    assert torch.equal(product(device, x, [as_type(weight, dtype)], dtype), x @ weight.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_linear_is_the_same_alone_and_among_others(device: OnDevice, dtype: str) -> None:
    x, weight = normal(70, 100), as_type(normal(65, 100, seed=1), dtype)
    together = product(device, x, [weight], dtype)
    for row in (0, 33, 69):
        assert torch.equal(product(device, x[row : row + 1], [weight], dtype)[0], together[row])


@pytest.mark.parametrize("count", [1, 2])
def test_parts_that_are_on_the_device_give_the_same_weight(device: OnDevice, count: int) -> None:
    x, weight = as_type(normal(9, 40), "bfloat16"), as_type(normal(24, 40, seed=1), "bfloat16")
    parts = list(weight.chunk(count))
    there = ops.PackedWeight(device.work, [device.put(part) for part in parts], "bfloat16")
    y = device.empty(9, 24)
    ops.linear(device.work, device.put(x), there, y)
    assert torch.equal(device.get(y), product(device, x, parts, "bfloat16"))


RULES: dict[str, dict[str, Any]] = {
    "softmax": {"experts_per_token": 2},
    "softmax, normalised": {"experts_per_token": 8, "normalize": True},
    "sigmoid, groups": {
        "score": "sigmoid",
        "experts_per_token": 4,
        "normalize": True,
        "scale": 2.5,
        "groups": 8,
        "groups_kept": 3,
    },
    "sigmoid, blocks": {"score": "sigmoid", "experts_per_token": 2, "block_capacity": 5, "block_length": 4},
}


def scores(logits: torch.Tensor, rule: dict[str, Any]) -> torch.Tensor:
    wide = logits.double()
    return (wide.sigmoid() if rule.get("score") == "sigmoid" else wide.softmax(-1)).float()


def best(values: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the largest, the lowest of equals first."""
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def eligible(choice: torch.Tensor, rule: dict[str, Any]) -> torch.Tensor:
    """Choice scores, minus infinity where the groups or the block leave an expert out."""
    tokens = choice.shape[0]
    out = torch.full_like(choice, -torch.inf)
    if rule.get("block_capacity"):
        for begin in range(0, tokens, rule["block_length"]):
            rows = slice(begin, begin + rule["block_length"])
            kept = best(choice[rows].max(dim=0).values, rule["block_capacity"])
            out[rows, kept] = choice[rows][:, kept]
        return out
    groups = choice.view(tokens, rule.get("groups", 1), -1)
    if groups.shape[1] == 1:
        return choice
    kept = best(groups.topk(2, dim=-1).values.sum(-1), rule["groups_kept"])
    for token in range(tokens):
        out.view_as(groups)[token, kept[token]] = groups[token, kept[token]]
    return out


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("experts", [64, 72])
def test_routers_choose_as_their_formula(device: OnDevice, name: str, experts: int) -> None:
    rule, tokens = RULES[name], 12
    logits, bias = normal(tokens, experts), normal(experts, seed=1, scale=0.1)
    kept = rule["experts_per_token"]
    choice, weights = device.empty(tokens, kept, dtype="int32"), device.empty(tokens, kept)
    sequences = [ops.Sequence(query_begin=begin, query_length=n, kv_length=n) for begin, n in ((0, 8), (8, 4))]
    ops.route(
        device.work,
        device.put(logits),
        ops.RouterRule(**rule),
        choice,
        weights,
        bias=device.put(bias),
        sequences=sequences,
    )
    own = scores(logits, rule)
    expected = best(eligible(own + bias, rule), kept)
    assert torch.equal(device.get(choice).long(), expected)
    picked = own.double().gather(1, expected)
    if rule.get("normalize"):
        picked = picked / (picked.sum(-1, keepdim=True) + 1e-20)
    assert_near(device.get(weights), picked * rule.get("scale", 1.0), relative=5e-7)


def test_equal_logits_go_to_the_lower_expert(device: OnDevice) -> None:
    choice, weights = device.empty(3, 4, dtype="int32"), device.empty(3, 4)
    ops.route(device.work, device.put(torch.zeros(3, 40)), ops.RouterRule(experts_per_token=4), choice, weights)
    assert device.get(choice).tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-6), ("bfloat16", 0.02), ("float16", 2e-6)])
@pytest.mark.parametrize(("tokens", "hidden", "width"), [(1, 32, 16), (70, 96, 40)])
def test_experts_add_what_their_tokens_chose(
    device: OnDevice, dtype: str, bound: float, tokens: int, hidden: int, width: int
) -> None:
    count, kept = 6, 2
    gate_up = [as_type(normal(2 * width, hidden, seed=e, scale=hidden**-0.5), dtype) for e in range(count)]
    down = [as_type(normal(hidden, width, seed=50 + e, scale=width**-0.5), dtype) for e in range(count)]
    x, y = as_type(normal(tokens, hidden, seed=99), INPUT[dtype]), normal(tokens, hidden, seed=98)
    choice = torch.stack([torch.arange(tokens) % count, (torch.arange(tokens) * 3 + 1) % count], dim=1)
    choice[:, 1] += choice[:, 1] == choice[:, 0]
    choice %= count
    weights = normal(tokens, kept, seed=97).abs()

    def packed(matrix: torch.Tensor) -> Any:
        return ops.PackedWeight(device.work, [_core.Tensor.from_dlpack(matrix)], dtype)

    experts = ops.Experts(device.work, [(packed(a), packed(b)) for a, b in zip(gate_up, down, strict=True)])
    out = device.put(y)
    ops.expert_ffn(device.work, device.put(x), device.put(choice.int()), device.put(weights), experts, out)
    expected = y.double()
    for token in range(tokens):
        for place in range(kept):
            e = int(choice[token, place])
            gate, up = (gate_up[e].double() @ x[token].double()).chunk(2)
            expected[token] += weights[token, place].double() * (down[e].double() @ (gate * gate.sigmoid() * up))
    assert_near(device.get(out), expected, relative=bound, absolute=bound)
