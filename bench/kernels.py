"""Every kernel beside torch's in the same run: microseconds, ratio, and the share of the floor that it reaches.

The floor of a kernel is the larger of its bytes (inputs and outputs once) over the bandwidth and its operations over
the rate of bfloat16 products, both measured here with torch's copy and matrix product. The median of 20 calls whose
operands rotate through more than the second-level cache, or through 20 copies: what is small stays in the cache, as in
a step. Results are compared before anything is timed.

What torch does: F.linear (cuBLASLt), F.scaled_dot_product_attention (flash, cuDNN) over K/V side by side instead of in
pages, F.rms_norm, F.embedding, index_put for pages, and plain expressions, eager, for the rest. row_stats waits for its
result and copies it to the host, so its time includes that; torch's does not.

Usage: python bench/kernels.py [--device cuda:0] [--only linear] [--output FILE.json]; --device cpu --tiny shows that
it works.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from gpu.cases import Bench, Case, cases, tiny_cases
from gpu.clock import Ceilings, Clock, attempted, machine, measured_ceilings, refusal, table

SAMPLES = 20
FURTHEST = 0.02
"""Relative error against torch's result on the same operands, in the Frobenius norm."""


@dataclass
class Row:
    kernel: str
    shape: str
    pydllm_us: float
    torch_us: float
    floor_us: float
    error: float

    @property
    def agrees(self) -> bool:
        return self.error <= FURTHEST


def measure(bench: Bench, case: Case, ceilings: Ceilings, samples: int) -> Row:
    pairs = [case.make(10 * i) for i in range(case.copies if samples == SAMPLES else 2)]
    pairs[0].ours()
    bench.work.synchronize()
    expected = pairs[0].theirs().double()
    error = float((pairs[0].result().double() - expected).norm() / expected.norm())
    own_clock = Clock(bench.device, stream=bench.work.stream, settle=bench.work.synchronize)
    own = own_clock.microseconds([pair.ours for pair in pairs], samples)
    theirs = Clock(bench.device).microseconds([pair.theirs for pair in pairs], samples)
    return Row(case.kernel, case.shape, own, theirs, 1e6 * ceilings.floor(case.moved, case.flops), error)


def printed(rows: list[Row]) -> str:
    head = ["kernel", "shape", "pydllm us", "torch us", "torch / pydllm", "floor us", "% of floor", "relative error"]
    return table(
        head,
        [
            [
                row.kernel,
                row.shape,
                f"{row.pydllm_us:.1f}",
                f"{row.torch_us:.1f}",
                f"{row.torch_us / row.pydllm_us:.2f}",
                f"{row.floor_us:.3g}",
                f"{100 * row.floor_us / row.pydllm_us:.0f}",
                f"{row.error:.1e}{'' if row.agrees else ' DIFFERS'}",
            ]
            for row in rows
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="tiny operands: shows that everything works, not how fast")
    parser.add_argument("--only", default="", help="only kernels whose name contains this")
    parser.add_argument("--output", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    if why := refusal(arguments.device, tiny=arguments.tiny):
        sys.exit(f"kernels.py: {why}")
    bench = Bench(arguments.device)
    if bench.where.type == "cpu":
        torch.set_num_threads(1)
    with torch.inference_mode():
        ceilings = measured_ceilings(arguments.device, tiny=arguments.tiny)
        chosen = tiny_cases(bench) if arguments.tiny else cases(bench)
        samples = 3 if arguments.tiny else SAMPLES
        problems: list[str] = []
        wanted = [case for case in chosen if arguments.only in case.kernel]
        found = [
            attempted(
                f"{case.kernel} {case.shape}", lambda case=case: measure(bench, case, ceilings, samples), problems
            )
            for case in wanted
        ]
    rows = [row for row in found if row is not None]
    bandwidth, rate = ceilings.bytes_per_second / 1e12, ceilings.flops_per_second / 1e12
    print(f"copy {bandwidth:.2f} TB/s, bfloat16 product {rate:.3g} TFLOP/s")
    print(printed(rows))
    for problem in problems:
        print(f"error: {problem}")
    if arguments.output:
        report = {
            "machine": machine(arguments.device),
            "tiny": arguments.tiny,
            "ceilings": vars(ceilings),
            "rows": [{**asdict(row), "agrees": row.agrees} for row in rows],
            "problems": problems,
        }
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if rows and not problems and all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
