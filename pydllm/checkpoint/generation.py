"""Token ids and generation defaults: generation_config.json over config.json."""

from dataclasses import dataclass
from pathlib import Path

from pydllm.checkpoint.strict_json import Fields, read_object
from pydllm.errors import CheckpointError

GENERATION_FILE = "generation_config.json"
_LIMIT = 1 << 20

_BOOKKEEPING = frozenset({"_from_model_config", "transformers_version"})


@dataclass(frozen=True, kw_only=True)
class GenerationDefaults:
    """What the checkpoint suggests for a request that does not say; None where it suggests nothing."""

    max_new_tokens: int | None = None
    block_length: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    ignored_fields: tuple[str, ...] = ()
    """Fields of generation_config.json that this engine does not know; worth a line in a log."""


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Special ids; all are within the vocabulary."""

    mask: int
    eos: tuple[int, ...]
    pad: int | None
    bos: int | None
    delete: int | None = None
    """Control tokens of a model that edits by them (LLaDA2.2), both or none."""
    split: int | None = None


def read_generation(directory: Path) -> Fields:
    """The fields of generation_config.json; none when there is no such file."""
    path = directory / GENERATION_FILE
    return Fields(read_object(path, limit=_LIMIT) if path.exists() else {}, file=GENERATION_FILE)


def token_ids(
    config: Fields, generation: Fields, *, vocab_size: int, mask_token_id: int | None, control_tokens: bool = False
) -> TokenIds:
    """generation_config.json wins over config.json; `mask_token_id` over both. `control_tokens`: config.json may have
    DELETE and SPLIT. Raises CheckpointError."""
    delete, split = _control_ids(config, vocab_size=vocab_size) if control_tokens else (None, None)
    eos = [fields.token_ids("eos_token_id", vocab_size=vocab_size) for fields in (generation, config)]
    pad = [fields.token_id("pad_token_id", vocab_size=vocab_size) for fields in (generation, config)]
    bos = [fields.token_id("bos_token_id", vocab_size=vocab_size) for fields in (generation, config)]
    ids = TokenIds(
        mask=_mask_id(config, generation, vocab_size=vocab_size, given=mask_token_id),
        eos=next((found for found in eos if found is not None), ()),
        pad=next((found for found in pad if found is not None), None),
        bos=next((found for found in bos if found is not None), None),
        delete=delete,
        split=split,
    )
    for name, token in (("mask_token_id", ids.mask), ("delete_token_id", delete), ("split_token_id", split)):
        if token in ids.eos:
            raise CheckpointError(f"{name}: expected an id that is no eos_token_id, got {token}")
    if ids.mask in (delete, split):
        raise CheckpointError(f"mask_token_id: expected an id that is no control token, got {ids.mask}")
    return ids


def _control_ids(config: Fields, *, vocab_size: int) -> tuple[int | None, int | None]:
    """DELETE and SPLIT: two ids or none."""
    delete = config.token_id("delete_token_id", vocab_size=vocab_size)
    split = config.token_id("split_token_id", vocab_size=vocab_size)
    if (delete is None) != (split is None):
        missing, there = ("delete", "split") if delete is None else ("split", "delete")
        config.refuse(f"{missing}_token_id", f"an id, as there is a {there}_token_id")
    if delete is not None and delete == split:
        config.refuse("split_token_id", "another id than delete_token_id")
    return delete, split


def _mask_id(config: Fields, generation: Fields, *, vocab_size: int, given: int | None) -> int:
    stored = [fields.token_id("mask_token_id", vocab_size=vocab_size) for fields in (config, generation)]
    if given is not None:
        if type(given) is not int or not 0 <= given < vocab_size:
            raise CheckpointError(f"mask_token_id: expected an id in [0, {vocab_size - 1}], got {given!r}")
        return given
    found = {one for one in stored if one is not None}
    if not found:
        raise CheckpointError(
            "mask_token_id: expected in config.json, generation_config.json or given explicitly; got none"
        )
    if len(found) > 1:
        generation.refuse("mask_token_id", f"{stored[0]} as in config.json")
    return found.pop()


def generation_defaults(generation: Fields) -> GenerationDefaults:
    """do_sample false, as transformers has it, means greedy whatever the sampling fields say."""
    temperature = generation.optional_number("temperature", minimum=0.0)
    top_p = generation.optional_number("top_p", minimum=0.0, maximum=1.0, above=True)
    top_k = generation.optional_integer("top_k", minimum=0)
    min_p = generation.optional_number("min_p", minimum=0.0, maximum=1.0)
    sampled = generation.boolean("do_sample", default=True)
    return GenerationDefaults(
        max_new_tokens=generation.optional_integer("max_new_tokens", minimum=1),
        block_length=generation.optional_integer("block_length", minimum=1),
        temperature=temperature if sampled else 0.0,
        top_p=top_p if sampled else None,
        top_k=top_k if sampled else None,
        min_p=min_p if sampled else None,
        repetition_penalty=generation.optional_number("repetition_penalty", minimum=0.0, maximum=100.0, above=True),
        ignored_fields=tuple(name for name in generation.unread() if name not in _BOOKKEEPING),
    )
