"""Hostile weight files through the core: each is refused in one line, or loads; nothing crashes or hangs."""

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_writer import TINY, tiny_tensors, write_tiny
from safetensors.numpy import save, save_file

from pydllm import _core
from pydllm.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return open_checkpoint(write_tiny(tmp_path_factory.mktemp("tiny"))).config


@pytest.fixture(scope="module")
def valid() -> bytes:
    return save(tiny_tensors())


def header_and_data(file: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", file[:8])
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def assemble(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refusal(config: dict[str, Any], path: Path) -> str:
    with pytest.raises(_core.InvalidCheckpoint) as caught:
        _core.load_model(config, [str(path)], threads=1)
    message = str(caught.value)
    assert "\n" not in message
    assert "/" not in message
    assert len(message) < 500
    return message


Change = Callable[[dict[str, Any], bytes], bytes]
WTE = "model.transformer.wte.weight"


def with_entry(**fields: Any) -> Change:
    """One tensor's entry changed; `...` removes a field."""

    def change(header: dict[str, Any], data: bytes) -> bytes:
        entry = {**header[WTE], **fields}
        header[WTE] = {name: value for name, value in entry.items() if value is not ...}
        return assemble(header, data)

    return change


def with_text(old: bytes, new: bytes) -> Change:
    def change(header: dict[str, Any], data: bytes) -> bytes:
        text = json.dumps(header).encode()
        assert old in text
        return assemble(text.replace(old, new, 1), data)

    return change


HOSTILE: dict[str, tuple[Change, str]] = {
    "empty file": (lambda h, d: b"", "expected at least 8 bytes"),
    "header length zero": (lambda h, d: struct.pack("<Q", 0) + d, "expected '{'"),
    "header length huge": (lambda h, d: struct.pack("<Q", 2**64 - 1) + d, "expected a header of at most"),
    "header length beyond file": (lambda h, d: struct.pack("<Q", 10**6) + d, "truncated"),
    "git lfs pointer": (
        lambda h, d: b"version https://git-lfs.github.com/spec/v1\n",
        "expected a header of at most",
    ),
    "pickle": (lambda h, d: b"\x80\x02cos\nsystem\nq\x00.", "expected a header of at most"),
    "header is a list": (lambda h, d: assemble([h], d), "expected '{'"),
    "not utf-8": (with_text(b"wte", b"w\xffe"), "UTF-8"),
    "duplicate tensor": (with_text(b"ln_f.weight", b"wte.weight"), "duplicate key"),
    "deep nesting": (lambda h, d: assemble(b'{"a":' + b"[" * 10**6, d), "expected '{'"),
    "metadata number": (lambda h, d: assemble({**h, "__metadata__": {"a": 1}}, d), "expected a string"),
    "metadata list": (lambda h, d: assemble({**h, "__metadata__": []}, d), "expected '{'"),
    "no dtype": (with_entry(dtype=...), "needs dtype, shape and data_offsets"),
    "dtype unknown": (with_entry(dtype="F128"), "unknown dtype 'F128'"),
    "extra field": (with_entry(strides=[1]), "got 'strides'"),
    "shape negative": (with_entry(shape=[-8, 4]), "expected an integer >= 0"),
    "shape overflows": (with_entry(shape=[2**62, 2**62]), "no possible size"),
    "shape beyond int64": (with_entry(shape=[2**64, 4]), "below 2^64"),
    "shape other size": (with_entry(shape=[8, 5]), "needs 160 bytes, has 128"),
    "shape transposed": (with_entry(shape=[4, 8]), "expected shape [8, 4], got [4, 8]"),
    "dtype other size": (with_entry(dtype="F64"), "needs 256 bytes, has 128"),
    "dtype integer": (with_entry(dtype="I32"), "expected F32, BF16 or F16, got I32"),
    "offsets reversed": (with_entry(data_offsets=[128, 0]), "not within"),
    "offsets negative": (with_entry(data_offsets=[-128, 0]), "expected an integer >= 0"),
    "offsets beyond file": (with_entry(data_offsets=[2**40, 2**40 + 128]), "not within"),
    "offsets overlap": (with_entry(data_offsets=[0, 128]), "no overlap, no gap"),
    "offsets float": (with_entry(data_offsets=[0.0, 128.0]), "fraction"),
    "trailing data": (lambda h, d: assemble(h, d + b"x"), "the file has"),
    "truncated data": (lambda h, d: assemble(h, d[:-1]), "not within"),
    "renamed tensor": (with_text(b"wte.weight", b"wtf.weight"), "missing, expected shape [8, 4]"),
    "escape sequence in name": (
        with_text(b"wte.weight", b"\\u001b[2J\\nx"),
        "missing, expected shape [8, 4]",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_refused_in_one_line(tmp_path: Path, config: dict[str, Any], valid: bytes, case: str) -> None:
    change, part = HOSTILE[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(change(*header_and_data(valid)))
    assert part in refusal(config, path)


def test_the_unchanged_file_loads(tmp_path: Path, config: dict[str, Any], valid: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(assemble(*header_and_data(valid)))
    info = _core.load_model(config, [str(path)], threads=1).info
    assert info.parameter_count == sum(values.size for values in tiny_tensors().values())
    assert info.architecture == "LLaDAModelLM"


def test_special_files_are_refused_without_waiting(tmp_path: Path, config: dict[str, Any]) -> None:
    assert "cannot be opened" in refusal(config, tmp_path / "absent.safetensors")
    assert "regular file" in refusal(config, tmp_path)
    os.mkfifo(tmp_path / "fifo.safetensors")
    assert "regular file" in refusal(config, tmp_path / "fifo.safetensors")
    assert "regular file" in refusal(config, Path("/dev/zero"))


def test_extra_tensors_are_named_unless_allowed(tmp_path: Path, config: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    save_file({**tiny_tensors(), "z.extra": np.zeros(2, np.int64)}, path)
    assert refusal(config, path) == "expected no other tensors, got z.extra"
    assert _core.load_model(config, [str(path)], threads=1, allow_unused=True).info.vocab_size == 8


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(tiny_tensors(), tmp_path / name)
    with pytest.raises(_core.InvalidCheckpoint, match=r"stands in a\.safetensors and b\.safetensors"):
        _core.load_model(config, [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")], threads=1)


def test_progress_reaches_the_total(tmp_path: Path, config: dict[str, Any]) -> None:
    progress = _core.LoadProgress()
    _core.load_model(config, open_checkpoint(write_tiny(tmp_path)).shards, threads=1, progress=progress)
    assert progress.bytes_done == progress.bytes_total > 0


def mutated(file: bytes, source: random.Random, header_end: int) -> bytes:
    out = bytearray(file)
    for _ in range(source.randint(1, 3)):
        at = source.randrange(min(header_end, len(out)) or 1)
        match source.randrange(4):
            case 0:
                out[at : at + 1] = bytes([source.randrange(256)])
            case 1:
                out[at:at] = source.choice([b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"-", b"9", b"0", b"e"])
            case 2:
                del out[at : at + source.randint(1, 4)]
            case _:
                other = source.randrange(min(header_end, len(out)) or 1)
                out[at : at + 4] = out[other : other + 4]
    return bytes(out)


def test_mutated_files_load_or_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    source = random.Random(20240607)
    valid = save(tiny_tensors(), metadata={"note": "x" * 500})  # room for changes that do no harm
    (length,) = struct.unpack("<Q", valid[:8])
    path = tmp_path / "model.safetensors"
    messages = []
    for _ in range(2000):
        path.write_bytes(mutated(valid, source, 8 + length))
        try:
            _core.load_model(config, [str(path)], threads=1)
        except _core.InvalidCheckpoint as error:
            messages.append(str(error))
    assert 1000 < len(messages) < 1990
    assert not [message for message in messages if "\n" in message or len(message) > 500]


def test_config_outside_the_core_is_refused_by_field(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_tiny(tmp_path, n_layers=10**6))
    with pytest.raises(_core.InvalidCheckpoint, match=r"num_layers: expected an integer in \[1, 4096\], got 1000000"):
        _core.load_model(checkpoint.config, checkpoint.shards, threads=1)
    assert TINY["n_layers"] == 1
