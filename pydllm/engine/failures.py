"""The core's errors and failed events as the errors of pydllm.errors."""

from __future__ import annotations

from pydllm import _core
from pydllm.errors import (
    CheckpointError,
    DeadlineExceededError,
    DeviceLostError,
    EngineStoppedError,
    InternalEngineError,
    InvalidRequestError,
    PydllmError,
    QueueFullError,
    RequestCancelledError,
    UnsupportedError,
)


def request_error(error: _core.CoreError) -> PydllmError:
    """What a refused submission means to the caller."""
    # How the prompt was given (text, ids, chat) is the caller's to know.
    field = "prompt" if error.field.startswith("prompt_token_ids") else error.field
    message = _with_path(str(error), error.field)
    if isinstance(error, _core.InvalidRequest):
        return InvalidRequestError(field, message)
    if isinstance(error, _core.Unsupported):
        return UnsupportedError(field, message)
    if isinstance(error, _core.ResourceExhausted):
        return QueueFullError(message)
    return InternalEngineError(message)


def load_error(error: _core.CoreError) -> PydllmError:
    """What a refused checkpoint or engine option means to the caller."""
    if isinstance(error, _core.InvalidCheckpoint):
        return CheckpointError(_with_path(str(error), error.field))
    if isinstance(error, _core.InvalidRequest):
        return InvalidRequestError(error.field, str(error))
    if isinstance(error, _core.Unsupported):
        return UnsupportedError(error.field, str(error))
    if isinstance(error, _core.ResourceExhausted):
        return PydllmError(f"not enough memory: {error}")
    return InternalEngineError(str(error))


def _with_path(message: str, field: str) -> str:
    """The message, starting with the field (or its last part, as the core writes some) once."""
    named = message.startswith(field) or not field
    return message if named else f"{field}: {message.removeprefix(field.rpartition('.')[2] + ':').lstrip()}"


def failure(event: _core.Event) -> PydllmError:
    """The error of a "failed" event."""
    kinds: dict[str, type[PydllmError]] = {
        "cancelled": RequestCancelledError,
        "deadline_exceeded": DeadlineExceededError,
        "device_lost": DeviceLostError,
        "shutdown": EngineStoppedError,
    }
    kind = kinds.get(event.fail_reason, InternalEngineError)
    return kind(event.message or f"the request ended: {event.fail_reason.replace('_', ' ')}")
