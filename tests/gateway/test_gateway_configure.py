"""Settings, the command line and imports: one line for every mistake, and nothing of the engine's package."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from gateway_process import spawn
from pydllm_gateway import command
from pydllm_gateway.configure import ConfigError, parse, read_keys, settings_from
from pydllm_gateway.server import StartError, bind, tls_context
from pydllm_gateway.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def start_up(fields: dict[str, Any]) -> None:
    """What a start does before it answers."""
    settings = settings_from(fields)
    tls_context(settings)
    bind(settings.host, settings.port).close()


@pytest.mark.parametrize(
    ("fields", "begin"),
    [
        ({"prot": 1}, "prot: no such option"),
        ({"port": "x"}, "port: expected an integer"),
        ({"port": 70000}, "port: expected a number at most 65535"),
        ({"port": True}, "port: expected an integer"),
        ({"port": None}, "port: expected an integer"),
        ({"drain_timeout": -1}, "drain_timeout: expected a number at least 0"),
        ({"body_timeout": 0}, "body_timeout: expected a number greater than 0"),
        ({"log_level": "loud"}, "log_level: expected 'debug', 'info'"),
        ({"api_keys": ["", "x"]}, "api_keys[0]: expected"),
        ({"api_keys": ["secret\n"]}, "api_keys[0]: expected"),
        ({"api_keys": "secret"}, "api_keys: expected"),
        ({"engine_api_key": ["secret"]}, "engine_api_key: expected a string"),
        ({"host": "no.such.host.invalid"}, "host 'no.such.host.invalid' cannot be resolved"),
        ({"engine_tls_ca": "/nowhere"}, "engine_tls_ca: /nowhere cannot be used: No such file"),
        ({"engine_tls_ca": __file__}, f"engine_tls_ca: {__file__} cannot be used: no PEM certificates"),
        ({"tls_cert": "/nowhere"}, "tls_cert and tls_key must be given together"),
        ({"tls_client_ca": "/nowhere"}, "tls_cert and tls_key must be given together"),
        ({"tls_cert": "/nowhere", "tls_key": "/nowhere"}, "tls_cert /nowhere and tls_key /nowhere cannot be used"),
    ],
)
def test_a_wrong_setting_is_one_line_without_its_value(fields: dict[str, Any], begin: str) -> None:
    with pytest.raises((ConfigError, StartError)) as failure:
        start_up({"port": 0, **fields})
    assert str(failure.value).startswith(begin)
    assert "\n" not in str(failure.value)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"null", b"\xff", b'{"port": NaN}', b'{"port": 1, "port": 2}'])
def test_a_configuration_line_is_strict_json(line: bytes) -> None:
    with pytest.raises(ConfigError, match=r"^configuration: the line"):
        parse(line)


def test_a_configuration_line_gives_settings() -> None:
    line = b'{"port": 0, "engine": "unix:/run/x", "api_keys": ["a", "b"], "drain_timeout": 2, "tls_cert": null}'
    assert parse(line) == Settings(port=0, engine="unix:/run/x", api_keys=("a", "b"), drain_timeout=2)


def test_secrets_are_not_in_the_settings_repr() -> None:
    assert "secret" not in repr(Settings(api_keys=("secret",), engine_api_key="secret"))


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# for the team\none\n\n  two  \n")
    assert read_keys(str(path)) == ("one", "two")


@pytest.mark.parametrize("text", [b"", b"\n# nothing\n", b"\xff", b"x" * 70_000], ids=["empty", "blank", "bin", "long"])
def test_a_file_without_usable_keys_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "keys"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=r"^the key file "):
        read_keys(str(path))


@pytest.mark.parametrize(
    "arguments",
    [["--port", "x"], ["--port", "-1"], ["--frob"], ["extra"], ["--api-key-file", "/nowhere"], ["--tls-key", "/x"]],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = command.main(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("pydllm-gateway: ")
    assert err.count("\n") == 1


async def test_the_command_serves_and_says_where(tmp_path: Path) -> None:
    process = await spawn(tmp_path / "log", "-m", "pydllm_gateway", "--port", "0", "--engine", "127.0.0.1:1")
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 30)
    assert line.startswith(b"pydllm-gateway ready: http://127.0.0.1:")
    assert process.stdin is not None
    process.stdin.close()  # nothing to it without a supervisor
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 20) == 0


def imported(statement: str) -> set[str]:
    """What a fresh interpreter has imported after a statement."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; {statement}; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(out.stdout.split())


def test_importing_the_package_is_cheap() -> None:
    assert not {"fastapi", "grpc", "pydantic", "uvicorn"} & imported("import pydllm_gateway")


def test_the_gateway_never_imports_the_engines_package() -> None:
    modules = imported("import pydllm_gateway.command; from pydllm_gateway.app import create_app; create_app("
                       "__import__('pydllm_gateway.settings').settings.Settings())")  # fmt: skip
    assert "pydllm_gateway.routes.chat" in modules
    assert not {name for name in modules if name.split(".")[0] in {"pydllm", "torch", "numpy", "tokenizers"}}
