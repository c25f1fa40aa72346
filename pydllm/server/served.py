"""What the services share: the one model that is served, once it is loaded."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from pydllm.errors import ContextLengthError, ModelNotFoundError, UnsupportedError
from pydllm.params import shown
from pydllm.server.convert import Chat
from pydllm.server.errors import StartingError
from pydllm.server.no_tokenizer import NoTokenizer
from pydllm.server.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from google.protobuf.timestamp_pb2 import Timestamp

    from pydllm.canvas import Canvas, CanvasIds
    from pydllm.engine import AsyncEngine
    from pydllm.server.metrics import Metrics
    from pydllm.text import ChatTemplate, Tokenizer

SHORT_TEXT = 2048
"""Characters that are tokenized on the event loop; anything longer goes to a thread (about 1 ms either way)."""

P = ParamSpec("P")
T = TypeVar("T")

_STARTING = "the server is still loading the model"


@dataclass(frozen=True, kw_only=True)
class Served:
    """The served model and what its text needs."""

    name: str
    engine: AsyncEngine
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    loaded: Timestamp
    source: str
    revision: str = ""
    longest_token: int = 128
    """Characters of the longest token: no longer text can have few enough tokens."""

    @property
    def max_context_length(self) -> int:
        """Prompt plus generated tokens."""
        return self.engine.facts.max_model_len

    @property
    def has_tokenizer(self) -> bool:
        """Whether it takes and gives text."""
        return not isinstance(self.tokenizer, NoTokenizer)

    def template(self) -> ChatTemplate:
        """The chat template; UnsupportedError when the checkpoint has none."""
        if self.chat_template is None:
            raise UnsupportedError("chat", "chat: this model has no chat template; send prompt or prompt_token_ids")
        return self.chat_template

    def render(self, chat: Chat) -> str:
        """The conversation as the model's prompt."""
        return self.template().render(
            chat.messages,
            add_generation_prompt=chat.add_generation_prompt,
            tools=chat.tools,
            template_kwargs=chat.template_kwargs,
        )


class Backend:
    """Holds the served model and its metrics from the end of loading on, and the requests in flight."""

    def __init__(self) -> None:
        self.served: Served | None = None
        self.requests = Requests()
        self._metrics: Metrics | None = None

    def publish(self, served: Served, metrics: Metrics) -> None:
        """Serves this model from now on."""
        self.served, self._metrics = served, metrics

    @property
    def metrics(self) -> Metrics:
        """The served model's; StartingError before there is one."""
        if self._metrics is None:
            raise StartingError(_STARTING)
        return self._metrics

    def page(self) -> bytes:
        """The metrics as text, nothing before there are any; any thread."""
        return b"" if self._metrics is None else self._metrics.render()

    def model(self, name: str) -> Served:
        """The model of this name ("" is the default); ModelNotFoundError for any other."""
        if self.served is None:
            raise StartingError(_STARTING)
        if name not in ("", self.served.name):
            raise ModelNotFoundError(f"model: expected {shown(self.served.name)} or nothing, got {shown(name)}")
        return self.served


async def off_loop(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a text function; in a thread when its input has more than SHORT_TEXT characters or ids."""
    if size <= SHORT_TEXT:
        return function(*args, **kwargs)
    return await asyncio.to_thread(functools.partial(function, *args, **kwargs))


def chat_size(chat: Chat) -> int:
    """Characters of a conversation, roughly."""
    return sum(len(str(value)) for message in chat.messages for value in message.values()) + len(str(chat.tools or ""))


def _require_possible_length(served: Served, text: str, field: str) -> None:
    """Refuses what cannot fit the context whatever its tokens are, before they are made."""
    limit = served.max_context_length * served.longest_token
    if len(text) > limit:
        message = (
            f"{field}: this model's maximum context length is {served.max_context_length} tokens, "
            f"at most {limit} characters, got {len(text)}"
        )
        raise ContextLengthError(field, message, limit=limit, given=len(text))


async def encode_canvas(served: Served, canvas: Canvas) -> CanvasIds:
    """Token ids of a canvas."""
    size = 0
    for index, segment in enumerate(canvas.segments):
        if isinstance(segment, str):
            _require_possible_length(served, segment, f"canvas.segments[{index}].text")
            size += len(segment)
    return await off_loop(size, canvas.tokenize, served.tokenizer.encode)


async def encode_prompt(served: Served, prompt: str | Sequence[int] | Chat) -> tuple[list[int], str | None]:
    """Token ids of a prompt, and its text where the client gave it as text."""
    if isinstance(prompt, str):
        _require_possible_length(served, prompt, "prompt")
        ids = await off_loop(len(prompt), served.tokenizer.encode, prompt, add_special_tokens=True, field="prompt")
        return ids, prompt
    if isinstance(prompt, Chat):
        text = await off_loop(chat_size(prompt), served.render, prompt)
        _require_possible_length(served, text, "chat")
        ids = await off_loop(len(text), served.tokenizer.encode, text, add_special_tokens=False, field="chat")
        return ids, None
    return list(prompt), None
