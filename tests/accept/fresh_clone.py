"""What a new user does: clone, `make serve`, the README's lines, `make test`. Measures until the server listens.

The caches of the compiler and of pip are empty; packages come from the index that pip is set up with. `--whole`: all of
`make test` in the clone instead of its fast part.
"""

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
sys.path.insert(0, str(ROOT / "tests"))
from readme_lines import ADDRESS, QUESTION, Readme  # noqa: E402

LIMIT_SECONDS = 300
GRPC, REST = re.compile(r"grpc://(\S+)"), re.compile(r"http://(127\.0\.0\.1:\d+)")
GREETING = "Hello!"


def wait_until_ready(server: subprocess.Popen[str], start: float) -> tuple[str, str]:
    """The gRPC and the REST address that the server prints when it listens."""
    assert server.stdout is not None
    seen = []
    for line in server.stdout:
        seen.append(line)
        if "ready" in line.lower() and (grpc := GRPC.search(line)) and (rest := REST.search(line)):
            return grpc[1], rest[1]
        if time.monotonic() - start > 2 * LIMIT_SECONDS:
            break
    raise SystemExit("the server did not become ready:\n" + "".join(seen[-20:]))


def ask(clone: Path, address: str) -> str:
    """The README's client, from the clone."""
    command = [".venv/bin/python", "tests/clients/python_client.py", address, QUESTION]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True, timeout=60).stdout


def ask_as_readme(clone: Path, rest: str, question: str) -> dict[str, str]:
    """What the README's curl and openai lines print, for this question and the address of this server."""
    readme = Readme(clone)
    commands = {
        "curl": ["bash", "-c", readme.curl()],
        "openai": ["build/clients/openai3/bin/python", "-c", readme.openai()],
    }
    printed = {}
    for name, command in commands.items():
        words = [word.replace(ADDRESS, rest).replace(QUESTION, question) for word in command]
        done = subprocess.run(words, cwd=clone, capture_output=True, text=True, check=False, timeout=60)
        printed[name] = done.stdout if done.returncode == 0 else done.stderr
    return printed


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "pydllm"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        # Nothing built before may help: an empty compiler cache, no pip cache.
        environment = {**os.environ, "CCACHE_DIR": f"{folder}/ccache", "PIP_NO_CACHE_DIR": "1"}
        start = time.monotonic()
        server = subprocess.Popen(
            ["make", "serve", "ARGS=--grpc-port 0 --http-port 0"],
            cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            grpc, rest = wait_until_ready(server, start)
            listening = time.monotonic() - start
            answer = ask(clone, grpc)
            subprocess.run(["make", "-s", "build/clients/.openai3"], cwd=clone, check=True)
            answers, greetings = ask_as_readme(clone, rest, QUESTION), ask_as_readme(clone, rest, GREETING)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(timeout=60)
        generated = subprocess.run(
            [".venv/bin/pydllm", "generate", QUESTION],
            cwd=clone, capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip
        target = "test" if "--whole" in sys.argv else "test-fast"
        tested = subprocess.run(
            ["make", target], cwd=clone, env=environment, capture_output=True, text=True, check=False
        )
    green = tested.returncode == 0
    answered = all("42" in text for text in answers.values())
    greeted = all("Hello!" in text or "Hi there!" in text for text in greetings.values())
    if not (answered and greeted):
        print(answers, greetings)
    if not green:
        print(tested.stdout[-3000:], tested.stderr[-2000:])
    print(
        f"fresh clone: listening after {listening:.0f} s (limit {LIMIT_SECONDS}), server answered {answer.strip()!r}, "
        f"generate printed {generated.strip()!r}, the README's curl and openai lines "
        f"{'answer 42' if answered else 'do NOT answer'} and {'greet back' if greeted else 'do NOT greet'}, "
        f"make {target} {'green' if green else 'RED'}"
    )
    right = answered and greeted and "42" in answer and "42" in generated
    return 0 if green and right and listening < LIMIT_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
