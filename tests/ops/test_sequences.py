"""K/V pages and attention over them, on every device of this build, against softmax in float64."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from on_device import OnDevice, as_type, assert_near, normal

from pydllm import _core

ops = _core.ops


@dataclass(frozen=True)
class Length:
    """One sequence: its last keys but `after` are those of the queries."""

    queries: int
    keys: int
    block: int = 0
    after: int = 0
    origin: int = 0

    @property
    def position(self) -> int:
        return self.keys - self.after - self.queries

    def sees(self) -> torch.Tensor:
        """[queries, keys]."""
        if self.block == 0:
            return torch.ones(self.queries, self.keys, dtype=torch.bool)

        def block_of(positions: torch.Tensor) -> torch.Tensor:
            return torch.div(positions - self.origin, self.block, rounding_mode="floor").clamp(min=-1)

        queries = block_of(self.position + torch.arange(self.queries))
        return block_of(torch.arange(self.keys))[None, :] <= queries[:, None]


FULL = [Length(1, 1), Length(32, 64), Length(33, 65, after=7), Length(5, 200)]
BLOCKS = [
    Length(32, 96, block=32),
    Length(20, 70, block=4, after=6),
    Length(64, 64, block=16),
    Length(30, 45, 8, 0, 19),
]


class Batch:
    """Queries and pages of a ragged batch; rows of pages that hold no token are NaN."""

    def __init__(
        self,
        device: OnDevice,
        lengths: list[Length],
        dtype: str,
        *,
        heads: int,
        kv_heads: int,
        dim: int,
        page: int = 16,
    ) -> None:
        self.device, self.lengths, self.heads, self.kv_heads, self.dim = device, lengths, heads, kv_heads, dim
        needed = [-(-length.keys // page) for length in lengths]
        shuffled = torch.randperm(sum(needed) + 2, generator=torch.Generator().manual_seed(1)).tolist()
        tables = [[shuffled.pop() for _ in range(count)] for count in needed]
        rows = sum(length.queries for length in lengths)
        self.q = as_type(normal(rows, heads * dim + 3), dtype).float()
        self.kv = [normal(length.keys, 2 * kv_heads * dim, seed=9 + i) for i, length in enumerate(lengths)]
        shape = (sum(needed) + 2, kv_heads, page, dim)
        nothing = as_type(torch.full(shape, torch.nan), dtype)
        self.keys, self.values = device.put(nothing), device.put(nothing)
        slots = [
            torch.tensor([table[p // page] * page + p % page for p in range(length.keys)])
            for table, length in zip(tables, lengths, strict=True)
        ]
        ops.store_kv(
            device.work,
            device.put(torch.cat(self.kv)),
            0,
            kv_heads * dim,
            device.put(torch.cat(slots)),
            self.keys,
            self.values,
        )
        self.kv = [as_type(kv, dtype).double() for kv in self.kv]
        begins = [sum(length.queries for length in lengths[:i]) for i in range(len(lengths))]
        self.sequences = [
            ops.Sequence(
                query_begin=begin,
                query_length=length.queries,
                kv_length=length.keys,
                pages=table,
                query_position=length.position,
                block_length=length.block,
                block_origin=length.origin,
            )
            for begin, length, table in zip(begins, lengths, tables, strict=True)
        ]
        self.begins = begins

    def attended(self) -> torch.Tensor:
        out = self.device.empty(self.q.shape[0], self.heads * self.dim)
        ops.attention(
            self.device.work,
            self.device.put(self.q),
            2,
            self.heads,
            self.keys,
            self.values,
            self.sequences,
            self.dim**-0.5,
            out,
        )
        return self.device.get(out)

    def expected(self) -> torch.Tensor:
        out = []
        for begin, length, kv in zip(self.begins, self.lengths, self.kv, strict=True):
            q = self.q[begin : begin + length.queries, 2:-1].double().view(length.queries, self.heads, self.dim)
            keys, values = (part.view(length.keys, self.kv_heads, self.dim) for part in kv.chunk(2, dim=1))
            group = self.heads // self.kv_heads
            keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
            scores = torch.einsum("qhd,khd->hqk", q, keys) * self.dim**-0.5
            weights = scores.masked_fill(~length.sees(), -torch.inf).softmax(-1)
            out.append(torch.einsum("hqk,khd->qhd", weights, values).reshape(length.queries, -1))
        return torch.cat(out)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 3e-6), ("bfloat16", 6e-3)])
@pytest.mark.parametrize("lengths", [FULL, BLOCKS], ids=["full", "block-causal"])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(4, 4, 32), (6, 2, 64), (7, 1, 128)])
def test_attention_over_shuffled_pages(
    device: OnDevice, dtype: str, bound: float, lengths: list[Length], heads: int, kv_heads: int, dim: int
) -> None:
    batch = Batch(device, lengths, dtype, heads=heads, kv_heads=kv_heads, dim=dim)
    assert_near(batch.attended(), batch.expected(), absolute=bound)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sequence_attends_the_same_alone_and_in_a_batch(device: OnDevice, dtype: str) -> None:
    together = Batch(device, [*FULL, *BLOCKS], dtype, heads=4, kv_heads=2, dim=32)
    alone = Batch(device, [FULL[0]], dtype, heads=4, kv_heads=2, dim=32)
    attended = together.attended()
    for index, length in enumerate(together.lengths):
        begin = together.begins[index]
        rows = slice(begin, begin + length.queries)
        alone.q, alone.keys, alone.values = together.q[rows], together.keys, together.values
        sequence = together.sequences[index]
        alone.sequences = [sequence.at(0)]
        assert torch.equal(alone.attended(), attended[rows])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_store_kv_rounds_to_the_pages_type_and_touches_nothing_else(device: OnDevice, dtype: str) -> None:
    kv = normal(3, 5 + 2 * 2 * 8)
    pages = as_type(normal(4, 2, 4, 8, seed=1), dtype)
    keys, values = device.put(pages), device.put(pages)
    slots = torch.tensor([9, 0, 15])
    ops.store_kv(device.work, device.put(kv), 5, 5 + 16, device.put(slots), keys, values)
    for column, stored in ((5, keys), (21, values)):
        expected = pages.clone()
        for row, slot in enumerate(slots.tolist()):
            expected[slot // 4, :, slot % 4] = as_type(kv[row, column : column + 16].view(2, 8), dtype)
        assert torch.equal(device.get(stored), expected)
