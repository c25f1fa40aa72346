"""A checkpoint that cannot be used ends both commands in one line, exit code 1, within seconds."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable  # noqa: TC003
from pathlib import Path

import pytest
from process import environment

TINY = Path(__file__).parents[1] / "golden/checkpoints/llada-tiny"
LIMIT_SECONDS = 30


def edit_json(name: str, change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        (folder / name).write_text(json.dumps(content))

    return damage


def truncate(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def rename_tensor(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = whole[8 : 8 + length].replace(b"blocks.1.q_proj", b"blocks.1.x_proj")
    (folder / "model.safetensors").write_bytes(whole[:8] + header + whole[8 + length :])


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")


def climbing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.transformer.wte.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"model.transformer.wte.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_tokenizer_and_no_weights(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    truncate(folder)  # never looked at: the tokenizer is missed before any weight is read


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "model.safetensors"),
    "misnamed tensor": (rename_tensor, "blocks.1.q_proj"),
    "pickle only": (only_pickle, "safetensors"),
    "climbing shard": (climbing_shard, "../model.safetensors"),
    "missing shard": (missing_shard, "model-00001-of-00002.safetensors"),
    "no tokenizer": (no_tokenizer_and_no_weights, "tokenizer.json"),
    "unknown architecture": (
        edit_json("config.json", lambda config: config.update(architectures=["GPT2LMHeadModel"])),
        "GPT2LMHeadModel",
    ),
    "wrong shape": (edit_json("config.json", lambda config: config.update(d_model=128)), "shape"),
    "hostile template": (
        edit_json(
            "tokenizer_config.json",
            lambda config: config.update(
                chat_template="{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
            ),
        ),
        "chat template",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("command", ["serve", "generate"])
def test_it_is_refused_in_one_line(command: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    damage, expected = DAMAGE[name]
    damage(folder)
    arguments = ["serve", str(folder), "--grpc-port", "0"] if command == "serve" else ["generate", "x", "--model"]
    start = time.monotonic()
    out = subprocess.run(
        [sys.executable, "-m", "pydllm", *arguments, *([str(folder)] if command == "generate" else [])],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=False,
    )
    assert time.monotonic() - start < LIMIT_SECONDS
    assert (out.returncode, out.stdout) == (1, "")
    errors = [line for line in out.stderr.splitlines() if line.startswith("pydllm ")]
    assert len(errors) == 1
    assert expected in errors[0]
    assert "Traceback" not in out.stderr
