"""The training code lies outside the package: its folder is put on the path, as running its scripts does."""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "demo_model"
sys.path.insert(0, str(EXAMPLE))
