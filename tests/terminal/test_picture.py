"""The pictures of the documentation are drawn by tools/chat_picture.py, and those committed are its work."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from pydllm.terminal.cells import MASK

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chat_picture", ROOT / "tools" / "chat_picture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["chat_picture"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def drawn(tool: Any) -> tuple[str, str]:
    pictures: tuple[str, str] = tool.pictures()
    return pictures


def rows(svg: str) -> list[str]:
    """The text of each row, top to bottom; frames of an animation follow one another."""
    found: list[tuple[str, str]] = []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        if found and found[-1][0] == element.get("y"):
            found[-1] = (found[-1][0], found[-1][1] + (element.text or ""))
        else:
            found.append((element.get("y") or "", element.text or ""))
    return [text.rstrip() for _, text in found]


def test_the_same_build_draws_the_same_pictures(tool: Any, drawn: tuple[str, str]) -> None:
    assert tool.pictures() == drawn


def test_the_picture_shows_a_finished_turn_and_one_half_masked(drawn: tuple[str, str], record_property: Any) -> None:
    text = rows(drawn[0])
    assert "> How do you work?" in text
    assert any("24.00 tokens/forward · 1 forward" in row for row in text)
    middle = next(row for row in text if row.count(MASK) > 5)
    assert "fox" in middle
    assert text[text.index(middle) + 1].startswith("block 1: 21 of 32 cells")
    colors = {element.get("fill") for element in ElementTree.fromstring(drawn[0]).iter(f"{SVG}text")}
    assert len(colors) >= 5
    record_property("figure", f"docs/pictures/chat.svg: {middle.count(MASK)} of 32 cells masked, {len(colors)} colors")


def test_the_animation_goes_from_masks_to_the_answer(drawn: tuple[str, str]) -> None:
    frames = list(ElementTree.fromstring(drawn[1]).iter(f"{SVG}g"))
    masked = ["".join(frame.itertext()).count(MASK) for frame in frames]
    assert masked[0] == 32
    assert masked[-1] == 0
    assert masked == sorted(masked, reverse=True)
    assert "A fox is a clever red animal that lives in the forest. It hunts at night." in "".join(frames[-1].itertext())


@pytest.mark.parametrize(("name", "number"), [("chat.svg", 0), ("chat-animated.svg", 1)])
def test_the_committed_pictures_are_current(drawn: tuple[str, str], name: str, number: int) -> None:
    """Colors may differ where a confidence lies beside a bound on another processor; rows and counters may not."""
    committed = rows((PICTURES / name).read_text(encoding="utf-8"))
    assert committed == rows(drawn[number])


def test_the_pictures_fetch_nothing(drawn: tuple[str, str]) -> None:
    for picture in drawn:
        assert "url(" not in picture
        assert "href" not in picture
        assert "<script" not in picture
