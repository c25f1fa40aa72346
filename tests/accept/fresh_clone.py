"""What a new user does: clone, `make serve`, one answer, `make test`. Measures from nothing to a listening server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS = 300
READY = re.compile(r"grpc://(\S+)")


def wait_until_ready(server: subprocess.Popen[str], start: float) -> str:
    """The gRPC address the server prints when it listens."""
    assert server.stdout is not None
    seen = []
    for line in server.stdout:
        seen.append(line)
        if "ready" in line.lower() and (found := READY.search(line)):
            return found[1]
        if time.monotonic() - start > 2 * LIMIT_SECONDS:
            break
    raise SystemExit("the server did not become ready:\n" + "".join(seen[-20:]))


def ask(clone: Path, address: str) -> str:
    """The README's client, from the clone."""
    command = [".venv/bin/python", "tests/clients/python_client.py", address, "Solve: 12 + 30."]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True, timeout=60).stdout


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "pydllm"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        # Nothing built before may help: an empty compiler cache, no pip cache.
        environment = {**os.environ, "CCACHE_DIR": f"{folder}/ccache", "PIP_NO_CACHE_DIR": "1"}
        start = time.monotonic()
        server = subprocess.Popen(
            ["make", "serve", "ARGS=--grpc-port 0"],
            cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            address = wait_until_ready(server, start)
            listening = time.monotonic() - start
            answer = ask(clone, address)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)
        generated = subprocess.run(
            [".venv/bin/pydllm", "generate", "Solve: 12 + 30."],
            cwd=clone, capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip
        tested = subprocess.run(
            ["make", "test"], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
    green = tested.returncode == 0
    if not green:
        print(tested.stdout[-3000:], tested.stderr[-2000:])
    print(
        f"fresh clone: listening after {listening:.0f} s (limit {LIMIT_SECONDS}), server answered {answer.strip()!r}, "
        f"generate printed {generated.strip()!r}, make test {'green' if green else 'RED'}"
    )
    return 0 if green and listening < LIMIT_SECONDS and "42" in answer and "42" in generated else 1


if __name__ == "__main__":
    sys.exit(main())
