"""Errors a caller can meet, in Python and, one to one, as gRPC statuses (docs/grpc.md)."""


class PydllmError(Exception):
    """Base class. `str(error)` is one line and names no path or internal."""


class InvalidRequestError(PydllmError, ValueError):
    """A field is out of range, of the wrong type or contradicts another one."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        """The field at fault, dotted as in the proto: "sampling.temperature"."""


class ContextLengthError(InvalidRequestError):
    """Prompt plus max_tokens do not fit the context (or can never fit the page pool)."""

    def __init__(self, field: str, message: str, *, limit: int, given: int) -> None:
        super().__init__(field, message)
        self.limit = limit
        self.given = given


class UnsupportedError(PydllmError):
    """Understood, but this model, algorithm or build cannot honour the field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class ModelNotFoundError(PydllmError):
    """No model is served under this name."""


class QueueFullError(PydllmError):
    """The waiting queue is full; try again later."""


class RequestCancelledError(PydllmError):
    """The request was cancelled."""


class DeadlineExceededError(PydllmError):
    """The deadline passed before the request's first denoising forward: there is no answer to give."""


class EngineStoppedError(PydllmError):
    """The engine is shutting down."""


class DeviceLostError(PydllmError):
    """The device failed under the engine, which serves no more; a new process may."""


class InternalEngineError(PydllmError):
    """The model produced non-finite logits, or a bug."""


class CheckpointError(PydllmError):
    """A checkpoint directory cannot be used: what is wrong, in one line."""
