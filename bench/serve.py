"""32 streams through the REST gateway beside the same 32 over gRPC: tokens/s and time to the first block, in one run.

Starts `pydllm serve` with the demo model and one client process that speaks both protocols as lightly as it can (raw
HTTP/1.1 on asyncio, grpc.aio on one channel). The two paths take turns with the same prompts, seeds and lengths; a
ratio is the median over rounds of the ratio inside a round. Usage: python bench/serve.py [--output bench/results]
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

ROOT = Path(__file__).resolve().parents[1]
READY = re.compile(r"model (\S+) on http://(\S+) and grpc://(\S+)")
PATHS = ("grpc", "gateway")
TARGET, QUICK_TOLERANCE = 0.90, 0.15
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Load:
    """What one turn asks for: every stream sends its requests one after the other."""

    streams: int
    requests: int
    max_tokens: int


@dataclass(frozen=True)
class Addresses:
    """Of a running server."""

    model: str
    http: str
    grpc: str


# --- the client process: reads one JSON line per turn, writes one ---


def question(stream: int, number: int) -> str:
    return f"Solve: {(7 * stream + number) % 100} + {(31 * stream + 3 * number) % 100}."


async def over_http(addresses: Addresses, load: Load, stream: int, sink: list[float]) -> int:
    """One stream's requests on one connection; the tokens it got. Times to the first block go to `sink`."""
    host, port = addresses.http.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    tokens = 0
    for number in range(load.requests):
        body = {
            "model": addresses.model,
            "messages": [{"role": "user", "content": question(stream, number)}],
            "max_tokens": load.max_tokens,
            "ignore_eos": True,
            "seed": number,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {addresses.http}\r\nContent-Type: application/json\r\n"
        start = time.perf_counter()
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        tokens += await _read_events(reader, start, sink)
    writer.close()
    return tokens


async def _read_events(reader: asyncio.StreamReader, start: float, sink: list[float]) -> int:
    """Reads a chunked reply of server-sent events to its end."""
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n", 1)[0], head
    first, tokens = True, 0
    while size := int(await reader.readline(), 16):
        chunk = (await reader.readexactly(size + 2))[:-2]
        for line in chunk.splitlines():
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if first and any(choice["delta"].get("content") for choice in event["choices"]):
                sink.append(time.perf_counter() - start)
                first = False
            tokens += (event.get("usage") or {}).get("completion_tokens", 0)
    await reader.readline()
    assert not first, "no block came"
    return tokens


def over_grpc(stub: Any) -> Callable[[Addresses, Load, int, list[float]], Coroutine[Any, Any, int]]:
    from pydllm_proto.v1 import generation_service_pb2 as pb
    from pydllm_proto.v1 import types_pb2

    async def run(addresses: Addresses, load: Load, stream: int, sink: list[float]) -> int:
        tokens = 0
        for number in range(load.requests):
            message = types_pb2.ChatMessage(role="user", content=question(stream, number))
            request = pb.GenerateRequest(
                model=addresses.model,
                chat=types_pb2.ChatInput(messages=[message]),
                sampling=types_pb2.SamplingParams(max_tokens=load.max_tokens, ignore_eos=True, seed=number),
            )
            start, first = time.perf_counter(), True
            async for reply in stub.StreamGenerate(pb.StreamGenerateRequest(request=request)):
                if first and reply.block_appended.text:
                    sink.append(time.perf_counter() - start)
                    first = False
                tokens += reply.usage.completion_tokens
            assert not first, "no block came"
        return tokens

    return run


async def turn(run: Callable[..., Any], addresses: Addresses, load: Load) -> dict[str, Any]:
    """All streams at once."""
    times: list[float] = []
    start, cpu = time.perf_counter(), _own_cpu()
    tokens = await asyncio.gather(*(run(addresses, load, stream, times) for stream in range(load.streams)))
    seconds = time.perf_counter() - start
    assert sum(tokens) == load.streams * load.requests * load.max_tokens, sum(tokens)
    return {"seconds": seconds, "tokens": sum(tokens), "first_block": times, "client_cpu": _own_cpu() - cpu}


def _own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@asynccontextmanager
async def runners(addresses: Addresses) -> AsyncIterator[dict[str, Callable[..., Any]]]:
    import grpc
    from pydllm_proto.v1 import generation_service_pb2_grpc

    async with grpc.aio.insecure_channel(addresses.grpc) as channel:
        stub = generation_service_pb2_grpc.GenerationServiceStub(channel)
        yield {"gateway": over_http, "grpc": over_grpc(stub)}


async def client_process() -> None:
    loop = asyncio.get_running_loop()
    addresses = Addresses(**json.loads(sys.stdin.readline()))
    async with runners(addresses) as by_path:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            asked = json.loads(line)
            result = await turn(by_path[asked.pop("path")], addresses, Load(**asked))
            print(json.dumps(result), flush=True)


# --- the driver ---


@contextmanager
def server() -> Iterator[tuple[Addresses, dict[str, int]]]:
    """`pydllm serve` on free ports, and the pids of its processes."""
    ports = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pydllm", "serve", *ports, "--log-level", "warning"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = READY.search(process.stdout.readline())
        assert ready, "the server did not start"
        yield Addresses(*ready.groups()), _children(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _children(parent: int) -> dict[str, int]:
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    words = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in pids}
    return {"gateway" if "pydllm_gateway" in line else "engine": pid for pid, line in words.items()}


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Client:
    """The load generator, a process of its own."""

    def __init__(self, addresses: Addresses) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._send(addresses.__dict__)

    def turn(self, path: str, load: Load) -> dict[str, Any]:
        assert self._process.stdout is not None
        self._send({"path": path, **load.__dict__})
        result: dict[str, Any] = json.loads(self._process.stdout.readline())
        return result

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _send(self, value: object) -> None:
        assert self._process.stdin is not None
        print(json.dumps(value), file=self._process.stdin, flush=True)


def figures(result: dict[str, Any], cpu: dict[str, float]) -> dict[str, float]:
    """Of one turn: tokens per second, milliseconds to the first block, milliseconds of CPU per request."""
    times = sorted(result["first_block"])
    per_request = 1e3 / len(times)
    return {
        "tokens_per_second": result["tokens"] / result["seconds"],
        "first_block_p50": times[len(times) // 2] * 1e3,
        "first_block_p99": times[min(len(times) - 1, int(len(times) * 0.99))] * 1e3,
        "client_cpu": result["client_cpu"] * per_request,
        **{f"{name}_cpu": seconds * per_request for name, seconds in cpu.items()},
    }


def measure(load: Load, rounds: int) -> list[dict[str, dict[str, float]]]:
    """One warm-up round, then `rounds`; every other round begins with the other path."""
    found = []
    with server() as (addresses, pids):
        client = Client(addresses)
        for number in range(rounds + 1):
            one = {}
            for path in PATHS if number % 2 else reversed(PATHS):
                before = {name: _cpu(pid) for name, pid in pids.items()}
                result = client.turn(path, load)
                one[path] = figures(result, {name: _cpu(pid) - before[name] for name, pid in pids.items()})
            found.append(one)
        client.close()
    return found[1:]


RATIOS = {"tokens_per_second": "tokens/s", "first_block_p50": "first block p50", "first_block_p99": "first block p99"}


def ratios(rounds: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """gateway against gRPC, above 1 where the gateway is better: medians over rounds."""
    out = {}
    for name in RATIOS:
        pairs = [(one["gateway"][name], one["grpc"][name]) for one in rounds]
        parts = [a / b if name == "tokens_per_second" else b / a for a, b in pairs]
        out[name] = round(statistics.median(parts), 3)
    return out


def table(rounds: list[dict[str, dict[str, float]]]) -> str:
    columns = ["tokens_per_second", "first_block_p50", "first_block_p99", "client_cpu", "gateway_cpu", "engine_cpu"]
    heads = ["path", "tokens/s", "first block p50 ms", "p99 ms", "client CPU ms/request", "gateway", "engine"]
    rows = [heads, ["---"] * len(heads)]
    for path in PATHS:
        medians = [statistics.median(one[path][name] for one in rounds) for name in columns]
        rows.append([path, f"{medians[0]:.0f}", *(f"{value:.1f}" for value in medians[1:])])
    found = ratios(rounds)
    rows.append(["ratio", *(f"{found[name]:.3f}" for name in RATIOS), "", "", ""])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{name}, {len(os.sched_getaffinity(0))} cores for server and client together"


def write(arguments: argparse.Namespace, load: Load, rounds: list[dict[str, dict[str, float]]]) -> None:
    note = (
        f"# {load.streams} streams through the gateway beside gRPC\n\n* command: python bench/serve.py\n"
        f"* date: {arguments.date}\n* cpu: {cpu_name()}\n"
        f"* load: {load.streams} streams, each {load.requests} requests of {load.max_tokens} tokens, demo model\n"
        f"* rounds: {len(rounds)} turns each, medians; ratios are medians of the rounds' ratios\n\n{table(rounds)}\n"
    )
    (arguments.output / f"serve-{arguments.date}.md").write_text(note)
    report = {"load": load.__dict__, "ratios": ratios(rounds), "rounds": rounds}
    (arguments.output / f"serve-{arguments.date}.json").write_text(json.dumps(report, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns, for CI: prints the same lines")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--requests", type=int, help="requests of each stream in a turn")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--output", type=Path, help="writes serve-<date>.json and .md here")
    parser.add_argument("--date", default=datetime.datetime.now(tz=datetime.UTC).date().isoformat())
    arguments = parser.parse_args()
    if arguments.client:
        asyncio.run(client_process())
        return 0
    load = Load(arguments.streams, arguments.requests or (4 if arguments.quick else 10), arguments.max_tokens)
    rounds = measure(load, arguments.rounds or (5 if arguments.quick else 15))
    print(table(rounds))
    if arguments.output:
        write(arguments, load, rounds)
    return verdict(ratios(rounds), TARGET - (QUICK_TOLERANCE if arguments.quick else 0))


def verdict(found: dict[str, float], least: float) -> int:
    failed = 0
    for name in ("tokens_per_second", "first_block_p99"):
        kept = found[name] >= least
        failed += not kept
        print(f"{'pass' if kept else 'FAIL'}  gateway / gRPC, {RATIOS[name]}: {found[name]:.3f} (target {least:.2f})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
