"""The client environments of `make clients`, and how their scripts are run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / "build" / "clients"


def python_of(environment: str) -> str:
    """The interpreter of build/clients/ENVIRONMENT."""
    path = ENVIRONMENTS / environment / "bin" / "python"
    if not path.exists():
        pytest.fail(f"build/clients/{environment} is missing: run `make clients` (or deselect with -m 'not clients')")
    return str(path)


def clean_environment(**variables: str) -> dict[str, str]:
    """Without this project on the path, proxies, keys or anything else that a client might pick up."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**kept, **offline, "PYTHONUNBUFFERED": "1", **variables}


def run(environment: str, *arguments: str, folder: str = "clients", timeout: float = 300, **variables: str) -> str:
    """Standard output of the environment's Python, run in a folder here; it must succeed."""
    done = subprocess.run(
        [python_of(environment), *arguments],
        cwd=HERE / folder,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


@cache
def outcomes(environment: str, script: str, setting: str) -> dict[str, Any]:
    """What every check of a script came to, in one run."""
    found: dict[str, Any] = json.loads(run(environment, script, setting).splitlines()[-1])
    return found


def checks_of(script: str) -> list[str]:
    """The names of a script's checks, without running it."""
    tree = ast.parse((HERE / "clients" / script).read_text())
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and "check" in [ast.unparse(d) for d in node.decorator_list]
    ]
