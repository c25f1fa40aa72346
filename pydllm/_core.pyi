"""The C++ core (core/bind). Blocking calls release the GIL; of Python objects the C++ side keeps only the
producers of imported tensors."""

# ruff: noqa: N818 - the names of core/base/errors.h; pydllm.errors has the public ones

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

class CoreError(Exception):
    """Base of the core's errors. `field` is the request field, tensor or file at fault ("" when none applies)."""

    field: str

class InvalidRequest(CoreError): ...
class Unsupported(CoreError): ...
class ResourceExhausted(CoreError): ...
class InvalidCheckpoint(CoreError): ...
class DeviceLost(CoreError): ...
class InternalError(CoreError): ...

class Tensor:
    """A contiguous row-major tensor that speaks DLPack (torch.from_dlpack, numpy.from_dlpack) and, on a GPU,
    __cuda_array_interface__ (cupy.asarray, torch.as_tensor). An exported tensor is complete: no stream has to wait."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...
    @staticmethod
    def from_dlpack(producer: object) -> Tensor:
        """A view of another framework's CPU or CUDA tensor, which lives as long as any view.

        Waits until a CUDA tensor is complete. ValueError for non-contiguous, misaligned, foreign-device or
        unknown-dtype ones.
        """
    @staticmethod
    def from_cuda_array_interface(producer: object, *, device: int | None = None) -> Tensor:
        """The same through __cuda_array_interface__ (versions 2 and 3), which has no bfloat16 and no device.

        device: the number of the CUDA device; None asks the driver whose memory it is.
        """
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3. AttributeError for a CPU tensor and for bfloat16."""
    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class LoadProgress:
    """Bytes packed so far; read it from another thread while `load_model` runs."""

    def __init__(self) -> None: ...
    @property
    def bytes_total(self) -> int: ...
    @property
    def bytes_done(self) -> int: ...

class ModelInfo:
    @property
    def architecture(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def max_positions(self) -> int: ...
    @property
    def attention(self) -> str:
        """ "full" or "block_causal"."""
    @property
    def block_length(self) -> int:
        """Of block-causal attention; 0 with full attention."""
    @property
    def logit_shift(self) -> bool: ...
    @property
    def parameter_count(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def weight_dtype(self) -> str: ...
    @property
    def kv_bytes_per_position(self) -> int: ...

class Model:
    """Weights, packed for this machine. Consumed by the Engine that takes it; using it afterwards is InvalidRequest."""

    @property
    def info(self) -> ModelInfo: ...

def load_model(
    config: Mapping[str, object],
    shards: Sequence[str] = (),
    *,
    tensors: Mapping[str, object] | None = None,
    device: str = "cpu",
    threads: int = 0,
    allow_unused: bool = False,
    progress: LoadProgress | None = None,
) -> Model:
    """Builds a model from safetensors shards, or from `tensors` that other libraries hold on the CPU or on `device`, by
    their names in a checkpoint (anything with DLPack). Of these, matrices on a CUDA `device` that have the model's
    dtype are shared: nobody may write to them while the model lives. `progress` counts bytes of files. `config` has
    exactly the fields of core/models/config.h (dtype by name).

    Raises InvalidCheckpoint naming the tensor, file or config field at fault; InvalidRequest for unknown, missing or
    mistyped config fields; Unsupported("device") when this process cannot compute there; ResourceExhausted when the
    device's memory is too small.
    """

def device_memory(device: str) -> tuple[int, int]:
    """(free, total) bytes of a CUDA device. Raises Unsupported("device")."""

class BlockDone:
    @property
    def block_index(self) -> int: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def denoise_steps(self) -> int: ...

class Event:
    """core/engine/request.h: Event. Enumerations are strings."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str:
        """ "started", "step", "finished" or "failed"."""
    @property
    def time(self) -> float: ...
    @property
    def forward_passes(self) -> int: ...
    @property
    def denoise_steps(self) -> int: ...
    @property
    def edited_tokens(self) -> int: ...
    @property
    def queue_seconds(self) -> float: ...
    @property
    def final_offset(self) -> int: ...
    @property
    def final_tokens(self) -> list[int]: ...
    @property
    def blocks(self) -> list[BlockDone]: ...
    @property
    def snapshot_block(self) -> int: ...
    @property
    def snapshot_step(self) -> int: ...
    @property
    def snapshot_offset(self) -> int: ...
    @property
    def snapshot_tokens(self) -> list[int]: ...
    @property
    def snapshot_confidences(self) -> list[float]: ...
    @property
    def canvas_before(self) -> list[int]: ...
    @property
    def first_logits(self) -> Tensor | None: ...
    @property
    def finish_reason(self) -> str:
        """ "stop", "stop_token", "length", "step_limit" or "repetition"."""
    @property
    def stop_token_id(self) -> int: ...
    @property
    def fail_reason(self) -> str:
        """ "cancelled", "deadline_exceeded", "internal" or "shutdown"."""
    @property
    def message(self) -> str: ...

class EngineStats:
    """core/engine/request.h: EngineStats, same fields."""

    FORWARD_BATCH_BOUNDS: ClassVar[tuple[int, ...]]
    """Inclusive upper bounds of `forward_batch_sizes`, which has one bucket more for everything above."""
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def pages_total(self) -> int: ...
    @property
    def pages_used(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def request_forwards(self) -> int: ...
    @property
    def forward_tokens(self) -> int: ...
    @property
    def final_tokens(self) -> int: ...
    @property
    def denoise_steps(self) -> int: ...
    @property
    def blocks_finished(self) -> int: ...
    @property
    def canvas_positions(self) -> int: ...
    @property
    def forward_batch_sizes(self) -> list[int]: ...
    @property
    def requests_finished(self) -> int: ...
    @property
    def requests_failed(self) -> int: ...
    @property
    def late_commands(self) -> int: ...
    @property
    def integrity(self) -> str: ...

class Matmul:
    """Who multiplies bfloat16 matrices on a CUDA device."""

    @property
    def description(self) -> str:
        """ "cublaslt 13.0.2 (wheel: PATH)", "builtin", or "builtin (why there is no cuBLASLt)"."""

def choose_matmul(wanted: str, *, device: str, dtype: str, wheel_folders: Sequence[str] = ()) -> Matmul:
    """ "auto", "cublaslt" or "builtin" for weights of this dtype on this device (core/ops/matmul.h).

    Raises InvalidRequest("matmul"), Unsupported("matmul") when cuBLASLt is wanted and cannot be had, and
    Unsupported("device") when this process cannot compute there.
    """

class Engine:
    def __init__(
        self, model: Model, options: Mapping[str, object], *, threads: int = 0, matmul: Matmul | None = None
    ) -> None:
        """`options` has exactly the limits of core/engine/options.h; an unknown key raises InvalidRequest.

        matmul: None is this build's kernels.
        """
    @property
    def ended(self) -> bool:
        """The engine thread is at its end: after `stop`, or because it can serve no more. `event_fd` wakes up then."""
    def submit(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        algorithm: str,
        params: Mapping[str, bool | int | float | str] | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] = {},
        min_tokens: int = 0,
        seed: int = 0,
        eos_token_ids: Sequence[int] = (),
        stop_token_ids: Sequence[int] = (),
        max_repetition_run: int = 0,
        max_forward_passes: int = 0,
        deadline_seconds: float | None = None,
        snapshots: bool = False,
        trace: bool = False,
        rest: Sequence[int | None] = (),
    ) -> int:
        """Queues a request and returns its id. deadline_seconds counts from now. `rest`: what follows the prompt
        in place of max_tokens masks, None in holes.

        Raises InvalidRequest, Unsupported (`field` is the proto path, "sampling.top_p", "diffusion.extra.steps") or
        ResourceExhausted.
        """
    def cancel(self, request_id: int) -> None: ...
    def stop(self) -> None: ...
    @property
    def event_fd(self) -> int: ...
    def drain(self) -> list[Event]: ...
    def wait(self, timeout_seconds: float) -> bool: ...
    def stats(self) -> EngineStats: ...
    @property
    def model_info(self) -> ModelInfo: ...

class ParamSpec:
    @property
    def name(self) -> str: ...
    @property
    def alias(self) -> str: ...
    @property
    def type(self) -> str:
        """ "bool", "int", "float" or "choice"."""
    @property
    def default(self) -> str: ...
    @property
    def minimum(self) -> float: ...
    @property
    def maximum(self) -> float: ...
    @property
    def choices(self) -> list[str]: ...
    @property
    def help(self) -> str: ...
    @property
    def attention(self) -> list[str]:
        """Of the models on which the algorithm has it: "full", "block_causal"."""

class AlgorithmInfo:
    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> list[str]: ...
    @property
    def params(self) -> list[ParamSpec]: ...
    @property
    def attention(self) -> list[str]:
        """Of the models it runs on: "full", "block_causal"; "prompt_block_causal": full, under a mask of its own."""
    @property
    def edits(self) -> bool:
        """Whether it may change what it has written."""
    @property
    def summary(self) -> str: ...
    @property
    def source(self) -> str: ...

class AlgorithmDefault:
    """A family's own default of one parameter of one algorithm; `value` in the notation of `ParamSpec.default`."""

    @property
    def algorithm(self) -> str: ...
    @property
    def param(self) -> str: ...
    @property
    def value(self) -> str: ...

class ArchitectureInfo:
    @property
    def name(self) -> str: ...
    @property
    def default_algorithm(self) -> str: ...
    @property
    def algorithms(self) -> list[str]: ...
    @property
    def defaults(self) -> list[AlgorithmDefault]: ...

def algorithms() -> list[AlgorithmInfo]: ...
def check_params(
    algorithm: str, params: Mapping[str, bool | int | float | str], *, attention: str
) -> dict[str, bool | int | float | str]:
    """The parameters under their own names (aliases resolved), numbers in the declared type.

    `attention` is the model's: "full" or "block_causal". Raises InvalidRequest or Unsupported as `Engine.submit` does
    for its `params`.
    """

def architectures() -> list[ArchitectureInfo]: ...
def build_info(*, wheel_folders: Sequence[str] = ()) -> dict[str, Any]:
    """compiler, build_type, cpu ("amxbf16" ... per dtype), usable_cores, cuda: {"built": bool, "runtime": str,
    "driver": str (the newest CUDA that it supports), "devices": [{"name", "compute_capability", "memory_bytes",
    "free_bytes"}], "error": str, "problems": [sentence], "cublaslt": {"version", "place", "path", "error"}}.

    wheel_folders: where libraries of NVIDIA's wheels lie (pydllm.nvidia_wheels).
    """

ops: Any
"""The ops of core/ops by themselves, for tests and benchmarks: core/bind/ops.cpp. Ops on a CUDA device return before
they are done: `Workplace.synchronize` before another library reads what they wrote."""
