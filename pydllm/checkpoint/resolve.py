"""A model named by a user: a local directory or a Hugging Face Hub id."""

import re
from pathlib import Path

from pydllm.checkpoint.strict_json import file_label
from pydllm.errors import CheckpointError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}(/[A-Za-z0-9][\w.\-]{0,95})?", re.ASCII)
# Data only: neither Python code nor pickles are fetched.
_WANTED = ["*.json", "*.safetensors", "*.jinja"]


def resolve(model: str, *, revision: str | None = None) -> Path:
    """The local directory of a checkpoint; Hub ids are downloaded or taken from the cache.

    HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are respected. `revision` is a branch, tag or commit of
    a Hub id. Raises CheckpointError in one line.
    """
    label = file_label(model)
    try:
        path = Path(model).expanduser()
        is_directory, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError, ValueError):
        raise CheckpointError(f"{label}: no usable path or Hub id") from None
    if is_directory and model:
        if revision is not None:
            raise CheckpointError(f"revision: only a Hub id has revisions, {label} is a directory")
        return path
    if exists and model:
        raise CheckpointError(f"{label}: expected a directory with config.json and safetensors, got a file")
    if not _HUB_ID.fullmatch(model):
        raise CheckpointError(f"{label}: no such directory, and not a Hub id (owner/name)")
    return _snapshot(model, revision)


def _snapshot(model: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(f"{model}: no such directory; Hub ids need the huggingface_hub package") from None
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=_WANTED))
    except Exception as error:  # noqa: BLE001 - HTTP, cache and validation errors of several libraries
        raise CheckpointError(f"{model}: {_hub_reason(error)}") from None


def _hub_reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "access to this Hub repository is gated: accept its terms and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such directory and no such Hub repository (private ones need HF_TOKEN)"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the Hub repository has no such revision"
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return "no such directory, not in the local Hub cache, and the Hub cannot be reached"
    if isinstance(error, errors.HFValidationError):
        return "not a valid Hub id or revision"
    return f"download from the Hub failed ({type(error).__name__})"
