"""`make accept-cuda`: what the CUDA backend promises, one line each with its figure, pass or fail. The first lines need
no GPU; the last one is `make gpu-check`, and says so where there is no GPU. `--short` leaves out what CI runs as steps
of its own; naming lines runs only those.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lines import Line, cpp, make, program, run

ROOT = Path(__file__).resolve().parents[2]


def gpu() -> tuple[bool, str]:
    """`make gpu-check` where there is a device; elsewhere nothing is claimed, and nothing fails."""
    if not Path("/dev/nvidiactl").exists():
        return True, "not run: this machine has no NVIDIA driver"
    return make("gpu-check", show=r"^gpu-check: .*")()


MUTANTS = sorted(path.stem for path in (ROOT / "tests/mutants").glob("cuda_*.patch"))
LINES = [
    Line("compiles", "every kernel for sm_80, sm_90a, sm_100a without warnings, within registers, stack, shared memory",
         make("cuda", show=r"^.*kernels.*$"), False),
    Line("kernels", "emulated kernels against the CPU's ops: sizes below, at, above and not a multiple of every tile",
         cpp("Cuda*.*:*/Cuda*.*-CudaEngine*:*/CudaEngine*"), False),
    Line("engine", "the engine on the emulated device: the CPU's logits and answers, pages that come back, refusals",
         cpp("CudaEngine*:*/CudaEngine*:CudaDevice*"), False),
    Line("recordings", "the recordings of the original implementations, every kernel emulated",
         make("cuda-emulated", show=r"^\d+ passed.*$")),
    Line("mutants", f"{len(MUTANTS)} patches of kernels each turn a named test red",
         program(sys.executable, "tests/mutants/run.py", *MUTANTS, show=r"^\d+/\d+ mutants noticed"), False),
    Line("gpu", "on a GPU: build, recordings, compute-sanitizer, timings", gpu),
]  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(LINES, __doc__, "test-cpp"))
