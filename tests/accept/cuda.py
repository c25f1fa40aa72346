"""`make accept-cuda`: what the CUDA backend promises, one line each with its figure, pass or fail. The first lines need
no GPU; the last one is `make gpu-check`, skipped where there is no GPU. `--short` leaves out what CI runs as steps
of its own; naming lines runs only those.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lines import Line, Outcome, cpp, make, program, run

ROOT = Path(__file__).resolve().parents[2]


def gpu() -> Outcome:
    """`make gpu-check` where there is a device; elsewhere nothing is claimed, and nothing fails."""
    if not Path("/dev/nvidiactl").exists():
        return None, "skipped: no GPU"
    return make("gpu-check", f"PYTHON={sys.executable}", show=r"^gpu-check: .*")()


MUTANTS = sorted(path.stem for path in (ROOT / "tests/mutants").glob("cuda_*.patch"))
LINES = [
    Line("compiles", "every kernel for sm_80, sm_90a, sm_100a without warnings, within registers, stack, shared memory",
         make("cuda", show=r"^.*kernels.*$"), False),
    Line("kernels", "emulated kernels against the CPU's ops: sizes below, at, above and not a multiple of every tile",
         cpp("Cuda*.*:*/Cuda*.*-CudaEngine*:*/CudaEngine*"), False),
    Line("engine", "the engine on the emulated device: the CPU's logits and answers, pages that come back, refusals",
         cpp("CudaEngine*:*/CudaEngine*:CudaDevice*"), False),
    Line("recordings", "every op and the recordings of the original implementations, every kernel emulated",
         make("cuda-emulated", show=r"^\d+ passed.*$")),
    Line("check", "gpu-check's own steps, benchmarks included, work (emulated, tiny)",
         make("gpu-check", f"PYTHON={sys.executable}", "ARGS=--emulated --only ops kernels engine 'first look'",
              show=r"^gpu-check: .*$"), False),
    Line("mutants", f"{len(MUTANTS)} patches of kernels each turn a named test red",
         program(sys.executable, "tests/mutants/run.py", *MUTANTS, show=r"^\d+/\d+ mutants noticed"), False),
    Line("gpu", "on a GPU: build, ops, logits, recordings, engine, interchange, compute-sanitizer, timings", gpu),
]  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(LINES, __doc__, "test-cpp"))
