"""tokenizer.json through `tokenizers`, with the special tokens of the checkpoint's configuration.

Everything read here is untrusted data: sizes are bounded, and a panic of the Rust library becomes a typed
error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tokenizers

from pydllm.errors import CheckpointError, InvalidRequestError
from pydllm.text.decoder import DecoderKind, byte_level_bytes, decoder_kind, piece_bytes
from pydllm.text.json_file import one_line, parse_json_object, read_bytes, read_json_object

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MAX_TOKENIZER_BYTES = 64 << 20
"""The largest tokenizer.json in use is about 33 MB."""
MAX_CONFIG_BYTES = 8 << 20

SpecialName = Literal["bos_token", "eos_token", "pad_token", "mask_token", "unk_token", "cls_token", "sep_token"]
SPECIAL_NAMES: tuple[SpecialName, ...] = (
    "bos_token",
    "eos_token",
    "pad_token",
    "mask_token",
    "unk_token",
    "cls_token",
    "sep_token",
)

_MAX_TOKEN_ID = 2**31 - 1
_MAX_COMPONENTS = 256
_MAX_GROWTH = 4096

T = TypeVar("T")


@dataclass(frozen=True)
class SpecialToken:
    """A named special token. `id` is None when the text is not one token of the vocabulary."""

    text: str
    id: int | None


class Tokenizer:
    """Text to ids and back, as Hugging Face's fast tokenizers do it. Thread-safe; immutable after load."""

    def __init__(
        self, backend: tokenizers.Tokenizer, *, config: Mapping[str, Any], special_map: Mapping[str, Any]
    ) -> None:
        """Wraps a loaded backend; use `load`. `config` and `special_map` are the parsed JSON files."""
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        _add_configured_tokens(backend, config.get("added_tokens_decoder"))
        added = backend.get_added_tokens_decoder()
        special_texts = {token.content for token in added.values() if token.special}
        self._vocab_size = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self._special_ids = frozenset(i for text in special_texts if (i := backend.token_to_id(text)) is not None)
        self._kind = decoder_kind(backend.decoder)
        self.special_tokens: Mapping[SpecialName, SpecialToken] = _special_tokens(backend, config, special_map)
        """The named special tokens that the configuration sets."""

    @staticmethod
    def load(directory: Path) -> Tokenizer:
        """Reads tokenizer.json, tokenizer_config.json and special_tokens_map.json.

        CheckpointError, one line, when tokenizer.json is absent, too large or not a tokenizer.
        """
        data = read_bytes(directory / "tokenizer.json", max_bytes=MAX_TOKENIZER_BYTES)
        if data is None:
            raise CheckpointError("tokenizer.json: not found in the checkpoint directory")
        _check_growth(parse_json_object(data, name="tokenizer.json"))
        config = read_json_object(directory / "tokenizer_config.json", max_bytes=MAX_CONFIG_BYTES) or {}
        special_map = read_json_object(directory / "special_tokens_map.json", max_bytes=MAX_CONFIG_BYTES) or {}
        return _or_checkpoint_error(
            lambda: Tokenizer(tokenizers.Tokenizer.from_buffer(data), config=config, special_map=special_map)
        )

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included. The model's vocabulary may be larger."""
        return self._vocab_size

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that `skip_special_tokens` drops."""
        return self._special_ids

    @property
    def decoder_kind(self) -> DecoderKind:
        """How token texts combine: see DecoderKind."""
        return self._kind

    @property
    def bos_id(self) -> int | None:
        """Id of bos_token, None when unset or outside the vocabulary; the same below."""
        return self._named_id("bos_token")

    @property
    def eos_id(self) -> int | None:
        return self._named_id("eos_token")

    @property
    def pad_id(self) -> int | None:
        return self._named_id("pad_token")

    @property
    def mask_id(self) -> int | None:
        return self._named_id("mask_token")

    def token_to_id(self, token: str) -> int | None:
        """The id of exactly this token, None when there is none."""
        return None if has_surrogate(token) else self._backend.token_to_id(token)

    def token_text(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of a token ("Ġthe"), None outside the vocabulary."""
        return self._backend.id_to_token(token_id) if 0 <= token_id <= _MAX_TOKEN_ID else None

    def encode(self, text: str, *, add_special_tokens: bool, field: str = "prompt") -> list[int]:
        """Ids of `text`. add_special_tokens: also what the post-processor adds (BOS and the like).

        The text of a special token becomes its id, as Hugging Face does. InvalidRequestError(field) when
        `text` is no string, not valid Unicode, or makes the tokenizer fail.
        """
        require_text(text, field)
        try:
            # Unlike encode, a batch of one lets other threads run meanwhile.
            encoding = self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]
            return list(encoding.ids)
        except BaseException as error:
            if _is_panic(error) or isinstance(error, Exception):
                raise InvalidRequestError(field, "the tokenizer cannot encode this text") from None
            raise

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Text of `ids`; ids outside the vocabulary are "". Broken UTF-8 becomes U+FFFD."""
        known = [i for i in ids if self.token_text(i) is not None]
        return self._backend.decode(known, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes one token stands for (may be a part of a character); b"" outside the vocabulary."""
        text = self.token_text(token_id)
        if text is None:
            return b""
        return byte_level_bytes(text) if self._kind is DecoderKind.BYTES else piece_bytes(text, self._kind)

    def _named_id(self, name: SpecialName) -> int | None:
        token = self.special_tokens.get(name)
        return token.id if token else None


def has_surrogate(text: str) -> bool:
    """Whether `text` holds a lone surrogate: no Unicode text, cannot be encoded in UTF-8."""
    return _first_surrogate(text) is not None


def require_text(value: object, field: str) -> None:
    """InvalidRequestError(field) unless `value` is a string of valid Unicode."""
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"expected text, got {type(value).__name__}")
    position = _first_surrogate(value)
    if position is not None:
        raise InvalidRequestError(field, f"expected valid Unicode, got a lone surrogate at character {position}")


def _first_surrogate(text: str) -> int | None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _is_panic(error: BaseException) -> bool:
    # pyo3's PanicException derives from BaseException and can be imported from nowhere.
    return type(error).__name__ == "PanicException"


def _or_checkpoint_error(build: Callable[[], T]) -> T:
    try:
        return build()
    except CheckpointError:
        raise
    except BaseException as error:
        if _is_panic(error) or isinstance(error, Exception):
            raise CheckpointError(f"tokenizer.json: not a usable tokenizer ({one_line(error)})") from None
        raise


def _check_growth(tokenizer: Mapping[str, Any]) -> None:
    """Refuses replacement chains that would turn one character into megabytes."""
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        components = _components(tokenizer.get(part))
        if len(components) > _MAX_COMPONENTS:
            raise CheckpointError(f"tokenizer.json: {part} has more than {_MAX_COMPONENTS} components")
        growth = 1
        for component in components:
            growth *= 1 + _replacement_length(component)
            if growth > _MAX_GROWTH:
                raise CheckpointError(f"tokenizer.json: {part} grows text more than {_MAX_GROWTH} times")


def _components(root: object) -> list[Mapping[str, Any]]:
    """Every object below a component, breadth first, cut off soon after the bound."""
    found: list[Mapping[str, Any]] = []
    queue = [root]
    while queue and len(found) <= _MAX_COMPONENTS:
        node = queue.pop()
        if isinstance(node, dict):
            found.append(node)
            queue.extend(node.values())
        elif isinstance(node, list):
            queue.extend(node)
    return found


def _replacement_length(component: Mapping[str, Any]) -> int:
    texts = [component.get(key) for key in ("content", "prepend")]
    return max((len(text) for text in texts if isinstance(text, str)), default=0)


def _add_configured_tokens(backend: tokenizers.Tokenizer, added: object) -> None:
    """Adds what tokenizer_config.json's added_tokens_decoder knows and tokenizer.json does not."""
    if added is None:
        return
    if not isinstance(added, dict):
        raise CheckpointError("tokenizer_config.json: added_tokens_decoder: expected an object")
    present = backend.get_added_tokens_decoder()
    entries = sorted((_token_id(key), _added_token(key, value)) for key, value in added.items())
    for token_id, (content, flags) in entries:
        old = present.get(token_id)
        if old is not None and old.content == content and old.special == flags["special"]:
            continue
        token = tokenizers.AddedToken(content, **flags)
        (backend.add_special_tokens if flags["special"] else backend.add_tokens)([token])
        if backend.token_to_id(content) != token_id:
            given = backend.token_to_id(content)
            raise CheckpointError(
                f"tokenizer_config.json: added token {one_line(content, limit=40)!r} has id {token_id}, "
                f"but {given} by tokenizer.json"
            )


def _token_id(key: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", key) or int(key) > _MAX_TOKEN_ID:
        raise CheckpointError(f"tokenizer_config.json: added_tokens_decoder: bad id {one_line(key, limit=40)!r}")
    return int(key)


def _added_token(key: str, value: object) -> tuple[str, dict[str, bool]]:
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(content, str) or not content or has_surrogate(content):
        raise CheckpointError(f"tokenizer_config.json: added_tokens_decoder: {key}: expected a token with content")
    flags = {name: value.get(name, False) for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}
    if not all(isinstance(flag, bool) for flag in flags.values()):
        raise CheckpointError(f"tokenizer_config.json: added_tokens_decoder: {key}: expected true or false flags")
    return content, flags


def _special_tokens(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], special_map: Mapping[str, Any]
) -> dict[SpecialName, SpecialToken]:
    tokens: dict[SpecialName, SpecialToken] = {}
    for name in SPECIAL_NAMES:
        text = _special_text(config, name, "tokenizer_config.json")
        if name not in config:
            text = _special_text(special_map, name, "special_tokens_map.json")
        if text is not None:
            tokens[name] = SpecialToken(text, backend.token_to_id(text))
    return tokens


def _special_text(source: Mapping[str, Any], name: str, file: str) -> str | None:
    value = source.get(name)
    if isinstance(value, dict):
        value = value.get("content")
        if value is None:
            raise CheckpointError(f"{file}: {name}: expected a string or an object with content")
    if value is None:
        return None
    if not isinstance(value, str) or has_surrogate(value):
        raise CheckpointError(f"{file}: {name}: expected a string or an object with content")
    return value
