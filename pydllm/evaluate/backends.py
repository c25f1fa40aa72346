"""Who answers: a model in this process, or a server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydllm.errors import PydllmError, UnsupportedError

if TYPE_CHECKING:
    import grpc

    from pydllm.llm import AsyncLLM
    from pydllm.params import DiffusionParams, SamplingParams


@dataclass(frozen=True)
class Reply:
    """One answer. `tokens` counts up to and including the one that ended it."""

    text: str
    tokens: int
    forward_passes: int


class Backend(Protocol):
    """Answers one prompt as a conversation of one turn, or as it is where the model has no chat template."""

    async def answer(self, prompt: str, sampling: SamplingParams, diffusion: DiffusionParams) -> Reply:
        """Raises the errors of pydllm.errors."""


class Local:
    """A model in this process."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._chat = True

    async def answer(self, prompt: str, sampling: SamplingParams, diffusion: DiffusionParams) -> Reply:
        """As Backend.answer."""
        wanted: dict[str, Any] = {"sampling": sampling, "diffusion": diffusion, "progress": False}
        if self._chat:
            try:
                [output] = await self._llm.chat([{"role": "user", "content": prompt}], **wanted)
            except UnsupportedError as error:
                if error.field != "chat":
                    raise
                self._chat = False
        if not self._chat:
            [output] = await self._llm.generate(prompt, **wanted)
        return Reply(output.text, len(output.token_ids), output.stats.forward_passes)


class ServerError(PydllmError):
    """The server refused a call or could not be reached."""


class Server:
    """A gRPC server; `model` is the name of a model that it serves, "" for its only one."""

    def __init__(self, channel: grpc.aio.Channel, *, model: str = "", api_key: str | None = None) -> None:
        from pydllm_proto.v1 import generation_service_pb2_grpc

        self._stub: Any = generation_service_pb2_grpc.GenerationServiceStub(channel)
        self._model = model
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()

    async def answer(self, prompt: str, sampling: SamplingParams, diffusion: DiffusionParams) -> Reply:
        """As Backend.answer; the model must have a chat template."""
        import grpc

        try:
            request = _request(prompt, sampling, diffusion)
            request.model = self._model
            response = await self._stub.Generate(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            raise ServerError(f"the server answered {error.code().name}: {error.details()}") from None
        [candidate] = response.candidates
        return Reply(candidate.text, len(candidate.token_ids), candidate.stats.forward_passes)


def _request(prompt: str, sampling: SamplingParams, diffusion: DiffusionParams) -> Any:
    from google.protobuf import struct_pb2
    from pydllm_proto.v1 import generation_service_pb2, types_pb2

    extra = struct_pb2.Struct()
    extra.update(dict(diffusion.extra))
    request = generation_service_pb2.GenerateRequest(
        chat=types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user", content=prompt)]),
        sampling=types_pb2.SamplingParams(temperature=sampling.temperature, max_tokens=sampling.max_tokens),
        diffusion=types_pb2.DiffusionParams(
            algorithm=diffusion.algorithm,
            block_length=diffusion.block_length,
            max_steps_per_block=diffusion.max_steps_per_block,
            max_forward_passes=diffusion.max_forward_passes,
            confidence_threshold=diffusion.confidence_threshold,
            entropy_threshold=diffusion.entropy_threshold,
            cache=diffusion.cache,
            edit_threshold=diffusion.edit_threshold,
            extra=extra,
        ),
        output=types_pb2.OutputOptions(token_ids=True, stats=True),
    )
    if diffusion.allow_edits is not None:
        request.diffusion.allow_edits = diffusion.allow_edits
    return request
