"""The lines that `pydllm serve` prints work when they are pasted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from environments import python_of
from stack import KEY, environment

if TYPE_CHECKING:
    from stack import Stack


def printed(stack: Stack) -> list[str]:
    """The commands on stderr, continuation lines joined."""
    joined = re.sub(r" \\\n\s*", " ", stack.errors())
    return [line.strip() for line in joined.splitlines() if re.match(r"\s+(curl|python|grpcurl) ", line)]


def example(stack: Stack, *words: str) -> str:
    """The one command that begins with the first word and contains the others. serve prints it after its ready line."""
    end = time.monotonic() + 30
    while True:
        found = [line for line in printed(stack) if line.startswith(words[0]) and all(word in line for word in words)]
        if found or time.monotonic() > end:
            [line] = found
            return line
        time.sleep(0.1)


def paste(line: str, python: str) -> str:
    """Runs a line in a shell whose `python` is the given one."""
    folder = str(Path(python).parent)
    variables = {**environment(), "PATH": os.pathsep.join([folder, os.environ["PATH"]]), "no_proxy": "*"}
    if "openai" in line:
        del variables["PYTHONPATH"]  # the openai client comes alone
    done = subprocess.run(["bash", "-c", line], env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_line_answers(stack: Stack) -> None:
    if shutil.which("curl") is None:
        pytest.fail("curl is not on PATH")
    assert "12 + 30 = 42" in paste(example(stack, "curl ", "/v1/chat/completions"), sys.executable)


def test_the_grpc_line_answers(stack: Stack) -> None:
    assert paste(example(stack, "python -c", "import grpc"), sys.executable).strip() == "12 + 30 = 42"


@pytest.mark.clients
@pytest.mark.parametrize("client", ["openai3", "openai2"])
def test_the_openai_line_answers(stack: Stack, client: str) -> None:
    assert paste(example(stack, "python -c", "import openai"), python_of(client)).strip() == "12 + 30 = 42"


@pytest.mark.clients
def test_the_lines_of_a_server_with_keys_answer_when_the_key_is_in_the_environment(
    keyed: Stack,
) -> None:
    variable = re.search(r"\$(PYDLLM_\w+)", example(keyed, "curl "))
    assert variable
    for words, python in (
        (("curl ",), sys.executable),
        (("python", "import grpc"), sys.executable),
        (("python", "import openai"), python_of("openai3")),
    ):
        line = f"export {variable[1]}={KEY}; {example(keyed, *words)}"
        assert "12 + 30 = 42" in paste(line, python)
        assert KEY not in keyed.errors()
