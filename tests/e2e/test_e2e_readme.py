"""The README's lines print what the README says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from environments import clean_environment, python_of
from readme_lines import ADDRESS, QUESTION, Readme, promised
from stack import ROOT, environment

if TYPE_CHECKING:
    from stack import Stack

README = Readme(ROOT)


def pasted(stack: Stack, *command: str, alone: bool = False) -> str:
    """The output of a command, with this server's address in it; `alone`: without this project on the path."""
    words = [word.replace(ADDRESS, stack.http) for word in command]
    variables = {**(clean_environment() if alone else environment()), "no_proxy": "*"}
    done = subprocess.run(words, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(("question", "answers"), [(QUESTION, ["12 + 30 = 42"]), ("Hello!", ["Hello! ", "Hi there! "])])
def test_the_curl_line_answers(stack: Stack, question: str, answers: list[str]) -> None:
    reply = json.loads(pasted(stack, "bash", "-c", README.curl().replace(QUESTION, question)))
    [choice] = reply["choices"]
    assert any(choice["message"]["content"].startswith(answer) for answer in answers)


@pytest.mark.clients
@pytest.mark.parametrize("client", ["openai3", "openai2"])
def test_the_openai_program_prints_what_it_says(stack: Stack, client: str) -> None:
    program = README.openai()
    assert pasted(stack, python_of(client), "-c", program, alone=True) == promised(program) == "12 + 30 = 42 9.0"


def test_the_python_program_prints_what_it_says(stack: Stack) -> None:
    program = README.python()
    assert pasted(stack, sys.executable, "-c", program) == promised(program) == "12 + 30 = 42 9.0"
