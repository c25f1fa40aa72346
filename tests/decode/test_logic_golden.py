"""The text tables read by the C++ golden tests are the recordings, not hand-edited copies of them."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


@pytest.mark.parametrize("script", ["make_logic_golden.py", "make_low_confidence_golden.py"])
def test_committed_table_equals_the_recording(script: str) -> None:
    names = runpy.run_path(str(Path(__file__).with_name(script)))
    assert names["TARGET"].read_text() == names["render"](names["SOURCE"])
