"""A first look at whole steps of LLaDA-8B and Dream-7B shapes on a GPU, beside torch in the same run: random bfloat16
weights made on the device, batches of 1 and 16.

fwd400: every one of 400 positions goes through the model, the output head runs on the masked ones of a block of 32.
blk32@400: the block's 32 positions (one more before them where logits are shifted) over the K/V of all 400, pydllm's
cache dual. pydllm's time is from one step of a request to the next: all of the engine. R0 and R1: gpu/torch_loops.py.
pydllm multiplies with its own kernels and, where it is found, with cuBLASLt: a row for each.
Before anything is timed, the logits of a cut of 2 layers are compared with torch in float32.

Usage: python bench/first_look.py [--device cuda:0] [--output FILE.json]; --device cpu --tiny shows that it works.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from gpu.clock import Ceilings, Clock, attempted, machine, measured_ceilings, refusal, shown, table, torch_device
from gpu.models import SHAPES, TINY_SHAPES, RandomModel, Shape
from gpu.torch_loops import Canvases, Eager, Strong, steps

from pydllm import _core
from pydllm.nvidia_wheels import library_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")
CUT_LAYERS = 2
SHARE_OF_TORCH = 1.25
"""pydllm's bfloat16 logits may be so much further from float32 than torch's own."""
SETTLING = 4
"""Steps of a request before those that count: requests of a batch start one after the other."""
WAIT_SECONDS = 120.0


class Sizes:
    """Positions and steps of a run."""

    def __init__(self, *, tiny: bool) -> None:
        self.positions, self.block = (48, 16) if tiny else (400, 32)
        self.batches = (1, 2) if tiny else (1, 16)
        self.samples = 3 if tiny else 20

    def forwards(self, batch: int) -> int:
        """That a request takes; fewer where a step is long."""
        return min(self.block, SETTLING + (self.samples if batch == 1 else min(self.samples, 10)) + 2)


def chosen_matmul(wanted: str, device: str) -> _core.Matmul:
    return _core.choose_matmul(wanted, device=device, dtype="bfloat16", wheel_folders=library_folders())


def matmuls(device: str) -> dict[str, str]:
    """Who can multiply here, in its own words: this build's kernels, and cuBLASLt where it is found."""
    found = {"builtin": chosen_matmul("builtin", device).description}
    best = chosen_matmul("auto", device).description
    return {**found, "cublaslt": best} if best.startswith("cublaslt") else found


class Ours:
    """The engine on the first `layers` layers of a random model."""

    def __init__(self, model: RandomModel, sizes: Sizes, device: str, layers: int, matmul: str) -> None:
        self.sizes, self.vocabulary = sizes, model.shape.vocabulary
        config = model.shape.core_config(layers=layers, dtype="bfloat16", positions=sizes.positions)
        weights = _core.load_model(config, tensors=model.tensors(layers), device=device)
        most = max(sizes.batches)
        options = {
            "max_model_len": sizes.positions,
            "max_batched_tokens": most * sizes.positions,
            "max_running_requests": most,
            "max_waiting_requests": 2 * most,
            "page_size": 16,
            "pages": most * -(-sizes.positions // 16),
            "max_logit_rows": 512,
            "mask_token_id": self.vocabulary - 1,
        }
        self.engine = _core.Engine(weights, options, matmul=chosen_matmul(matmul, device))

    def run(self, prompts: list[list[int]], *, threshold: float, cache: str, forwards: int, **more: Any) -> Any:
        """The events of every prompt's request, all in flight at once."""
        params = {"threshold": threshold, "block_length": self.sizes.block, "cache": cache}
        ids = [
            self.engine.submit(
                prompt,
                max_tokens=self.sizes.block,
                algorithm="confidence_threshold",
                params=params,
                max_forward_passes=forwards,
                **more,
            )
            for prompt in prompts
        ]
        events: dict[int, list[_core.Event]] = {request: [] for request in ids}
        while any(not own or own[-1].kind not in ("finished", "failed") for own in events.values()):
            if not self.engine.wait(WAIT_SECONDS):
                raise TimeoutError(f"no event of the engine within {WAIT_SECONDS:g} s")
            for event in self.engine.drain():
                if event.kind == "failed":
                    raise RuntimeError(f"a request failed: {event.message or event.fail_reason}")
                events[event.id].append(event)
        return list(events.values())

    def prompts(self, batch: int) -> list[list[int]]:
        dice = np.random.default_rng(batch)
        length = self.sizes.positions - self.sizes.block
        return [dice.integers(0, self.vocabulary - 1, length).tolist() for _ in range(batch)]

    def milliseconds(self, batch: int, cache: str) -> tuple[float, bool]:
        """The median time from one step to the next, and whether all requests shared the steps. Random weights never
        pass a threshold of 1."""
        forwards = self.sizes.forwards(batch)
        prompts = self.prompts(batch)
        self.run(prompts, threshold=1.0, cache=cache, forwards=forwards, snapshots=True)
        before = self.engine.stats()
        events = self.run(prompts, threshold=1.0, cache=cache, forwards=forwards, snapshots=True)
        after = self.engine.stats()
        shared = after.steps - before.steps <= forwards + SETTLING // 2
        times = [event.time for event in events[-1] if event.kind == "step"]
        apart = [end - begin for begin, end in itertools.pairwise(times)]
        return statistics.median(apart[SETTLING - 1 : -1] or apart) * 1e3, shared

    def first_logits(self, prompt: list[int]) -> torch.Tensor:
        """[positions, vocabulary] of the first forward, in the model's rows."""
        [events] = self.run([prompt], threshold=0.0, cache="none", forwards=0, trace=True)
        found = [event.first_logits for event in events if event.first_logits is not None]
        return torch.from_dlpack(found[0])


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def torch_logits(model: RandomModel, prompt: list[int], sizes: Sizes, dtype: torch.dtype) -> torch.Tensor:
    """The same from R1's network."""
    cut = RandomModel.__new__(RandomModel)
    cut.shape = model.shape
    cut.layers = [
        type(layer)(**{name: None if value is None else value.to(dtype) for name, value in vars(layer).items()})
        for layer in model.layers[:CUT_LAYERS]
    ]
    cut.embed, cut.norm, cut.head = model.embed.to(dtype), model.norm.to(dtype), model.head.to(dtype)
    canvases = Canvases(cut, 1, sizes.positions, sizes.block)
    masks = [model.shape.vocabulary - 1] * sizes.block
    canvases.tokens.copy_(torch.tensor([prompt + masks]))
    return Strong(cut, canvases, cached=False).logits(0, slice(None))[0].float().cpu()


def check(model: RandomModel, sizes: Sizes, device: str, matmul: str) -> dict[str, Any]:
    """Errors of the cut's logits against float32, ours and torch's."""
    ours = Ours(model, sizes, device, CUT_LAYERS, matmul)
    [prompt] = ours.prompts(1)
    logits = ours.first_logits(prompt)
    ours.engine.stop()
    exact = torch_logits(model, prompt, sizes, torch.float32)
    own, theirs = (
        relative_error(logits, exact),
        relative_error(torch_logits(model, prompt, sizes, torch.bfloat16), exact),
    )
    return {"pydllm": own, "torch_bf16": theirs, "passed": own <= SHARE_OF_TORCH * theirs}


def torch_milliseconds(loop: Eager | Strong, sizes: Sizes, device: str, batch: int) -> float:
    if isinstance(loop, Strong):
        loop.prepare()
    samples = sizes.samples if batch == 1 else max(3, sizes.samples // 2)
    calls = steps(loop.step, loop.canvases, samples)
    return Clock(device).microseconds(calls, samples) / 1e3


class Measurement:
    """Every row of one model. Its weights are gone when this is."""

    def __init__(self, shape: Shape, sizes: Sizes, ceilings: Ceilings, device: str, matmuls: Iterable[str]) -> None:
        self.sizes, self.ceilings, self.device = sizes, ceilings, device
        self.problems: list[str] = []
        self.model = RandomModel(shape, torch_device(device))
        self.checks: dict[str, Any] = {}
        self.rows = [self._row(batch, cached=cached) for batch in sizes.batches for cached in (False, True)]
        for matmul in matmuls:
            self.checks[matmul] = self._try(f"logits, {matmul}", lambda m=matmul: check(self.model, sizes, device, m))
            self._try(f"engine, {matmul}", lambda m=matmul: self._time_engine(m))

    def _try(self, what: str, work: Callable[[], T]) -> T | None:
        return attempted(f"{self.model.shape.name}, {what}", work, self.problems)

    def _torch(self, loop: Eager | Strong, batch: int) -> float:
        try:
            return torch_milliseconds(loop, self.sizes, self.device, batch)
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # the engine's memory is not torch's

    def _row(self, batch: int, *, cached: bool) -> dict[str, Any]:
        """Without pydllm's times."""
        sizes = self.sizes
        work = f"blk{sizes.block}@{sizes.positions}" if cached else f"fwd{sizes.positions}"
        canvases = Canvases(self.model, batch, sizes.positions, sizes.block)
        eager = None
        if not cached:  # it has no cache: one time serves both
            eager = self._try(f"R0, batch {batch}", lambda: self._torch(Eager(self.model, canvases), batch))
            canvases.restart()
        strong = self._try(
            f"R1, {work}, batch {batch}", lambda: self._torch(Strong(self.model, canvases, cached=cached), batch)
        )
        active = sizes.positions - canvases.first_row if cached else sizes.positions
        floor = 1e3 * self.model.shape.floor(
            self.ceilings, batch=batch, rows=active, context=sizes.positions, head_rows=sizes.block
        )
        return {
            "model": self.model.shape.name,
            "work": work,
            "batch": batch,
            "cached": cached,
            "floor_ms": floor,
            "r0_ms": eager,
            "r1_ms": strong,
            "pydllm_ms": {},
            "shared_steps": {},
        }

    def _time_engine(self, matmul: str) -> None:
        ours = Ours(self.model, self.sizes, self.device, self.model.shape.layers, matmul)
        for row in self.rows:
            cache = "dual" if row["cached"] else "none"
            what = f"pydllm {matmul}, {row['work']}, batch {row['batch']}"
            timed = self._try(what, lambda row=row, cache=cache: ours.milliseconds(row["batch"], cache))
            if timed is not None:
                row["pydllm_ms"][matmul], row["shared_steps"][matmul] = timed
        ours.engine.stop()


def printed(rows: list[dict[str, Any]], device: str, matmuls: Iterable[str]) -> str:
    """A row for each work and each multiplier of ours."""
    graph = "R1 torch, CUDA graph" if torch_device(device).type == "cuda" else "R1 torch (no graph: no GPU)"
    head = ["model", "work", "batch", "products", "pydllm ms", "floor ms", "% of floor", "R0 eager, no cache", graph]
    lines = []
    for row in rows:
        for matmul in matmuls:
            own, strong = row["pydllm_ms"].get(matmul), row["r1_ms"]
            lines.append(
                [
                    row["model"],
                    row["work"],
                    str(row["batch"]),
                    matmul,
                    shown(own, ".2f") + ("" if row["shared_steps"].get(matmul, True) else " (steps not shared)"),
                    shown(row["floor_ms"], ".3g"),
                    shown(None if own is None else 100 * row["floor_ms"] / own, ".0f"),
                    shown(row["r0_ms"], ".2f"),
                    shown(strong, ".2f"),
                    shown(None if own is None or strong is None else strong / own, ".2f"),
                ]
            )
    return table([*head, "R1 / pydllm"], lines)


def verdict(name: str, compared: dict[str, Any]) -> str:
    word = "ok" if compared["passed"] else "TOO FAR"
    errors = f"pydllm {compared['pydllm']:.2e}, torch bfloat16 {compared['torch_bf16']:.2e}"
    return f"{name}, {CUT_LAYERS} layers against float32: {errors}: {word}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="tiny models: shows that everything works, not how fast")
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    if why := refusal(arguments.device, tiny=arguments.tiny):
        sys.exit(f"first_look.py: {why}")
    if torch_device(arguments.device).type == "cpu":
        torch.set_num_threads(1)
    sizes, shapes = Sizes(tiny=arguments.tiny), TINY_SHAPES if arguments.tiny else SHAPES
    report: dict[str, Any] = {"machine": machine(arguments.device), "tiny": arguments.tiny}
    report |= {"rows": [], "checks": {}, "problems": []}
    with torch.inference_mode():
        ceilings = measured_ceilings(arguments.device, tiny=arguments.tiny)
        report["ceilings"] = vars(ceilings)
        report["matmuls"] = found = matmuls(arguments.device)
        for name in arguments.models:
            measured = Measurement(shapes[name], sizes, ceilings, arguments.device, found)
            report["rows"] += measured.rows
            report["problems"] += measured.problems
            checks = {f"{name}, {matmul}": one for matmul, one in measured.checks.items() if one is not None}
            report["checks"] |= checks
            del measured
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    for name, compared in report["checks"].items():
        print(verdict(name, compared))
    print(f"products: {'; '.join(found.values())}")
    print(printed(report["rows"], arguments.device, found))
    for problem in report["problems"]:
        print(f"error: {problem}")
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    near = all(compared["passed"] for compared in report["checks"].values())
    return 0 if near and not report["problems"] else 1


if __name__ == "__main__":
    sys.exit(main())
