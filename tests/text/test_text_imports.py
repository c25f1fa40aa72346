from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "numpy", "pydllm._core")


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_neither_library() -> None:
    assert not {"tokenizers", "jinja2", *HEAVY} & modules_after("import pydllm.text")


def test_using_every_name_needs_no_engine_and_no_torch() -> None:
    code = "import pydllm.text as t\n[getattr(t, name) for name in t.__all__]"
    loaded = modules_after(code)
    assert "tokenizers" in loaded
    assert not set(HEAVY) & loaded


def test_an_unknown_name_is_an_attribute_error() -> None:
    import pydllm.text

    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = pydllm.text.nope
