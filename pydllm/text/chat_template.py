"""Chat templates: from a conversation to the prompt text, as Hugging Face renders it, inside strict
bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError, UndefinedError

from pydllm.errors import CheckpointError, InvalidRequestError, UnsupportedError
from pydllm.text.json_file import one_line, read_json_object, read_text
from pydllm.text.template_budget import Budget, TemplateLimitError
from pydllm.text.template_guards import TemplateValueError
from pydllm.text.template_sandbox import (
    ChatEnvironment,
    ChatTemplateCode,
    RaisedByTemplateError,
    current_budget,
)
from pydllm.text.tokenizer import MAX_CONFIG_BYTES, Tokenizer, has_surrogate, require_text

if TYPE_CHECKING:
    from pathlib import Path

MAX_TEMPLATE_CHARS = 128 << 10
MAX_MESSAGES = 10_000
MAX_NESTING = 32

_RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "additional_special_tokens"})
_RENDER_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What Python raises when a template computes nonsense."""
_REASONS = (
    (TypeError, "expected a value of another type"),
    (ArithmeticError, "expected numbers within range"),
    (LookupError, "expected an item that is not there"),
    (AttributeError, "expected a property that is not there"),
    (ValueError, "expected a value of another form"),
    (TemplateError, "it uses a filter, test or function that does not fit"),
)
_PROBE = [{"role": "user", "content": "hi"}]


class ChatTemplate:
    """A compiled template. Thread-safe; `render` is pure but for strftime_now."""

    def __init__(self, source: str, *, special_tokens: Mapping[str, str], name: str = "chat template") -> None:
        """Compiles `source` and renders one simple user message. CheckpointError(one line) when it is no
        template or exceeds its bounds; a template that merely refuses that message is accepted.
        `special_tokens`: "bos_token" and the like, with their texts."""
        self.source = source
        """The template's text."""
        self._special_tokens = dict(special_tokens)
        self._code, self._variables = _compile(source, name)
        # A template that prints whole messages shows their tool calls without naming them.
        self._shows_tool_calls = any(word in source for word in ("tool_calls", "tojson"))
        self._probe(name)

    @staticmethod
    def load(directory: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
        """chat_template.jinja, else chat_template of tokenizer_config.json (a string, or the one named
        "default").

        None when the checkpoint has none. CheckpointError as in the constructor.
        """
        source = read_text(directory / "chat_template.jinja", max_bytes=4 * MAX_TEMPLATE_CHARS)
        name = "chat_template.jinja"
        if source is None:
            config = read_json_object(directory / "tokenizer_config.json", max_bytes=MAX_CONFIG_BYTES) or {}
            source, name = (
                _configured_source(config.get("chat_template")),
                "tokenizer_config.json: chat_template",
            )
        if source is None:
            return None
        texts = {str(key): token.text for key, token in tokenizer.special_tokens.items()}
        return ChatTemplate(source, special_tokens=texts, name=name)

    @property
    def variables(self) -> frozenset[str]:
        """What template_kwargs may name: the variables the template reads and does not get otherwise."""
        return frozenset(name for name in self._variables if not _is_reserved(name))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        field: str = "chat",
    ) -> str:
        """The prompt's text; encode it with add_special_tokens=False.

        InvalidRequestError (`field`.messages, .tools, .template_kwargs): malformed, unknown variables, or the
        template refuses. UnsupportedError: tools or tool calls for a template that has no use for them.
        """
        variables = {
            "messages": self._plain_messages(messages, f"{field}.messages"),
            "tools": self._plain_tools(tools, f"{field}.tools"),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._special_tokens,
            **self._plain_kwargs(template_kwargs or {}, f"{field}.template_kwargs"),
        }
        try:
            text = self._run(variables)
        except _RENDER_ERRORS as error:
            raise InvalidRequestError(f"{field}.messages", _refusal(error)) from None
        require_text(text, f"{field}.messages")
        return text

    def _run(self, variables: dict[str, Any]) -> str:
        budget = Budget(_input_chars(variables), messages=len(variables["messages"]))
        token = current_budget.set(budget)
        try:
            pieces: list[str] = []
            length = 0
            for piece in self._code.generate(variables):
                pieces.append(piece)
                length += len(piece)
                budget.expect_chars(length)
            return "".join(pieces)
        finally:
            current_budget.reset(token)

    def _probe(self, name: str) -> None:
        """Finds hostile templates before the first request does."""
        try:
            self._run(
                {"messages": _PROBE, "tools": None, "documents": None, "add_generation_prompt": True}
                | self._special_tokens
            )
        except (SecurityError, RecursionError, MemoryError) as error:
            raise CheckpointError(f"{name}: {_refusal(error)}") from None
        except _RENDER_ERRORS:
            # The template cannot render this message (it may want a system message, or structured content): a
            # matter of requests, which get its own words.
            return

    def _plain_messages(self, messages: Sequence[Mapping[str, Any]], field: str) -> list[Any]:
        plain = _plain_messages(messages, field)
        if not self._shows_tool_calls:
            for index, message in enumerate(plain):
                if message.get("tool_calls"):
                    raise UnsupportedError(
                        f"{field}[{index}].tool_calls", "the model's chat template has no tool calls"
                    )
        return plain

    def _plain_tools(self, tools: Sequence[Mapping[str, Any]] | None, field: str) -> Any:
        if not tools:
            return None
        if "tools" not in self._variables:
            raise UnsupportedError(field, "the model's chat template has no tools")
        if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
            raise InvalidRequestError(field, "expected a list of objects")
        return _plain(list(tools), field)

    def _plain_kwargs(self, kwargs: Mapping[str, Any], field: str) -> dict[str, Any]:
        if not isinstance(kwargs, Mapping):
            raise InvalidRequestError(field, f"expected an object, got {type(kwargs).__name__}")
        for name in kwargs:
            if not isinstance(name, str) or _is_reserved(name):
                raise InvalidRequestError(field, f"{one_line(repr(name), limit=60)} is reserved")
            if name not in self._variables:
                known = ", ".join(sorted(self.variables)) or "none"
                raise InvalidRequestError(
                    field,
                    f"the chat template has no variable {one_line(repr(name), limit=60)}; it reads: {known}",
                )
        return {name: _plain(value, f"{field}.{name}") for name, value in kwargs.items()}


def _configured_source(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    where = "tokenizer_config.json: chat_template"
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(e, dict) and isinstance(e.get("template"), str) for e in entries):
        raise CheckpointError(f"{where}: expected a string or a list of named templates")
    named = {str(e.get("name")): str(e["template"]) for e in entries if isinstance(e, dict)}
    if "default" in named:
        return named["default"]
    raise CheckpointError(f"{where}: no template is named default")


def _compile(source: str, name: str) -> tuple[ChatTemplateCode, frozenset[str]]:
    if len(source) > MAX_TEMPLATE_CHARS:
        raise CheckpointError(f"{name}: longer than {MAX_TEMPLATE_CHARS} characters")
    if has_surrogate(source):
        raise CheckpointError(f"{name}: not valid Unicode")
    try:
        return ChatEnvironment().compile_chat(source)
    except TemplateSyntaxError as error:
        raise CheckpointError(f"{name}: line {error.lineno}: {one_line(error.message)}") from None
    except RecursionError:
        raise CheckpointError(f"{name}: nested too deeply") from None
    except (*_RENDER_ERRORS, AssertionError, SyntaxError) as error:
        raise CheckpointError(f"{name}: cannot be compiled ({one_line(error) or type(error).__name__})") from None


def _refusal(error: BaseException) -> str:
    if isinstance(error, RaisedByTemplateError):
        return one_line(error.message) or "refused by the chat template"
    if isinstance(error, TemplateLimitError):
        return f"the chat template {one_line(error)}"
    if isinstance(error, RecursionError | MemoryError):
        return "the chat template nests too deeply or builds too much"
    return f"the chat template cannot render this ({_reason(error)})"


def _reason(error: BaseException) -> str:
    """Why it cannot, in our words: those of jinja2 and Python say nothing to whoever wrote the request."""
    if isinstance(error, SecurityError | UndefinedError | TemplateValueError):
        return one_line(error)
    return next(words for kind, words in _REASONS if isinstance(error, kind))


def _is_reserved(name: str) -> bool:
    return name in _RESERVED or name.endswith("_token") or name.startswith("_")


def _plain_messages(messages: object, field: str) -> list[Any]:
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise InvalidRequestError(field, f"expected a list of messages, got {type(messages).__name__}")
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidRequestError(field, f"expected 1 to {MAX_MESSAGES} messages, got {len(messages)}")
    return [_plain_message(message, f"{field}[{index}]") for index, message in enumerate(messages)]


def _plain_message(message: object, field: str) -> Any:
    if not isinstance(message, Mapping):
        raise InvalidRequestError(field, f"expected an object, got {type(message).__name__}")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise InvalidRequestError(f"{field}.role", "expected a role such as user")
    content = message.get("content")
    if content is None and not (role == "assistant" and message.get("tool_calls")):
        raise InvalidRequestError(f"{field}.content", "expected text, got nothing")
    if content is not None and not isinstance(content, str | list | tuple):
        raise InvalidRequestError(f"{field}.content", f"expected text, got {type(content).__name__}")
    return _plain(message, field)


def _plain(value: Any, field: str, depth: int = 0) -> Any:
    """A copy made of JSON's types only, so that a template meets no other object."""
    if depth > MAX_NESTING:
        raise InvalidRequestError(field, f"nested deeper than {MAX_NESTING}")
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        require_text(value, field)
        return str(value)
    if isinstance(value, Mapping):
        return {_plain_key(k, field): _plain(v, f"{field}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{field}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise InvalidRequestError(field, f"expected JSON data, got {type(value).__name__}")


def _plain_key(key: object, field: str) -> str:
    require_text(key, field)
    return str(key)


def _input_chars(variables: Mapping[str, Any]) -> int:
    """The size of what the request brought; raises nothing, the budget of the rendering follows from it."""
    budget = Budget()
    return sum(budget.weight(value) for value in variables.values())
