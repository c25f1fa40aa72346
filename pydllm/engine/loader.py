"""From a checkpoint to a running core engine."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydllm import _core, nvidia_wheels
from pydllm.checkpoint import Checkpoint, open_checkpoint, resolve
from pydllm.embedded import embedded_directory, embedded_name
from pydllm.engine.config import EngineConfig
from pydllm.engine.facts import ModelFacts, find_algorithm
from pydllm.engine.failures import load_error
from pydllm.engine.memory import available_memory, kv_pages
from pydllm.errors import CheckpointError, InvalidRequestError, PydllmError, UnsupportedError
from pydllm.params import MAX_CANDIDATES, ParamScalar, shown

if TYPE_CHECKING:
    from pathlib import Path

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while the weights are packed, and once at the end."""

PROGRESS_SECONDS = 0.1
EDITS_BY_CONTROL_TOKENS = "levenshtein"
"""The algorithm of checkpoints that have a DELETE and a SPLIT."""


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A checkpoint whose files are there and whose configuration is understood; no weight has been read yet."""

    checkpoint: Checkpoint
    config: EngineConfig
    facts: ModelFacts


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A running core engine and what is known of its model. Owned by the AsyncEngine or Engine made of it."""

    core: _core.Engine
    checkpoint: Checkpoint
    config: EngineConfig
    facts: ModelFacts
    info: _core.ModelInfo
    matmul: str
    """Who multiplies bfloat16 matrices on a CUDA device: "cublaslt VERSION (where)", or "builtin" and why."""


def find(
    model: str | os.PathLike[str] | None = None, config: EngineConfig | None = None, *, revision: str | None = None
) -> FoundModel:
    """Finds a checkpoint and checks all but its weights, so that a missing tokenizer or a wrong option is known
    before gigabytes are read: a directory, "demo" (as None) or "demo-block", or a Hugging Face id.

    Raises CheckpointError, InvalidRequestError (an option) or UnsupportedError, in one line.
    """
    config = config or EngineConfig()
    checkpoint = open_checkpoint(
        _directory(model, revision),
        dtype=config.dtype,
        mask_token_id=config.mask_token_id,
        block_length=config.block_length,
        name=embedded_name(model),
    )
    return FoundModel(checkpoint=checkpoint, config=config, facts=_facts(checkpoint, config))


def start(found: FoundModel, *, progress: Progress | None = None) -> LoadedModel:
    """Loads the weights of a checkpoint and starts its engine. Raises CheckpointError or InvalidRequestError."""
    try:
        matmul = _matmul(found.checkpoint, found.config)
        weights = _load_weights(found.checkpoint, found.config, progress)
        info = weights.info
        core = _start(weights, found.facts, found.config, matmul)
    except _core.CoreError as error:
        raise load_error(error) from None
    except MemoryError:
        raise PydllmError("not enough memory for the model and its K/V pages") from None
    return LoadedModel(
        core=core,
        checkpoint=found.checkpoint,
        config=found.config,
        facts=found.facts,
        info=info,
        matmul=matmul.description,
    )


def load(
    model: str | os.PathLike[str] | None = None,
    config: EngineConfig | None = None,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
) -> LoadedModel:
    """`find` and `start` in one."""
    return start(find(model, config, revision=revision), progress=progress)


def _directory(model: str | os.PathLike[str] | None, revision: str | None) -> Path:
    embedded = embedded_name(model)
    if embedded is not None:
        if revision is not None:
            raise CheckpointError(f"revision: only a Hub id has revisions, {embedded} is embedded")
        return embedded_directory(embedded)
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise InvalidRequestError("model", f"model: expected a directory or a Hugging Face id, got {shown(model)}")
    return resolve(name, revision=revision)


def _facts(checkpoint: Checkpoint, config: EngineConfig) -> ModelFacts:
    architecture = next((known for known in _core.architectures() if known.name == checkpoint.architecture), None)
    if architecture is None:
        names = ", ".join(known.name for known in _core.architectures())
        raise CheckpointError(f"config.json: architectures: expected one of {names}, got {checkpoint.architecture}")
    can_run = _algorithms(architecture, checkpoint)
    default = _default_algorithm(architecture.name, can_run, config.algorithm)
    attention = "block_causal" if checkpoint.block_length else "full"
    defaults = checkpoint.generation_defaults
    block_length = checkpoint.block_length or config.block_length
    if block_length is not None:
        defaults = dataclasses.replace(defaults, block_length=block_length)
    return ModelFacts(
        architecture=checkpoint.architecture,
        attention=attention,
        vocab_size=checkpoint.vocab_size,
        max_model_len=_max_model_len(checkpoint, config),
        mask_token_id=checkpoint.mask_token_id,
        control_token_ids=_control_token_ids(checkpoint),
        eos_token_ids=checkpoint.eos_token_ids,
        default_algorithm=default,
        algorithms=(default, *(name for name in can_run if name != default)),
        algorithm_params=_algorithm_params(default, attention, config),
        max_candidates=min(MAX_CANDIDATES, config.max_waiting_requests),
        defaults=defaults,
    )


def _control_token_ids(checkpoint: Checkpoint) -> tuple[int, int] | None:
    if checkpoint.delete_token_id is None or checkpoint.split_token_id is None:
        return None
    return checkpoint.delete_token_id, checkpoint.split_token_id


def _algorithms(architecture: _core.ArchitectureInfo, checkpoint: Checkpoint) -> list[str]:
    """What the checkpoint can run, its default first: one with control tokens is trained to edit by them."""
    names = [name for name in architecture.algorithms if name != EDITS_BY_CONTROL_TOKENS]
    if EDITS_BY_CONTROL_TOKENS in architecture.algorithms and _control_token_ids(checkpoint) is not None:
        return [EDITS_BY_CONTROL_TOKENS, *names]
    return [architecture.default_algorithm, *(name for name in names if name != architecture.default_algorithm)]


def _default_algorithm(architecture: str, can_run: list[str], wanted: str) -> str:
    known = find_algorithm(wanted or can_run[0])
    names = ", ".join(can_run)
    if known is None:
        raise InvalidRequestError("algorithm", f"algorithm: expected one of {names}, got {shown(wanted)}")
    if known.name not in can_run:
        message = f"algorithm: {architecture} cannot run {shown(wanted)}, expected one of {names}"
        raise UnsupportedError("algorithm", message)
    return known.name


def _algorithm_params(algorithm: str, attention: str, config: EngineConfig) -> dict[str, ParamScalar]:
    """The option's entries under their own names; InvalidRequestError("algorithm_params.NAME") for a wrong one."""
    try:
        checked = _core.check_params(algorithm, config.algorithm_params, attention=attention)
    except _core.CoreError as error:  # "NAME: what is wrong", with the request's path of the parameter as field
        path = "algorithm_params." + error.field.removeprefix("diffusion.").removeprefix("extra.")
        raise InvalidRequestError(path, f"{path}: {str(error).partition(': ')[2]}") from None
    if "block_length" in checked and config.block_length is not None:
        path = "algorithm_params.block_length"
        raise InvalidRequestError(path, f"{path}: the option block_length is set as well")
    return checked


def _max_model_len(checkpoint: Checkpoint, config: EngineConfig) -> int:
    given, most = config.max_model_len, checkpoint.max_positions
    if given is None:
        return most
    if given > most:
        message = f"max_model_len: expected at most the model's {most} positions, got {given}"
        raise InvalidRequestError("max_model_len", message)
    return given


def _device(config: EngineConfig) -> str:
    return "cpu" if config.device == "auto" else config.device


def _matmul(checkpoint: Checkpoint, config: EngineConfig) -> _core.Matmul:
    return _core.choose_matmul(
        config.matmul,
        device=_device(config),
        dtype=checkpoint.config["dtype"],
        wheel_folders=nvidia_wheels.library_folders(),
    )


def _load_weights(checkpoint: Checkpoint, config: EngineConfig, progress: Progress | None) -> _core.Model:
    counter = _core.LoadProgress()
    with _reporting(counter, progress):
        return _core.load_model(
            checkpoint.config,
            checkpoint.shards,
            device=_device(config),
            threads=config.threads,
            allow_unused=config.allow_unused_tensors,
            progress=counter,
        )


class _reporting:  # noqa: N801 - used like a function
    """Calls `progress` every tenth of a second from a thread of its own, and once more at a successful
    end."""

    def __init__(self, counter: _core.LoadProgress, progress: Progress | None) -> None:
        self._counter = counter
        self._progress = progress
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pydllm-load-progress", daemon=True)

    def __enter__(self) -> None:
        if self._progress is not None:
            self._thread.start()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._progress is None:
            return
        self._done.set()
        self._thread.join()
        if kind is None:
            self._report()

    def _run(self) -> None:
        while not self._done.wait(PROGRESS_SECONDS):
            self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(self._counter.bytes_done, self._counter.bytes_total)


def _whole_blocks(positions: int, block_length: int) -> int:
    """What a context takes of the pages: block-causal models denoise the last block whole."""
    return -(-positions // block_length) * block_length if block_length else positions


def _start(weights: _core.Model, facts: ModelFacts, config: EngineConfig, matmul: _core.Matmul) -> _core.Engine:
    pages = kv_pages(
        config,
        max_model_len=_whole_blocks(facts.max_model_len, weights.info.block_length),
        bytes_per_position=weights.info.kv_bytes_per_position,
        available=available_memory() if weights.info.device == "cpu" else _core.device_memory(weights.info.device)[0],
    )
    delete_token_id, split_token_id = facts.control_token_ids or (-1, -1)
    options = {
        "max_model_len": facts.max_model_len,
        "max_batched_tokens": config.max_batched_tokens,
        "max_running_requests": config.max_running_requests,
        "max_waiting_requests": config.max_waiting_requests,
        "page_size": config.page_size,
        "pages": pages,
        "max_logit_rows": config.max_logit_rows,
        "mask_token_id": facts.mask_token_id,
        "delete_token_id": delete_token_id,
        "split_token_id": split_token_id,
        "debug_checks": config.debug_checks,
    }
    return _core.Engine(weights, options, threads=config.threads, matmul=matmul)
