"""Clients that know nothing but the contract stream an answer from a server process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from process import ServerProcess, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

PROMPT = "Solve: 12 + 30."
ANSWER = "12 + 30 = 42"


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess() as process:
        yield process


def test_python_client_streams_an_answer_with_the_stubs_alone(server: ServerProcess, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "proto/python/pydllm_proto", tmp_path / "pydllm_proto")
    shutil.copy(HERE / "python_client.py", tmp_path)
    command = [sys.executable, "python_client.py", server.address, PROMPT]
    variables = environment(PYTHONPATH=str(tmp_path))
    out = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert (out.returncode, out.stdout.strip()) == (0, ANSWER), out.stderr


def test_the_lock_file_pins_contents_and_names_no_host() -> None:
    lock = json.loads((HERE / "ts/package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert "node_modules/@grpc/grpc-js" in packages
    for name, entry in packages.items():
        assert entry["integrity"].startswith("sha512-"), name
        assert "resolved" not in entry, name
    assert "http" not in json.dumps({name: {**entry, "funding": ""} for name, entry in packages.items()})


@pytest.mark.slow
@pytest.mark.clients
def test_typescript_client_streams_an_answer_from_the_proto_files(server: ServerProcess, tmp_path: Path) -> None:
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is not on PATH: install Node.js 18 or newer (or deselect with -m 'not clients')")
    project = tmp_path / "ts"
    shutil.copytree(HERE / "ts", project, ignore=shutil.ignore_patterns("node_modules", "build"))
    _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], project)
    _run(["npm", "run", "--silent", "build"], project)
    out = _run(["node", "build/client.js", str(ROOT / "proto"), server.address, PROMPT], project)
    assert out.strip() == ANSWER


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout
