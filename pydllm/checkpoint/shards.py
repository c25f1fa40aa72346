"""Which safetensors files hold the weights. Pickles are never opened."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydllm.checkpoint.strict_json import file_label, parse_object, read_object, shown
from pydllm.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_INDEX_LIMIT = 16 << 20  # about 150,000 tensors
_HEADER_LIMIT = 32 << 20  # bytes read here; the core itself takes headers up to the format's 100 MB
_NUMBERED = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}\.safetensors", re.ASCII)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NAMES_SHOWN = 8


def find_shards(directory: Path) -> tuple[Path, ...]:
    """model.safetensors, else the shards of the index, else a complete numbered set; else CheckpointError."""
    if (directory / SINGLE_FILE).exists():
        return (directory / SINGLE_FILE,)
    if (directory / INDEX_FILE).exists():
        return _indexed(directory)
    return _numbered(directory)


def stored_weight_dtype(shards: Iterable[Path]) -> str | None:
    """The dtype of the first float tensor in header order; None when there is none."""
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    for shard in shards:
        for entry in read_header(shard).values():
            dtype = entry.get("dtype") if isinstance(entry, dict) else None
            if isinstance(dtype, str) and dtype in names:
                return names[dtype]
    return None


def read_header(path: Path) -> dict[str, Any]:
    """Tensor names and entries of a safetensors header. The core checks it in full; here only its JSON is."""
    name = file_label(path.name)
    try:
        if not path.is_file():
            raise CheckpointError(f"{name}: expected a regular file")
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _HEADER_LIMIT:
                raise CheckpointError(f"{name}: expected a header of at most {_HEADER_LIMIT} bytes, got {length}")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{name}: cannot be read: {error.strerror}") from None
    if len(text) < length:
        raise CheckpointError(f"{name}: the header needs {length} bytes, the file has {len(text)} (truncated?)")
    header = parse_object(text, file=name)
    header.pop("__metadata__", None)
    return header


def _names(names: Iterable[str]) -> str:
    listed = [file_label(name) for name in names]
    more = f" and {len(listed) - _NAMES_SHOWN} more" if len(listed) > _NAMES_SHOWN else ""
    return ", ".join(listed[:_NAMES_SHOWN]) + more


def _indexed(directory: Path) -> tuple[Path, ...]:
    weight_map = _read_index(directory / INDEX_FILE)
    shards = sorted(set(weight_map.values()))
    missing = [name for name in shards if not (directory / name).exists()]
    if missing:
        raise CheckpointError(f"{INDEX_FILE}: missing shards: {_names(missing)}")
    _check_places(weight_map, {name: read_header(directory / name) for name in shards})
    return tuple(directory / name for name in shards)


def _read_index(path: Path) -> dict[str, str]:
    index = read_object(path, limit=_INDEX_LIMIT)
    unknown = sorted(set(index) - {"metadata", "weight_map"})
    if unknown:
        raise CheckpointError(f"{INDEX_FILE}: expected metadata and weight_map, got {shown(unknown[0])}")
    if not isinstance(index.get("metadata", {}), dict):
        raise CheckpointError(f"{INDEX_FILE}: metadata: expected an object, got {shown(index['metadata'])}")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{INDEX_FILE}: weight_map: expected tensor names to shard names, got {shown(weight_map)}"
        )
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not _PLAIN.fullmatch(shard):
            expected = "a plain *.safetensors file name"
            raise CheckpointError(f"{INDEX_FILE}: tensor {shown(tensor)}: expected {expected}, got {shown(shard)}")
    return weight_map


def _check_places(weight_map: dict[str, str], headers: dict[str, dict[str, Any]]) -> None:
    for tensor, shard in weight_map.items():
        if tensor in headers[shard]:
            continue
        elsewhere = [name for name, header in headers.items() if tensor in header]
        found = f"it is in {_names(elsewhere)}" if elsewhere else "it is in no shard"
        raise CheckpointError(f"{INDEX_FILE}: tensor {shown(tensor)}: expected in {shard}, {found}")


def _numbered(directory: Path) -> tuple[Path, ...]:
    names = sorted(entry.name for entry in directory.iterdir())
    numbered = [match for name in names if (match := _NUMBERED.fullmatch(name))]
    if not numbered:
        _refuse_without_shards(names)
    totals = sorted({int(match[2]) for match in numbered})
    if len(totals) > 1:
        raise CheckpointError(f"weights: expected one set of shards, got sets of {_names(map(str, totals))}")
    total = totals[0]
    present = {int(match[1]) for match in numbered}
    if max(present) > total or min(present) < 1:
        raise CheckpointError(
            f"weights: expected shards 1 to {total}, got shard {max(present - set(range(1, total + 1)))}"
        )
    if len(present) < total:
        missing = (f"model-{i:05d}-of-{total:05d}.safetensors" for i in range(1, total + 1) if i not in present)
        raise CheckpointError(f"weights: missing shards: {_names(missing)}")
    return tuple(directory / match[0] for match in numbered)


def _refuse_without_shards(names: list[str]) -> None:
    others = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(_PICKLES)]
    expected = f"{SINGLE_FILE}, {INDEX_FILE} or model-00001-of-0000N.safetensors"
    if others:
        raise CheckpointError(f"weights: expected {expected}, got {_names(others)}")
    if pickles:
        raise CheckpointError(
            f"weights: only pickle files ({_names(pickles)}), which can run code: convert them to safetensors"
        )
    raise CheckpointError(f"weights: expected {expected}, found none")
