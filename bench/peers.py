"""A forward pass and a cached block of the whole engine beside torch and llama.cpp: same weights, tokens and threads.

Random weights in the layouts of LLaDA and Dream, 126 M and 1.0 B parameters, 320 positions, one request.
forward: a canvas of 256 prompt and 64 masked positions, no cache. block: the last 32 positions, written one a forward
with Fast-dLLM's prefix cache: the first forward feeds everything, 31 feed the block. torch has the same cache;
llama.cpp has none for these models, so its time for a block is 32 times its forward of the same round.

Peers are processes that take turns; a round is one turn each and gives one ratio. Before timing, the logits of all
peers are compared; a row whose peers disagree is an error, not a line. Rows that the day's report already has are
skipped, so that an interrupted run goes on. Usage: python bench/peers.py [--only "llada 1.0b"]; needs
`make build/clients/.llama`.

Exit code: 0 when every row of 1.0 B parameters in bfloat16 reaches the targets below; 1 otherwise.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import platform
import random
import shlex
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "bench" / "peers"
LLAMA_PYTHON = ROOT / "build" / "clients" / "llama" / "bin" / "python"
POSITIONS, MASKED, BLOCK = 320, 64, 32
ROUNDS = {"tiny": 2, "126m": 5, "1.0b": 3}
# llama.cpp's files for a row: the row's own type, and beside bfloat16 its other type of 16 bits.
KINDS = {"float32": ("F32",), "bfloat16": ("BF16", "F16")}
# Largest relative error of logits, smallest share of equal choices. Random logits lie close together: where activations
# are rounded to bfloat16, peers that are right choose differently in some rows; wrong ones choose alike in none.
AGREEMENT = {"float32": (2e-5, 0.99), "bfloat16": (0.06, 0.75)}
TARGETS = {"forward": {"torch": 1.05, "llama": 1.2}, "block": {"torch": 1.2, "llama": 8.0}}


@dataclass(frozen=True)
class Row:
    """What is measured together."""

    model: str
    size: str
    dtype: str
    threads: int

    def __str__(self) -> str:
        return f"{self.model} {self.size} {self.dtype} {self.threads}"


@dataclass
class Result:
    """Seconds of each turn by work and peer ("llama", "llama F16"); what was compared before."""

    row: Row
    agreement: dict[str, dict[str, float]]
    versions: dict[str, str]
    systems: dict[str, str]
    turns: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)


def all_rows(*, tiny: bool) -> list[Row]:
    """float32 only where 4 GB of weights per peer are not needed."""
    sizes = ("tiny",) if tiny else ("126m", "1.0b")
    choices = itertools.product(sizes, ("llada", "dream"), ("bfloat16", "float32"), (1, 2))
    return [
        Row(model, size, dtype, threads)
        for size, model, dtype, threads in choices
        if (size, dtype) != ("1.0b", "float32")
    ]


class Peer:
    """A process that answers the commands of bench/peers/answering.py."""

    def __init__(self, name: str, python: str | Path, threads: int, core: int) -> None:
        self.name = name
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            # As in linear.py: huge pages for all.
            "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        }
        self.process = subprocess.Popen(
            [str(python), str(PEERS / f"{name}_peer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if threads == 1:
            os.sched_setaffinity(self.process.pid, {core})

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Sends one command and returns its answer; RuntimeError when it failed or the peer died."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError(f"peer {self.name} has no pipes")
        self.process.stdin.write(json.dumps({command: arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"died at {command}"}
        if "error" in answer:
            raise RuntimeError(f"peer {self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


@dataclass(frozen=True)
class Work:
    """The canvases of one request, one a forward, and what is asked of each peer."""

    prompt: list[int]
    generated: int
    threshold: float
    cache: str
    canvases: list[list[int]]
    shift: int
    mask: int

    @property
    def rows(self) -> list[list[int]]:
        """The model's rows that a forward's masked positions need."""
        begin = len(self.prompt)
        return [[i - self.shift for i in range(begin, POSITIONS) if c[i] == self.mask] for c in self.canvases[:-1]]

    @property
    def request(self) -> dict[str, object]:
        """For pydllm."""
        return {"prompt": self.prompt, "generated": self.generated, "threshold": self.threshold, "cache": self.cache}

    @property
    def feed(self) -> dict[str, object]:
        """For torch. A window of shifted logits begins one row early, as in pydllm."""
        return {"canvases": self.canvases[:-1], "rows": self.rows, "begin": len(self.prompt) - self.shift}


class Bench:
    """The loaded peers of one row."""

    def __init__(self, row: Row, folder: Path, core: int) -> None:
        self.row, self.folder = row, folder
        self.checkpoint = prepared_checkpoint(row, folder)
        config = json.loads((self.checkpoint / "config.json").read_text())
        self.mask, self.vocabulary = config["mask_token_id"], config["vocab_size"]
        pythons = {"pydllm": sys.executable, "torch": sys.executable, "llama": LLAMA_PYTHON}
        self.peers = {name: Peer(name, python, row.threads, core) for name, python in pythons.items()}
        load = {"threads": row.threads, "tokens": POSITIONS}
        answers = {
            name: self.peers[name].ask("load", path=str(self.checkpoint), dtype=row.dtype, **load)
            for name in ("pydllm", "torch")
        }
        for kind in KINDS[row.dtype]:
            # float32 means float32: fused attention would round K and V to F16. Else what llama.cpp does by itself.
            flash_attention = "off" if row.dtype == "float32" else "auto"
            path = str(self.prepared_gguf(kind))
            answers["llama"] = self.peers["llama"].ask(
                "load", path=path, kind=kind, flash_attention=flash_attention, **load
            )
        self.versions = {name: answer["version"] for name, answer in answers.items()}
        self.systems = {name: answer["system"].strip() for name, answer in answers.items()}

    def prepared_gguf(self, kind: str) -> Path:
        path = self.checkpoint.with_name(f"{self.checkpoint.name}-{kind}.gguf")
        if not path.exists():
            self.peers["llama"].ask("convert", checkpoint=str(self.checkpoint), path=str(path), kind=kind)
        return path

    def work(self, generated: int, threshold: float, cache: str, path: str = "") -> Work:
        """Runs the request once, so that the peers get the canvases that pydllm had."""
        draw = random.Random(0)
        prompt = [draw.randrange(2, self.vocabulary) for _ in range(POSITIONS - generated)]
        request = {"prompt": prompt, "generated": generated, "threshold": threshold, "cache": cache}
        canvases = self.peers["pydllm"].ask("trace", path=path, **request)["canvases"]
        return Work(prompt, generated, threshold, cache, canvases, int(self.row.model == "dream"), self.mask)

    def compare(self) -> tuple[Work, Work, dict[str, dict[str, float]]]:
        """(the forward, the block, how far the peers agree); RuntimeError when they do not."""
        files = {name: str(self.folder / f"logits-{name}.npy") for name in ("pydllm", "torch", *KINDS[self.row.dtype])}
        forward = self.work(MASKED, 0.0, "none", files["pydllm"])
        self.peers["torch"].ask("logits", tokens=forward.canvases[0], path=files["torch"])
        for kind in KINDS[self.row.dtype]:
            self.peers["llama"].ask("logits", kind=kind, tokens=forward.canvases[0], path=files[kind])
        ours, *others = [np.load(path) for path in files.values()]
        names = ["torch", *(label(kind) for kind in KINDS[self.row.dtype])]
        found = {name: agreement(ours, theirs) for name, theirs in zip(names, others, strict=True)}
        block = self.work(BLOCK, 1.0, "prefix")
        found["torch, cached"] = {"same_choice": self.same_choices(block)}
        expect_agreement(self.row, found)
        return forward, block, found

    def same_choices(self, block: Work) -> float:
        """Of the tokens that pydllm wrote with its cache, the share that torch finds likeliest with its own."""
        best = self.peers["torch"].ask("best", mask=self.mask, **block.feed)["tokens"]
        same = []
        for before, after, rows, tokens in zip(block.canvases, block.canvases[1:], block.rows, best, strict=False):
            written = {
                row: after[row + block.shift] for row in rows if before[row + block.shift] != after[row + block.shift]
            }
            same += [written[row] == token for row, token in zip(rows, tokens, strict=True) if row in written]
        return sum(same) / len(same)

    def measure(self) -> Result:
        forward, block, found = self.compare()
        print(f"{self.row}: logits agree with pydllm's: {spoken(found)}", flush=True)
        result = Result(self.row, found, self.versions, self.systems, {"forward": {}, "block": {}})
        for number in range(ROUNDS[self.row.size]):
            turns = self.turns(forward, block)
            # Each round starts with another peer, so that none is always the one after a pause.
            shift = number % len(turns)
            for work, name, peer, command in [*turns[shift:], *turns[:shift]]:
                result.turns[work].setdefault(name, []).append(self.peers[peer].ask("time", **command))
        return result

    def turns(self, forward: Work, block: Work) -> list[tuple[str, str, str, dict[str, object]]]:
        """(work, name, process, arguments of its command `time`)."""
        canvas = {"tokens": forward.canvases[0], "forwards": 1}
        llama = [("forward", label(kind), "llama", {"kind": kind, **canvas}) for kind in KINDS[self.row.dtype]]
        return [
            ("forward", "pydllm", "pydllm", {**forward.request, "forwards": 1}),
            ("forward", "torch", "torch", forward.feed),
            *llama,
            ("block", "pydllm", "pydllm", {**block.request, "forwards": BLOCK}),
            ("block", "torch", "torch", block.feed),
        ]

    def close(self) -> None:
        for peer in self.peers.values():
            peer.close()


def label(kind: str) -> str:
    return "llama F16" if kind == "F16" else "llama"


def prepared_checkpoint(row: Row, folder: Path) -> Path:
    path = folder / f"{row.model}-{row.size}"
    if not (path / "config.json").exists():
        subprocess.run([sys.executable, str(PEERS / "checkpoint.py"), str(path), row.model, row.size], check=True)
    return path


def agreement(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Of two [positions, vocabulary]."""
    difference = ours - theirs
    return {
        "relative_error": float(np.linalg.norm(difference) / np.linalg.norm(ours)),
        "largest_error": float(np.abs(difference).max()),
        "same_choice": float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
    }


def expect_agreement(row: Row, found: dict[str, dict[str, float]]) -> None:
    error, share = AGREEMENT[row.dtype]
    for name, figures in found.items():
        # Written so that NaN is no agreement.
        if not (figures.get("relative_error", 0.0) <= error and figures["same_choice"] >= share):
            raise RuntimeError(f"{row}: pydllm and {name} disagree, nothing is timed: {spoken({name: figures})}")


def spoken(found: dict[str, dict[str, float]]) -> str:
    def figures(values: dict[str, float]) -> str:
        parts = [f"{name.replace('_', ' ')} {values[name]:.1e}" for name in values if name.endswith("error")]
        return ", ".join([*parts, f"same choice {values['same_choice']:.1%}"])

    return "; ".join(f"{name} ({figures(values)})" for name, values in found.items())


def seconds(result: dict[str, Any], work: str, name: str, clock: str) -> list[float]:
    """Of one forward or one block in every round. With two threads always the wall's: CPU time counts their waiting."""
    clock = clock if result["row"]["threads"] == 1 else "wall"
    if work == "block" and name.startswith("llama"):
        return [turn[clock] * BLOCK for turn in result["turns"]["forward"][name]]
    return [turn[clock] for turn in result["turns"][work][name]]


def ratios(result: dict[str, Any], work: str, name: str, clock: str) -> list[float]:
    """Inside each round; above 1 pydllm is faster."""
    pairs = zip(seconds(result, work, "pydllm", clock), seconds(result, work, name, clock), strict=True)
    return [theirs / ours for ours, theirs in pairs]


def processor_share(result: dict[str, Any]) -> str:
    """CPU time over wall time and threads of every peer: what it got of the processors while it worked."""
    turns = result["turns"]["forward"]
    shares = {
        name: statistics.median(turn["cpu"] / turn["wall"] / result["row"]["threads"] for turn in turns[name])
        for name in turns
    }
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


NAMES = ("pydllm", "torch", "llama", "llama F16")
HEADS = {
    "forward": [
        "model",
        "parameters",
        "dtype",
        "threads",
        *(f"{n} ms" for n in NAMES),
        *(f"{n} / pydllm" for n in NAMES[1:]),
    ],
    "block": [
        "model",
        "parameters",
        "dtype",
        "threads",
        *(f"{n} tokens/s" for n in NAMES),
        *(f"pydllm / {n}" for n in NAMES[1:]),
    ],
}


def cells(result: dict[str, Any], work: str, clock: str) -> list[str]:
    present = [name for name in NAMES if name in result["turns"]["forward"]]
    medians = {name: statistics.median(seconds(result, work, name, clock)) for name in present}
    speeds = [f"{medians[name] * 1e3:.1f}" if work == "forward" else f"{BLOCK / medians[name]:.2f}" for name in present]
    speeds += [""] * (len(NAMES) - len(present))
    spans = []
    for name in NAMES[1:]:
        found = ratios(result, work, name, clock) if name in present else []
        spans.append(f"{statistics.median(found):.2f} ({min(found):.2f}..{max(found):.2f})" if found else "")
    row = result["row"]
    return [row["model"], row["size"], row["dtype"], str(row["threads"]), *speeds, *spans]


def table(results: Sequence[dict[str, Any]], work: str, clock: str) -> str:
    lines = [HEADS[work], ["---"] * len(HEADS[work]), *(cells(result, work, clock) for result in results)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdicts(results: Sequence[dict[str, Any]], clock: str) -> list[tuple[bool, str]]:
    """Of the rows that have targets: 1.0 B parameters in bfloat16."""
    found = []
    for result in results:
        row = Row(**result["row"])
        if (row.size, row.dtype) != ("1.0b", "bfloat16"):
            continue
        for work, targets in TARGETS.items():
            for name, target in targets.items():
                ratio = statistics.median(ratios(result, work, name, clock))
                kept = ratio >= target
                verdict = "pass" if kept else "FAIL"
                found.append((kept, f"{verdict}: {row}, {work}: {ratio:.2f}x {name}, target {target:.2f}"))
    return found


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def markdown(report: dict[str, Any]) -> str:
    results, clock = report["results"], report["clock"]
    facts = {name: value for name, value in report.items() if name != "results"}
    for name in results[-1]["systems"]:
        facts[f"{name} runs on"] = "; ".join(dict.fromkeys(result["systems"][name] for result in results))
    facts["versions"] = ", ".join(results[-1]["versions"].values())
    shares = [f"* {Row(**result['row'])}: {processor_share(result)}" for result in results]
    agreed = [f"* {Row(**result['row'])}: {spoken(result['agreement'])}" for result in results]
    parts = [
        "# The same work on a CPU: pydllm, torch, llama.cpp",
        "\n".join(f"* {name}: {value}" for name, value in facts.items()),
        f"## forward: {POSITIONS} positions, {MASKED} of them masked, no cache",
        table(results, "forward", clock),
        f"## block: {BLOCK} tokens after {POSITIONS - BLOCK} positions, one token a forward, prefix cache",
        table(results, "block", clock),
        f"llama.cpp has no cache for these models: its block is {BLOCK} of its forwards.",
        "## What the peers got of the processors in a forward (with one thread less than 95 %: other programs ran)",
        "\n".join(shares),
        "## Logits compared before timing, against pydllm's",
        "\n".join(agreed),
    ]
    return "\n\n".join(parts) + "\n"


class Report:
    """peers-<date>.json and .md: written after every row, continued by the next run of the day."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        stem = arguments.output / f"peers-{arguments.date}"
        self.json, self.markdown = stem.with_suffix(".json"), stem.with_suffix(".md")
        self.facts = {"command": shlex.join(["python", "bench/peers.py", *sys.argv[1:]]), "date": arguments.date}
        self.facts |= {"cpu": cpu_model(), "clock": arguments.clock}
        self.results: list[dict[str, Any]] = json.loads(self.json.read_text())["results"] if self.json.exists() else []

    def has(self, row: Row) -> bool:
        return asdict(row) in [result["row"] for result in self.results]

    def add(self, result: Result) -> None:
        kept = [old for old in self.results if old["row"] != asdict(result.row)]
        order = [asdict(row) for row in (*all_rows(tiny=True), *all_rows(tiny=False))]
        self.results = sorted([*kept, asdict(result)], key=lambda one: order.index(one["row"]))
        report = {**self.facts, "results": self.results}
        self.json.parent.mkdir(parents=True, exist_ok=True)
        self.json.write_text(json.dumps(report, indent=1) + "\n")
        self.markdown.write_text(markdown(report))


def measured(row: Row, arguments: argparse.Namespace) -> Result:
    bench = Bench(row, arguments.folder, arguments.core)
    try:
        return bench.measure()
    finally:
        bench.close()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="pydllm beside torch and llama.cpp on a CPU")
    parser.add_argument(
        "--only", default="", help="measure only rows whose 'model size dtype threads' contains this text"
    )
    parser.add_argument("--again", action="store_true", help="measure rows that the report already has once more")
    parser.add_argument("--tiny", action="store_true", help="tiny models: shows in a minute that everything works")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="of rows with one thread; cpu: other programs run"
    )
    parser.add_argument(
        "--core", type=int, default=max(os.sched_getaffinity(0)), help="the CPU of rows with one thread"
    )
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "bench-peers", help="for the checkpoints: 15 GB"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "bench" / "results", help="where peers-<date>.json and .md go"
    )
    parser.add_argument("--date", default=datetime.datetime.now(tz=datetime.UTC).date().isoformat())
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    if not LLAMA_PYTHON.exists():
        sys.exit(f"{LLAMA_PYTHON.relative_to(ROOT)} is missing: run `make build/clients/.llama`")
    report = Report(arguments)
    rows = [row for row in all_rows(tiny=arguments.tiny) if arguments.only in str(row)]
    if not rows:
        sys.exit(
            f"--only: no row contains {arguments.only!r}; rows: {', '.join(map(str, all_rows(tiny=arguments.tiny)))}"
        )
    try:
        for row in rows:
            if arguments.again or not report.has(row):
                report.add(measured(row, arguments))
    except RuntimeError as error:
        sys.exit(str(error))
    results = [result for result in report.results if result["row"] in [asdict(row) for row in rows]]
    for work in HEADS:
        print(f"{work}\n{table(results, work, arguments.clock)}")
    found = verdicts(results, arguments.clock)
    print("\n".join(line for _, line in found))
    return 0 if all(kept for kept, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
