"""How long `--help` takes. The best of some runs counts: what the program costs, not what else the machine did."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ([], ["serve"], ["generate"], ["chat"])
LIMIT, RUNS = 0.2, 9


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([*command, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    pydllm = str(Path(sys.executable).with_name("pydllm"))
    best = {" ".join(words) or "pydllm": min(seconds([pydllm, *words]) for _ in range(RUNS)) for words in COMMANDS}
    print(", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in best.items()))
    return 0 if max(best.values()) < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
