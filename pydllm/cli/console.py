"""What commands write beside their result: error lines and loading progress, on stderr."""

from __future__ import annotations

import sys

from pydllm.console import Report, loading

__all__ = ["FAILED", "INTERRUPTED", "OK", "USAGE", "Report", "fail", "loading"]

OK = 0
FAILED = 1
"""The checkpoint, the model or a request failed."""
USAGE = 2
"""Flags, environment, configuration file, address: nothing was attempted."""
INTERRUPTED = 130


def fail(command: str, message: object, code: int) -> int:
    """Prints one line and returns the exit code."""
    line = " ".join(str(message).split())
    print(f"pydllm {command}: {line}", file=sys.stderr)
    return code
