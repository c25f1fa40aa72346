"""GFLOP/s of ops::linear beside torch and oneDNN: one run, one core, the peers taking turns.

Every peer is a process pinned to the same core; only one works at a time. In each round every peer times
a few calls on its own CPU clock (what other processes take from the core does not count) and a round
gives one ratio, so that a noisy minute hits both sides. Weights rotate over copies that together exceed
the caches, as the layers of a model do.

Run with the project's Python environment (torch, numpy): ``python bench/linear.py [--quick]``. oneDNN
comes from PyPI (onednn-cpu-gomp and onednn-devel-cpu-gomp) into a folder of the build tree.

Exit code: 0 when every product with M >= 32 reaches the target share of oneDNN's speed, less the
tolerance; 1 otherwise.
"""

import argparse
import datetime
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ONEDNN_VERSION = "2023.2.0"
PEERS = ("pydllm", "onednn", "torch")
DTYPES = ("float32", "bfloat16")
ROWS = (1, 32, 128, 512)
SIZES = (1024, 4096)
TARGET = 0.90  # of oneDNN's speed, for M >= 32
# Medians of ratios of two runs on a shared machine differ by this much; see bench/README.md.
TOLERANCE = 0.03
QUICK_TOLERANCE = 0.07
WEIGHT_BYTES = 192 << 20  # of all copies of one weight together


@dataclass(frozen=True)
class Case:
    """One product y[rows, size] = x[rows, size] W^T."""

    dtype: str
    rows: int
    size: int

    @property
    def flop(self) -> float:
        return 2.0 * self.rows * self.size * self.size

    @property
    def copies(self) -> int:
        element = 4 if self.dtype == "float32" else 2
        return max(2, min(96, WEIGHT_BYTES // (self.size * self.size * element)))


@dataclass(frozen=True)
class Row:
    """The figures of one case: medians over rounds."""

    dtype: str
    rows: int
    size: int
    rounds: int
    gflops: dict[str, float]
    ratio_onednn: float
    ratio_torch: float
    implementations: dict[str, str]


class Peer:
    """A process that answers the commands of bench/linear/peer.h."""

    def __init__(self, name: str, command: Sequence[str | Path], core: int) -> None:
        self.name = name
        # pydllm's large tensors ask for huge pages; glibc then does the same for the other peers' memory.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
            # Like with like: there is no AMX kernel here yet, and on AMX oneDNN and torch are far ahead in bfloat16.
            "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",
        }
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError(f"peer {name} has no pipes")
        self.commands = self.process.stdin
        self.answers = self.process.stdout
        os.sched_setaffinity(self.process.pid, {core})

    def ask(self, command: str) -> str:
        """Sends one command and returns the answer's line; RuntimeError when the peer died."""
        self.commands.write(command + "\n")
        self.commands.flush()
        answer = self.answers.readline().strip()
        if not answer:
            raise RuntimeError(f"peer {self.name} died at: {command}")
        return answer

    def set_up(self, case: Case) -> str:
        command = f"setup {case.dtype} {case.rows} {case.size} {case.size} {case.copies}"
        return self.ask(command).removeprefix("ok ")

    def time(self, calls: int) -> list[float]:
        """CPU seconds of each call."""
        return [float(word) for word in self.ask(f"time {calls}").split()]

    def row(self) -> list[float]:
        return [float(word) for word in self.ask("row").split()]

    def close(self) -> None:
        self.commands.close()
        self.process.wait()


def install_onednn(folder: Path) -> tuple[Path, Path]:
    """Unpacks oneDNN's wheels below ``folder`` when absent; returns the include folder and the library."""
    library = folder / "lib" / "libdnnl.so.3"
    if not library.exists():
        packages = [f"{name}=={ONEDNN_VERSION}" for name in ("onednn-cpu-gomp", "onednn-devel-cpu-gomp")]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        subprocess.run([*pip, *packages], check=True)
        # Unpacked by hand: pip install --target drops a wheel's data/lib.
        for wheel in folder.glob("*.whl"):
            unpack_data(wheel, folder)
    return folder / "include", library


def unpack_data(wheel: Path, folder: Path) -> None:
    """Writes the files below the wheel's ``*.data/data`` to ``folder``."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            _, found, name = member.filename.partition(".data/data/")
            if found and not member.is_dir():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))


def build(folder: Path, include: Path, library: Path) -> None:
    """Builds both C++ peers in Release mode."""
    options = ["-DPYDLLM_BENCH=ON", "-DPYDLLM_CUDA=OFF", "-DCMAKE_BUILD_TYPE=Release"]
    paths = [f"-DPYDLLM_ONEDNN_INCLUDE={include}", f"-DPYDLLM_ONEDNN_LIBRARY={library}"]
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *options, *paths]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    compile_peers = [
        "cmake",
        "--build",
        str(folder),
        "--target",
        "bench_linear_pydllm",
        "bench_linear_onednn",
    ]
    subprocess.run(compile_peers, check=True, stdout=subprocess.DEVNULL)


def expect_equal_results(case: Case, peers: Sequence[Peer]) -> None:
    """All peers multiply the same numbers: their results agree up to rounding (torch returns bfloat16)."""
    reference, *others = [peer.row() for peer in peers]
    # y's terms are below 1/4 in magnitude and its spread is about sqrt(K) / 12.
    allowed = case.size**0.5 * (0.02 if case.dtype == "bfloat16" else 1e-4)
    for peer, row in zip(peers[1:], others, strict=True):
        if max(abs(a - b) for a, b in zip(reference, row, strict=True)) > allowed:
            raise RuntimeError(f"{case}: {peer.name} computed {row}, {peers[0].name} {reference}")


def calls_per_turn(peer: Peer, seconds: float) -> int:
    """As many calls as fill ``seconds``."""
    return max(1, min(200, round(seconds / statistics.median(peer.time(3)))))


def measure(case: Case, peers: Sequence[Peer], seconds: float, rounds: int) -> Row:
    """Times one case in ``rounds`` rounds of one turn of ``seconds`` per peer."""
    implementations = {peer.name: peer.set_up(case) for peer in peers}
    calls = {peer.name: calls_per_turn(peer, seconds) for peer in peers}
    expect_equal_results(case, peers)
    turns: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        # Each round starts with another peer, so that none is always the one after a pause.
        shift = number % len(peers)
        for peer in [*peers[shift:], *peers[:shift]]:
            times = peer.time(calls[peer.name] + 1)[1:]  # the first call refills the caches
            turns[peer.name].append(statistics.median(times))
    return summary(case, turns, implementations)


def summary(case: Case, turns: dict[str, list[float]], implementations: dict[str, str]) -> Row:
    """The medians of one case; ``turns`` holds each peer's seconds per call, one number a round."""

    def ratio(other: str) -> float:
        pairs = zip(turns["pydllm"], turns[other], strict=True)
        return round(statistics.median(theirs / ours for ours, theirs in pairs), 3)

    speeds = {name: round(case.flop / statistics.median(times) / 1e9, 1) for name, times in turns.items()}
    return Row(
        dtype=case.dtype,
        rows=case.rows,
        size=case.size,
        rounds=len(turns["pydllm"]),
        gflops=speeds,
        ratio_onednn=ratio("onednn"),
        ratio_torch=ratio("torch"),
        implementations=implementations,
    )


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


HEADER = ("dtype", "M", "N = K", "pydllm", "oneDNN", "torch", "/ oneDNN", "/ torch")


def cells(row: Row) -> list[str]:
    speeds = [f"{row.gflops[name]:.1f}" for name in PEERS]
    ratios = [f"{row.ratio_onednn:.2f}", f"{row.ratio_torch:.2f}"]
    return [row.dtype, str(row.rows), str(row.size), *speeds, *ratios]


def markdown(report: dict[str, object], rows: Sequence[Row]) -> str:
    lines = ["# linear: GFLOP/s on one core", ""]
    lines += [f"* {key}: {value}" for key, value in report.items() if key != "rows"]
    lines += ["", "| " + " | ".join(HEADER) + " |", "|" + " --- |" * len(HEADER)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="GFLOP/s of ops::linear beside torch and oneDNN, one core")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds; under a minute")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the CPU to run on")
    parser.add_argument("--build-dir", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--onednn-dir", type=Path, default=ROOT / "build" / "bench-onednn")
    parser.add_argument("--output", type=Path, help="write linear-<date>.json and .md to this folder")
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="the date in the report")
    parser.add_argument("--peers-dir", type=Path, help="use the peers built here")
    parser.add_argument("--only", default="", help="measure only cases whose 'dtype M N' contains this text")
    return parser.parse_args()


def start_peers(arguments: argparse.Namespace) -> list[Peer]:
    folder = arguments.peers_dir
    if folder is None:
        build(arguments.build_dir, *install_onednn(arguments.onednn_dir))
        folder = arguments.build_dir / "bench"
    commands: dict[str, list[str | Path]] = {
        "pydllm": [folder / "bench_linear_pydllm"],
        "onednn": [folder / "bench_linear_onednn"],
        "torch": [sys.executable, ROOT / "bench" / "linear" / "torch_peer.py"],
    }
    return [Peer(name, command, arguments.core) for name, command in commands.items()]


def selected_cases(only: str) -> list[Case]:
    cases = [Case(dtype, rows, size) for dtype, size, rows in itertools.product(DTYPES, SIZES, ROWS)]
    return [case for case in cases if only in f"{case.dtype} {case.rows} {case.size}"]


def measure_all(arguments: argparse.Namespace) -> list[Row]:
    """Measures and prints every case."""
    seconds, rounds = (0.01, 5) if arguments.quick else (0.03, 9)
    peers = start_peers(arguments)
    rows: list[Row] = []
    print("GFLOP/s, one core; ratios above 1 mean pydllm is faster", flush=True)
    print(" ".join(f"{name:>9}" for name in HEADER), flush=True)
    for case in selected_cases(arguments.only):
        rows.append(measure(case, peers, seconds, rounds))
        print(" ".join(f"{cell:>9}" for cell in cells(rows[-1])), flush=True)
    for peer in peers:
        peer.close()
    return rows


def write_report(arguments: argparse.Namespace, rows: Sequence[Row]) -> None:
    report: dict[str, object] = {
        "command": "python bench/linear.py" + (" --quick" if arguments.quick else ""),
        "date": arguments.date,
        "cpu": cpu_model(),
        "clock": "CPU time of the calling thread, one thread per peer, all on one core, peers take turns",
        "memory": "huge pages for every peer (glibc.malloc.hugetlb=1 for oneDNN and torch)",
        "versions": f"onednn-cpu-gomp {ONEDNN_VERSION}, torch {metadata.version('torch')}",
        "target": f">= {TARGET:.0%} of oneDNN at M >= 32",
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    stem = arguments.output / f"linear-{arguments.date}"
    stem.with_suffix(".md").write_text(markdown(report, rows))
    report["rows"] = [asdict(row) for row in rows]
    stem.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")


def main() -> int:
    arguments = parse_arguments()
    rows = measure_all(arguments)
    if arguments.output is not None:
        write_report(arguments, rows)
    tolerance = QUICK_TOLERANCE if arguments.quick else TOLERANCE
    judged = [row for row in rows if row.rows >= 32]
    missed = [row for row in judged if row.ratio_onednn < TARGET - tolerance]
    worst = min((row.ratio_onednn for row in judged), default=float("nan"))
    verdict = "fail" if missed else "pass"
    print(
        f"{verdict}: M >= 32 at {worst:.0%} of oneDNN or more; "
        f"target {TARGET:.0%}, tolerance {tolerance:.0%} for a shared machine"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
