"""Serving without a tokenizer: token ids in, token ids out. Whatever needs text is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.errors import UnsupportedError
from pydllm.text import Tokenizer
from pydllm.text.decoder import DecoderKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydllm_proto.v1 import generation_service_pb2 as pb

    from pydllm.server.convert import StreamOptions
    from pydllm.text.tokenizer import SpecialName, SpecialToken


class NoTokenizer(Tokenizer):
    """Stands where a tokenizer is expected: every text is empty, no text can be encoded."""

    def __init__(self) -> None:
        self.special_tokens: Mapping[SpecialName, SpecialToken] = {}

    @property
    def vocab_size(self) -> int:
        """None that is known."""
        return 0

    @property
    def special_ids(self) -> frozenset[int]:
        """None that are known."""
        return frozenset()

    @property
    def decoder_kind(self) -> DecoderKind:
        """Any will do."""
        return DecoderKind.BYTES

    def token_to_id(self, token: str) -> int | None:  # noqa: ARG002
        """No token has a text."""
        return None

    def token_text(self, token_id: int) -> str | None:  # noqa: ARG002
        """No token has a text."""
        return None

    def encode(self, text: str, *, add_special_tokens: bool, field: str = "prompt") -> list[int]:  # noqa: ARG002
        """UnsupportedError naming the field."""
        raise unsupported(field)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:  # noqa: ARG002
        """Nothing."""
        return ""


def unsupported(field: str) -> UnsupportedError:
    """The error of a field that needs a tokenizer."""
    return UnsupportedError(field, f"{field}: this server runs without a tokenizer; it takes and gives token ids only")


def refuse_text(request: pb.GenerateRequest, options: StreamOptions) -> None:
    """UnsupportedError for the first field of a request that needs text."""
    output = request.output
    needs = {
        "prompt": request.WhichOneof("input") == "prompt",
        "chat": request.WhichOneof("input") == "chat",
        "canvas.segments": any(segment.HasField("text") for segment in request.canvas.segments),
        "sampling.stop": bool(request.sampling.stop),
        "sampling.include_stop": request.sampling.include_stop,
        "output.echo": output.echo,
        "output.skip_special_tokens": output.HasField("skip_special_tokens") and not output.skip_special_tokens,
        "options.snapshot_text": options.snapshot_text,
    }
    for field, needed in needs.items():
        if needed:
            raise unsupported(field)
