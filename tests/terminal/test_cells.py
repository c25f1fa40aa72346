"""Provisional blocks as cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from talking import snapshot

from pydllm.terminal.cells import BROKEN, END, MASK, Key, Pieces, cells_of, color_of, masked_cells, style_of

if TYPE_CHECKING:
    from collections.abc import Sequence

EOS = 0


class Bytes:
    """Tokens are bytes, EOS has no text; counts the calls."""

    def __init__(self) -> None:
        self.calls: list[list[Key]] = []

    def __call__(self, keys: Sequence[Key]) -> list[str]:
        self.calls.append(list(keys))
        return [bytes(id_ for id_ in key if id_ != EOS).decode("utf-8", "replace") for key in keys]


def shown(tokens: Sequence[int | None], confidences: Sequence[float] = ()) -> list[str]:
    return [cell.text for cell in cells_of(snapshot(tokens, confidences), Pieces(Bytes()))]


def test_masks_tokens_and_the_end_are_told_apart() -> None:
    cells = cells_of(snapshot([97, None, EOS]), Pieces(Bytes()))
    assert [cell.text for cell in cells] == ["a", MASK, END]
    assert [(cell.masked, cell.ends) for cell in cells] == [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize(
    ("confidence", "color"),
    [(0.0, "red"), (0.49, "red"), (0.5, "dark_orange"), (0.7, "yellow"), (0.9, "green"), (1.0, "green"), (None, "")],
)
def test_confidence_decides_the_color(confidence: float | None, color: str) -> None:
    assert color_of(confidence) == color


def test_a_block_without_confidences_is_drawn_without_colors() -> None:
    cells = cells_of(snapshot([97, 98]), Pieces(Bytes()), snapshot([97, 98]))
    assert [style_of(cell) for cell in cells] == ["", ""]


def test_what_is_new_is_bold() -> None:
    before = snapshot([97, None, 99])
    cells = cells_of(snapshot([97, 98, 100], [0.95, 0.6, 0.3]), Pieces(Bytes()), before)
    assert [style_of(cell) for cell in cells] == ["green", "dark_orange bold", "red bold"]
    other_block = snapshot([97], [0.95], block_index=1)
    assert [style_of(cell) for cell in cells_of(other_block, Pieces(Bytes()), before)] == ["green bold"]


def test_tokens_of_one_character_are_one_cell_with_the_lowest_confidence() -> None:
    euro = [*"€".encode()]
    cells = cells_of(snapshot([97, *euro, 98], [1.0, 0.9, 0.4, 0.8, 1.0]), Pieces(Bytes()))
    assert [cell.text for cell in cells] == ["a", "€", "b"]
    assert cells[1].confidence == 0.4


def test_a_part_of_a_character_is_shown_as_broken_and_nothing_after_it_is_lost() -> None:
    euro = [*"€".encode()]
    assert shown([euro[0], None, euro[2], 97]) == [BROKEN, MASK, BROKEN, "a"]
    assert shown([euro[0], euro[1], 97, 98, 99, 100]) == [BROKEN, BROKEN, "a", "b", "c", "d"]
    assert shown([97, euro[0]]) == ["a", BROKEN]


def test_each_token_is_asked_for_once_and_many_at_a_time() -> None:
    source = Bytes()
    pieces = Pieces(source)
    cells_of(snapshot([97, 98, None, 97]), pieces)
    cells_of(snapshot([97, 98, 99, 97]), pieces)
    assert source.calls == [[(97,), (98,)], [(99,)]]


def test_a_block_before_its_first_step_is_all_masks() -> None:
    assert [cell.text for cell in masked_cells(3)] == [MASK] * 3
