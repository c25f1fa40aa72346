"""The lines of the README that a new user pastes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ADDRESS = "127.0.0.1:8000"
"""Of the REST gateway in the README."""
QUESTION = "Solve: 12 + 30."
"""What its lines ask."""


class Readme:
    """The lines of README.md in a checkout."""

    def __init__(self, root: Path) -> None:
        self._text = (root / "README.md").read_text(encoding="utf-8")

    def curl(self) -> str:
        """The curl command."""
        return self._found(r"^\$ (curl (?:.*\\\n)*.*)$", re.MULTILINE)

    def openai(self) -> str:
        """The program of the openai client."""
        return self._found(r"```python\n(import openai.*?)```", re.DOTALL)

    def python(self) -> str:
        """The program with the model in its own process."""
        return self._found(r"```python\n(from pydllm.*?)```", re.DOTALL)

    def _found(self, pattern: str, flags: re.RegexFlag) -> str:
        found = re.search(pattern, self._text, flags)
        assert found, f"README.md has nothing like {pattern}"
        return found[1]


def promised(program: str) -> str:
    """What the comment behind the program's print says that it prints."""
    return program.strip().rpartition("#")[2].strip()
