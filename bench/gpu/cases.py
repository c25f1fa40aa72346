"""What kernels.py times: each kernel's operands, our call and torch's on the same operands, bytes and operations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from pydllm import _core

from .clock import ROTATED_BYTES, torch_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ops = _core.ops
MOST_COPIES = 20


@dataclass
class Pair:
    """One call of ours and one of torch's on the same operands."""

    ours: Callable[[], object]
    theirs: Callable[[], torch.Tensor]
    result: Callable[[], torch.Tensor]
    """What ours wrote, on torch's device."""


@dataclass
class Case:
    kernel: str
    shape: str
    moved: float
    flops: float
    make: Callable[[int], Pair]
    """With a seed: other operands, in other memory."""
    held: float = 0.0
    """Bytes of the operands where a call reads only some."""

    @property
    def copies(self) -> int:
        return min(MOST_COPIES, 1 + math.ceil(ROTATED_BYTES / max(self.moved, self.held)))


class Bench:
    """The device, and operands on it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.where = torch_device(device)
        self.work = ops.Workplace(device=device, threads=0)

    def normal(self, *shape: int, seed: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
        generator = torch.Generator(self.where).manual_seed(seed)
        return (torch.randn(shape, generator=generator, device=self.where) * scale).to(dtype)

    def put(self, tensor: torch.Tensor) -> _core.Tensor:
        return self.work.copy_of(tensor)

    def get(self, tensor: _core.Tensor) -> torch.Tensor:
        return torch.from_dlpack(self.work.host_copy_of(tensor)).to(self.where)

    def weight(self, matrix: torch.Tensor) -> Any:
        """In the layout of the device: pack takes host memory, or the device's own."""
        part = self.put(matrix) if self.work.device != "cpu" else _core.Tensor.from_dlpack(matrix)
        return ops.PackedWeight(self.work, [part], "bfloat16")


def linear(bench: Bench, name: str, rows: int, inputs: int, outputs: int) -> Case:
    def make(seed: int) -> Pair:
        x = bench.normal(rows, inputs, seed=seed, dtype=torch.bfloat16)
        w = bench.normal(outputs, inputs, seed=seed + 1, dtype=torch.bfloat16, scale=inputs**-0.5)
        given, packed, y = bench.put(x), bench.weight(w), bench.work.empty((rows, outputs), "float32")
        return Pair(
            lambda: ops.linear(bench.work, given, packed, y), lambda: functional.linear(x, w), lambda: bench.get(y)
        )

    moved = 2.0 * (rows * inputs + inputs * outputs) + 4.0 * rows * outputs
    return Case("linear", f"{name}: {rows} x {inputs} x {outputs}", moved, 2.0 * rows * inputs * outputs, make)


def attention(bench: Bench, name: str, batch: int, queries: int, keys: int, heads: tuple[int, int], dim: int) -> Case:
    page, (query_heads, kv_heads) = 16, heads
    pages = -(-keys // page)

    def make(seed: int) -> Pair:
        q = bench.normal(batch, queries, query_heads * dim, seed=seed, dtype=torch.bfloat16)
        kv = bench.normal(2, batch, pages, kv_heads, page, dim, seed=seed + 1, dtype=torch.bfloat16)
        given, out = (
            bench.put(q.float().flatten(0, 1)),
            bench.work.empty((batch * queries, query_heads * dim), "bfloat16"),
        )
        k, v = (bench.put(part.flatten(0, 1)) for part in kv)
        sequences = [
            ops.Sequence(
                query_begin=i * queries,
                query_length=queries,
                kv_length=keys,
                pages=list(range(i * pages, (i + 1) * pages)),
            )
            for i in range(batch)
        ]
        apart = q.unflatten(-1, (query_heads, dim)).transpose(1, 2).contiguous()
        near = kv.transpose(3, 4).flatten(2, 3)[:, :, :keys].transpose(2, 3).contiguous()

        def theirs() -> torch.Tensor:
            grouped = query_heads != kv_heads
            attended = functional.scaled_dot_product_attention(apart, near[0], near[1], enable_gqa=grouped)
            return attended.transpose(1, 2).reshape(batch * queries, -1)

        return Pair(
            lambda: ops.attention(bench.work, given, 0, query_heads, k, v, sequences, dim**-0.5, out),
            theirs,
            lambda: bench.get(out),
        )

    moved = (
        2.0 * batch * (2 * keys * kv_heads * dim + queries * query_heads * dim)
        + 4.0 * batch * queries * query_heads * dim
    )
    shape = f"{name}: {batch} x {queries} over {keys}, {query_heads}/{kv_heads} heads of {dim}"
    return Case("attention", shape, moved, 4.0 * batch * queries * keys * query_heads * dim, make)


def rms_norm(bench: Bench, rows: int, dim: int) -> Case:
    def make(seed: int) -> Pair:
        x, weight = bench.normal(rows, dim, seed=seed), bench.normal(dim, seed=seed + 1)
        given, scale, out = bench.put(x), bench.put(weight), bench.work.empty((rows, dim), "bfloat16")
        return Pair(
            lambda: ops.rms_norm(bench.work, given, scale, 1e-5, out),
            lambda: functional.rms_norm(x, (dim,), weight, 1e-5),
            lambda: bench.get(out),
        )

    return Case("rms_norm", f"{rows} x {dim}", 6.0 * rows * dim, 4.0 * rows * dim, make)


def rms_norm_heads(bench: Bench, rows: int, heads: int, dim: int) -> Case:
    def make(seed: int) -> Pair:
        x, weight = bench.normal(rows, heads * dim, seed=seed), bench.normal(dim, seed=seed + 1)
        given, scale = bench.put(x), bench.put(weight)
        apart, once = x.view(rows, heads, dim), []

        def ours() -> None:
            ops.rms_norm_heads(bench.work, given, 0, heads, scale, 1e-6)
            if not once:  # in place: the first call is the one that is compared
                once.append(bench.get(given))

        return Pair(ours, lambda: functional.rms_norm(apart, (dim,), weight, 1e-6).flatten(1), lambda: once[0])

    elements = float(rows * heads * dim)
    return Case("rms_norm_heads", f"{rows} x {heads} heads of {dim}", 8 * elements, 4 * elements, make)


def swiglu(bench: Bench, rows: int, width: int) -> Case:
    def make(seed: int) -> Pair:
        both = bench.normal(rows, 2 * width, seed=seed)
        given, out = bench.put(both), bench.work.empty((rows, width), "bfloat16")
        gate, up = both.to(torch.bfloat16).chunk(2, dim=1)
        return Pair(
            lambda: ops.swiglu(bench.work, given, out), lambda: functional.silu(gate) * up, lambda: bench.get(out)
        )

    return Case("swiglu", f"{rows} x {width}", 10.0 * rows * width, 4.0 * rows * width, make)


def rope(bench: Bench, rows: int, heads: int, dim: int) -> Case:
    def make(seed: int) -> Pair:
        x = bench.normal(rows, heads * dim, seed=seed)
        positions = torch.arange(rows, dtype=torch.int32, device=bench.where)
        given, places = bench.put(x), bench.put(positions)
        cos, sin = ops.rope_table(bench.work, rows, dim, 10000.0)
        wide = [bench.get(part).repeat(1, 2)[:, None].to(torch.bfloat16) for part in (cos, sin)]
        apart = x.view(rows, heads, dim).to(torch.bfloat16)
        once: list[torch.Tensor] = []

        def ours() -> None:
            ops.rope(bench.work, given, 0, heads, dim, places, cos, sin)
            if not once:  # in place: the first call is the one that is compared
                once.append(bench.get(given))

        def theirs() -> torch.Tensor:
            first, second = apart.chunk(2, dim=-1)
            return (apart * wide[0] + torch.cat((-second, first), dim=-1) * wide[1]).flatten(1)

        return Pair(ours, theirs, lambda: once[0])

    return Case("rope", f"{rows} x {heads} heads of {dim}", 8.0 * rows * heads * dim, 3.0 * rows * heads * dim, make)


def store_kv(bench: Bench, rows: int, kv_heads: int, dim: int) -> Case:
    page, width = 16, kv_heads * dim
    pages = 1 + rows // 8

    def make(seed: int) -> Pair:
        kv = bench.normal(rows, 2 * width, seed=seed)
        slots = torch.randperm(pages * page, generator=torch.Generator().manual_seed(seed))[:rows].to(bench.where)
        empty = torch.zeros(2, pages, kv_heads, page, dim, dtype=torch.bfloat16, device=bench.where)
        keys, values = (bench.put(part) for part in empty)
        given, places = bench.put(kv), bench.put(slots)
        at, row = slots // page, slots % page
        apart = kv.to(torch.bfloat16).view(rows, 2, kv_heads, dim)

        def theirs() -> torch.Tensor:
            for part in range(2):
                empty[part].transpose(1, 2).index_put_((at, row), apart[:, part])
            return empty

        return Pair(
            lambda: ops.store_kv(bench.work, given, 0, width, places, keys, values),
            theirs,
            lambda: torch.stack([bench.get(keys), bench.get(values)]),
        )

    return Case("store_kv", f"{rows} x {kv_heads} heads of {dim}", 12.0 * rows * width, 0.0, make)


def embedding(bench: Bench, rows: int, vocabulary: int, dim: int) -> Case:
    def make(seed: int) -> Pair:
        weights = bench.normal(vocabulary, dim, seed=seed, dtype=torch.bfloat16)
        ids = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(seed)).to(bench.where)
        given, matrix, out = bench.put(ids.int()), bench.put(weights), bench.work.empty((rows, dim), "float32")
        return Pair(
            lambda: ops.embedding(bench.work, given, matrix, out),
            lambda: functional.embedding(ids, weights),
            lambda: bench.get(out),
        )

    shape, held = f"{rows} of {vocabulary} x {dim}", 2.0 * vocabulary * dim
    return Case("embedding", shape, 6.0 * rows * dim, 0.0, make, held)


def row_stats(bench: Bench, rows: int, vocabulary: int) -> Case:
    def make(seed: int) -> Pair:
        logits = bench.normal(rows, vocabulary, seed=seed, scale=3.0)
        given, wishes = bench.put(logits), [ops.RowSampling()] * rows
        found: list[Any] = []

        def ours() -> None:
            found[:] = ops.row_stats(bench.work, given, wishes)

        def theirs() -> torch.Tensor:
            highest = logits.topk(2, dim=-1).values
            total = logits.logsumexp(-1)
            log_p = logits - total[:, None]
            return torch.stack([(highest[:, 0] - total).exp(), total, -(log_p.exp() * log_p).sum(-1)], dim=1)

        def result() -> torch.Tensor:
            return torch.tensor([[s.confidence, s.log_sum_exp, s.entropy] for s in found], device=bench.where)

        return Pair(ours, theirs, result)

    return Case("row_stats", f"{rows} x {vocabulary}", 4.0 * rows * vocabulary, 4.0 * rows * vocabulary, make)


def guide(bench: Bench, rows: int, vocabulary: int) -> Case:
    def make(seed: int) -> Pair:
        conditional, unconditional = (bench.normal(rows, vocabulary, seed=seed + i) for i in range(2))
        given, other, once = bench.put(conditional), bench.put(unconditional), []

        def ours() -> None:
            ops.guide(bench.work, given, other, 1.5)
            if not once:  # in place: the first call is the one that is compared
                once.append(bench.get(given))

        return Pair(ours, lambda: unconditional + 2.5 * (conditional - unconditional), lambda: once[0])

    return Case("guide", f"{rows} x {vocabulary}", 12.0 * rows * vocabulary, 3.0 * rows * vocabulary, make)


def edit_logits(bench: Bench, rows: int, vocabulary: int, edits: int) -> Case:
    """A bias on some ids of every row, the same number as a repetition penalty over a canvas touches."""

    def make(seed: int) -> Pair:
        logits = bench.normal(rows, vocabulary, seed=seed)
        order = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(seed))
        ids = order[:edits].sort().values
        wishes = [ops.RowSampling(edits=[(token, 1.0, -1.0) for token in ids.tolist()])] * rows
        given, once = bench.put(logits), []
        own, at = logits.clone(), ids.to(bench.where)
        bias = torch.full((rows, edits), -1.0, device=bench.where)

        def ours() -> None:
            ops.edit_logits(bench.work, given, wishes)
            if not once:
                once.append(bench.get(given))

        return Pair(ours, lambda: own.index_add_(1, at, bias), lambda: once[0])

    return Case("edit_logits", f"{rows} x {edits} of {vocabulary}", 16.0 * rows * edits, 2.0 * rows * edits, make)


def experts(bench: Bench, tokens: int, count: int, kept: int, hidden: int, width: int) -> Case:
    """Router and experts of one layer; torch goes through the chosen experts one by one."""

    def make(seed: int) -> Pair:
        gate_up = bench.normal(count, 2 * width, hidden, seed=seed, dtype=torch.bfloat16, scale=hidden**-0.5)
        down = bench.normal(count, hidden, width, seed=seed + 1, dtype=torch.bfloat16, scale=width**-0.5)
        x = bench.normal(tokens, hidden, seed=seed + 2, dtype=torch.bfloat16)
        logits = bench.normal(tokens, count, seed=seed + 3)
        layer = ops.Experts(bench.work, [(bench.weight(gate_up[e]), bench.weight(down[e])) for e in range(count)])
        rule = ops.RouterRule(experts_per_token=kept, normalize=True)
        given, scores = bench.put(x), bench.put(logits)
        choice, weights = bench.work.empty((tokens, kept), "int32"), bench.work.empty((tokens, kept), "float32")
        y = bench.put(torch.zeros(tokens, hidden, device=bench.where))
        once: list[torch.Tensor] = []

        def ours() -> None:
            ops.route(bench.work, scores, rule, choice, weights)
            ops.expert_ffn(bench.work, given, choice, weights, layer, y)
            if not once:  # it adds to y
                once.append(bench.get(y))

        def theirs() -> torch.Tensor:
            shares, chosen = logits.softmax(-1).topk(kept, dim=-1)
            shares = shares / shares.sum(-1, keepdim=True)
            out = torch.zeros(tokens, hidden, device=bench.where)
            for expert in chosen.unique().tolist():
                rows, place = (chosen == expert).nonzero(as_tuple=True)
                gate, up = functional.linear(x[rows], gate_up[expert]).chunk(2, dim=-1)
                own = functional.linear(functional.silu(gate) * up, down[expert])
                out.index_add_(0, rows, own.float() * shares[rows, place, None])
            return out

        return Pair(ours, theirs, lambda: once[0])

    met = count * (1 - (1 - kept / count) ** tokens)  # distinct experts, expected of random logits
    flops = 6.0 * tokens * kept * hidden * width
    return Case(
        "route + expert_ffn",
        f"{tokens} x {kept} of {count}, {hidden} x {width}",
        6.0 * met * hidden * width,
        flops,
        make,
    )


def cases(bench: Bench) -> Iterator[Case]:
    """Shapes of LLaDA-8B, Dream-7B and LLaDA2.0-mini: a block of 32 rows, a canvas of 400."""
    for rows in (32, 400):
        for name, inputs, outputs in (
            ("qkv", 4096, 12288),
            ("o", 4096, 4096),
            ("gate-up", 4096, 24576),
            ("down", 12288, 4096),
        ):
            yield linear(bench, name, rows, inputs, outputs)
    yield linear(bench, "head", 32, 4096, 126464)
    for batch in (1, 16):
        yield attention(bench, "LLaDA", batch, 32, 400, (32, 32), 128)
        yield attention(bench, "Dream", batch, 32, 400, (28, 4), 128)
    yield attention(bench, "LLaDA", 1, 400, 400, (32, 32), 128)
    for rows in (32, 400):
        yield rms_norm(bench, rows, 4096)
        yield rms_norm_heads(bench, rows, 16, 128)
        yield swiglu(bench, rows, 12288)
        yield rope(bench, rows, 32, 128)
        yield store_kv(bench, rows, 32, 128)
        yield embedding(bench, rows, 126464, 4096)
    yield row_stats(bench, 32, 126464)
    yield row_stats(bench, 512, 157184)
    yield guide(bench, 32, 126464)
    yield edit_logits(bench, 32, 126464, 400)
    for tokens in (32, 400):
        yield experts(bench, tokens, 256, 8, 2048, 512)


def tiny_cases(bench: Bench) -> Iterator[Case]:
    """The same kernels in sizes that a CPU, or the emulation, takes in seconds."""
    yield linear(bench, "tiny", 5, 64, 96)
    yield attention(bench, "tiny", 2, 8, 40, (4, 2), 32)
    yield rms_norm(bench, 5, 64)
    yield rms_norm_heads(bench, 5, 4, 16)
    yield swiglu(bench, 5, 48)
    yield rope(bench, 5, 4, 16)
    yield store_kv(bench, 5, 2, 16)
    yield embedding(bench, 5, 100, 64)
    yield row_stats(bench, 4, 1000)
    yield guide(bench, 4, 1000)
    yield edit_logits(bench, 4, 1000, 20)
    yield experts(bench, 6, 8, 2, 32, 16)
