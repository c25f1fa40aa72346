"""The text table read by the C++ golden test is the recording, not a hand-edited copy of it."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_committed_table_equals_the_recording() -> None:
    script = runpy.run_path(str(Path(__file__).with_name("make_logic_golden.py")))
    assert script["TARGET"].read_text() == script["render"](script["SOURCE"])
