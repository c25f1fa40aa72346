"""A provisional block as cells: masks, tokens coloured by confidence, and the end of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydllm.outputs import BlockSnapshot

MASK = "░"
END = "·"
"""A position the model filled with a token that has no text, such as EOS."""
BROKEN = "\ufffd"
"""Bytes that are no whole character yet."""

BUCKETS = ((0.5, "red"), (0.7, "dark_orange"), (0.9, "yellow"))
"""Styles by confidence: each up to and without its bound; CERTAIN from the last bound on."""
CERTAIN = "green"
MASK_STYLE = "bright_black"
END_STYLE = "bright_black"

Key = tuple[int, ...]
"""Adjacent token ids that make up one cell."""

_MAX_CHARACTER_TOKENS = 4
"""A character of UTF-8 has at most four bytes, and a token at least one."""
_MAX_KNOWN = 1 << 16


@dataclass(frozen=True)
class Cell:
    """A masked position, or one or more committed tokens that only together are text."""

    text: str
    masked: bool = False
    ends: bool = False
    """Committed, and no text: nothing comes here."""
    confidence: float | None = None
    """The lowest of its tokens', None when unknown."""
    fresh: bool = False
    """Not there at the step shown before."""


MASKED = Cell(MASK, masked=True)


class Pieces:
    """Texts of tokens by their ids, asked for once. `texts` decodes many at a time and never fails."""

    def __init__(self, texts: Callable[[Sequence[Key]], list[str]]) -> None:
        self._texts = texts
        self._known: dict[Key, str] = {}

    def get(self, keys: Sequence[Key]) -> list[str]:
        """The text of each key."""
        if len(self._known) > _MAX_KNOWN:
            self._known.clear()
        missing = [key for key in dict.fromkeys(keys) if key not in self._known]
        if missing:
            self._known.update(zip(missing, self._texts(missing), strict=True))
        return [self._known[key] for key in keys]


def masked_cells(count: int) -> tuple[Cell, ...]:
    """A block before its first step."""
    return (MASKED,) * count


def cells_of(snapshot: BlockSnapshot, pieces: Pieces, before: BlockSnapshot | None = None) -> tuple[Cell, ...]:
    """The cells of a block; `before` is the snapshot shown last."""
    tokens = snapshot.token_ids
    pieces.get([(token,) for token in tokens if token is not None])  # all at once
    cells: list[Cell] = []
    at = 0
    while at < len(tokens):
        key = _character(tokens, at, pieces)
        cells.append(_committed(snapshot, at, key, pieces, before) if key else MASKED)
        at += max(1, len(key))
    return tuple(cells)


def style_of(cell: Cell) -> str:
    """The style of a cell's text: its kind, or the bucket of its confidence; what is new is bold."""
    if cell.masked:
        return MASK_STYLE
    style = END_STYLE if cell.ends else color_of(cell.confidence)
    return f"{style} bold".strip() if cell.fresh else style


def color_of(confidence: float | None) -> str:
    """The colour of a confidence; "" when it is unknown."""
    if confidence is None:
        return ""
    return next((color for bound, color in BUCKETS if confidence < bound), CERTAIN)


def _character(tokens: Sequence[int | None], at: int, pieces: Pieces) -> Key:
    """The tokens from `at` that make up whole characters: one, more where one is a part, none for a mask."""
    token = tokens[at]
    if token is None:
        return ()
    key: Key = (token,)
    while BROKEN in pieces.get([key])[0]:
        end = at + len(key)
        following = tokens[end] if end < len(tokens) else None
        if following is None or len(key) == _MAX_CHARACTER_TOKENS:
            return (token,)
        key += (following,)
    return key


def _committed(snapshot: BlockSnapshot, at: int, key: Key, pieces: Pieces, before: BlockSnapshot | None) -> Cell:
    text = pieces.get([key])[0]
    places = range(at, at + len(key))
    confidences = [snapshot.confidences[place] for place in places if place < len(snapshot.confidences)]
    return Cell(
        text or END,
        ends=not text,
        confidence=min(confidences, default=None),
        fresh=any(_token_before(snapshot, place, before) != snapshot.token_ids[place] for place in places),
    )


def _token_before(snapshot: BlockSnapshot, place: int, before: BlockSnapshot | None) -> int | None:
    if before is None or before.block_index != snapshot.block_index or place >= len(before.token_ids):
        return None
    return before.token_ids[place]
