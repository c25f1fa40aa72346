"""One checkpoint directory, checked and described."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydllm.checkpoint.config import has_control_tokens, model_config, read_config, refuse_unknown, stored_dtype
from pydllm.checkpoint.generation import GenerationDefaults, generation_defaults, read_generation, token_ids
from pydllm.checkpoint.shards import find_shards, stored_weight_dtype
from pydllm.checkpoint.strict_json import file_label
from pydllm.errors import CheckpointError

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What the rest of the engine needs to know of a checkpoint. No weight has been read yet."""

    path: Path
    name: str
    """How clients call the model: the directory's name unless given."""
    architecture: str
    config: dict[str, Any]
    """Exactly the fields of core/models/config.h, dtype included."""
    shards: list[str]
    """Paths of the safetensors files."""
    dtype: str
    """What the weights are stored as in memory: float32, bfloat16 or float16."""
    mask_token_id: int
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    bos_token_id: int | None
    generation_defaults: GenerationDefaults
    has_tokenizer: bool
    """tokenizer.json is there."""
    delete_token_id: int | None = None
    """Control tokens of a model that edits by them (LLaDA2.2), both or none."""
    split_token_id: int | None = None

    @property
    def vocab_size(self) -> int:
        """Columns of the logits; token ids are below it."""
        return int(self.config["vocab_size"])

    @property
    def max_positions(self) -> int:
        """Prompt and generated tokens together; whole blocks where attention is block-causal."""
        positions = int(self.config["max_positions"])
        return positions - positions % self.block_length if self.block_length > 0 else positions

    @property
    def block_length(self) -> int:
        """Of block-causal attention; 0 with full attention."""
        return int(self.config["block_length"])


def open_checkpoint(
    directory: Path,
    *,
    dtype: str = "auto",
    mask_token_id: int | None = None,
    block_length: int | None = None,
    name: str | None = None,
) -> Checkpoint:
    """Reads and checks everything but the weights.

    dtype "auto" is config.json's torch_dtype, else the type of the first weight. mask_token_id and block_length (of
    block-causal models) win over the files'. Raises CheckpointError, one
    line that names file and field.
    """
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype: expected {', '.join(DTYPES)}, got {file_label(str(dtype))}")
    if not directory.is_dir():
        raise CheckpointError(f"{file_label(str(directory))}: expected a directory")
    config = read_config(directory)
    values = model_config(config, block_length=block_length)
    declared = stored_dtype(config)
    generation = read_generation(directory)
    ids = token_ids(
        config,
        generation,
        vocab_size=values["vocab_size"],
        mask_token_id=mask_token_id,
        control_tokens=has_control_tokens(config),
    )
    refuse_unknown(config)
    shards = find_shards(directory)
    chosen = dtype if dtype != "auto" else declared or _weight_dtype(shards)
    return Checkpoint(
        path=directory,
        name=name or directory.resolve().name,
        architecture=values["architecture"],
        config={**values, "dtype": chosen},
        shards=[str(shard) for shard in shards],
        dtype=chosen,
        mask_token_id=ids.mask,
        eos_token_ids=ids.eos,
        pad_token_id=ids.pad,
        bos_token_id=ids.bos,
        delete_token_id=ids.delete,
        split_token_id=ids.split,
        generation_defaults=generation_defaults(generation),
        has_tokenizer=(directory / "tokenizer.json").is_file(),
    )


def _weight_dtype(shards: tuple[Path, ...]) -> str:
    found = stored_weight_dtype(shards)
    if found is None:
        raise CheckpointError(
            "dtype: auto found neither torch_dtype in config.json nor a float32, bfloat16 or float16 weight"
        )
    return found
