"""What the children are told, addresses, copy-paste lines and the files that options name."""

from __future__ import annotations

import json
import os
import shlex
import socket
import stat
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from pydllm.cli.files import check_tls, is_private, read_algorithm_config, read_api_keys
from pydllm.cli.options import Resolved, UsageError
from pydllm.supervisor.config import ServeConfig, private_folder, specs
from pydllm.supervisor.examples import examples, ready_line
from pydllm.supervisor.ports import PortError, check_ports

if TYPE_CHECKING:
    from pathlib import Path

EVENTS: dict[str, dict[str, Any]] = {
    "engine": {"event": "ready", "model": 'it\'s "q"', "grpc_port": 4001, "metrics_port": 4002},
    "gateway": {"event": "ready", "port": 4003},
}


def test_the_children_are_told_the_same_secrets_and_socket() -> None:
    config = ServeConfig(
        model="m",
        engine={"threads": 3},
        api_keys=("k1", "k2"),
        tls_cert="c",
        tls_key="k",
        tls_client_ca="ca",
        drain_timeout=7,
        log_level="debug",
        metrics_alias=True,
        enable_admin=True,
        skip_tokenizer=True,
    )
    engine, gateway = specs(config, "/folder")
    server = dict(engine.config["server"])
    key = server.pop("internal_key")
    assert len(key) >= 32
    shared = {
        "host": "127.0.0.1",
        "drain_timeout": 7,
        "api_keys": ["k1", "k2"],
        "tls_cert": "c",
        "tls_key": "k",
        "tls_client_ca": "ca",
    }
    flags = {"metrics_alias": True, "enable_admin": True, "skip_tokenizer": True}
    assert server == {**shared, **flags, "port": 50051, "socket": "/folder/engine.sock", "metrics_port": 8002}
    assert {**engine.config, "server": 0} == {
        "model": "m",
        "revision": None,
        "served_model_name": None,
        "log_level": "debug",
        "engine": {"threads": 3},
        "server": 0,
    }
    assert gateway.config == {
        **shared,
        "port": 8000,
        "engine": "unix:/folder/engine.sock",
        "engine_api_key": key,
        "log_level": "debug",
    }
    assert specs(config, "/folder")[0].config["server"]["internal_key"] != key


def test_the_children_accept_what_they_are_told() -> None:
    from pydllm_gateway.settings import Settings

    from pydllm.server.config import parse

    engine, gateway = specs(ServeConfig(engine={"threads": 3}, api_keys=("k",)), "/folder")
    told = parse(json.dumps(engine.config).encode())
    assert (told.engine.threads, told.server.socket, told.server.api_keys) == (3, "/folder/engine.sock", ("k",))
    assert Settings(**gateway.config).engine_api_key == told.server.internal_key


def test_without_a_gateway_there_is_no_socket_and_no_internal_key() -> None:
    (engine,) = specs(ServeConfig(gateway=False), "/folder")
    assert engine.config["server"]["socket"] is None
    assert engine.config["server"]["internal_key"] is None


def test_children_get_no_secret_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDLLM_API_KEY", "s3cret")
    monkeypatch.setenv("HF_TOKEN", "hf_s3cret")
    engine, gateway = specs(ServeConfig(api_keys=("s3cret",)), "/folder")
    assert "s3cret" not in engine.environment.values()
    assert engine.environment["HF_TOKEN"] == "hf_s3cret"
    assert not {"s3cret", "hf_s3cret"} & set(gateway.environment.values())
    for child in (engine, gateway):
        assert "s3cret" not in " ".join(child.command)
    assert "s3cret" not in repr(ServeConfig(api_keys=("s3cret",)))


def test_the_folder_of_the_socket_is_private_and_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for base in (tmp_path, tmp_path / ("d" * 90)):
        base.mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(base))
        with private_folder() as folder:
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
            with socket.socket(socket.AF_UNIX) as unix:
                unix.bind(os.path.join(folder, "engine.sock"))  # short enough for the kernel
        assert not os.path.exists(folder)


def test_two_equal_ports_are_refused_and_two_free_choices_are_not() -> None:
    check_ports("127.0.0.1", {"grpc_port": 0, "http_port": 0})
    with pytest.raises(PortError, match="metrics_port: expected a port of its own, got 50, which is grpc_port"):
        check_ports("127.0.0.1", {"grpc_port": 50, "http_port": 51, "metrics_port": 50})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_in_use_is_named_with_its_option(host: str) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        taken.bind((host, 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        with pytest.raises(PortError) as caught:
            check_ports(host, {"grpc_port": 0, "http_port": port})
    assert str(caught.value) == f"http_port: {shown} is in use"


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_a_foreign_host_is_refused(host: str) -> None:
    with pytest.raises(PortError, match=f"host: {host} is no address of this machine"):
        check_ports(host, {"grpc_port": 0})


def test_the_ready_line_names_every_address() -> None:
    model = EVENTS["engine"]["model"]
    plain = ServeConfig()
    both = f"pydllm ready: model {model} on http://127.0.0.1:4003 and grpc://127.0.0.1:4001"
    assert ready_line(plain, EVENTS) == both
    alone = {"engine": EVENTS["engine"]}
    assert ready_line(plain, alone) == f"pydllm ready: model {model} on grpc://127.0.0.1:4001"
    secure = ServeConfig(host="::", tls_cert="c", tls_key="k")
    assert ready_line(secure, EVENTS) == f"pydllm ready: model {model} on https://[::]:4003 and grpcs://[::]:4001"


def commands(text: str) -> list[list[str]]:
    """The words of every pasted command, as the shell sees them, without variables and comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if not line.strip().startswith("#")]


@pytest.mark.parametrize("secured", [False, True])
def test_copy_paste_lines_survive_the_shell_and_the_interpreter(secured: bool) -> None:
    """Whatever the model and the files are called."""
    security = {"api_keys": ("s3cret",), "tls_cert": 'it\'s "c".pem', "tls_key": "k", "tls_client_ca": "ca"}
    text = examples(ServeConfig(host="0.0.0.0", **(security if secured else {})), EVENTS)  # type: ignore[arg-type]
    curl, openai, grpcurl, grpc = commands(text)
    body = json.loads(curl[curl.index("-d") + 1])
    assert body["model"] == EVENTS["engine"]["model"]
    assert body["messages"] == [{"role": "user", "content": "Solve: 12 + 30."}]
    assert f"{'https' if secured else 'http'}://127.0.0.1:4003/v1/chat/completions" in curl
    json.loads(grpcurl[grpcurl.index("-d") + 1])
    for line in (openai, grpc):
        compile(line[-1], "pasted", "exec")
    assert ("--cacert" in curl, "-cacert" in grpcurl, openai[0].startswith("SSL_CERT_FILE=")) == (secured,) * 3
    assert ("$PYDLLM_API_KEY" in text, 'os.environ["PYDLLM_API_KEY"]' in text) == (secured, secured)
    assert ("-plaintext" in grpcurl) is not secured
    assert "s3cret" not in text


def test_without_a_gateway_only_grpc_lines_are_shown() -> None:
    text = examples(ServeConfig(gateway=False), {"engine": EVENTS["engine"]})
    assert "curl http" not in text
    assert [command[0] for command in commands(text)] == ["grpcurl", "python"]


def test_a_key_file_has_one_key_per_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\nalpha\n\n  beta-2_~  \n")
    assert read_api_keys(str(file)) == ("alpha", "beta-2_~")
    for mode, private in ((0o600, True), (0o640, False), (0o604, False)):
        file.chmod(mode)
        assert is_private(str(file)) is private


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected one key per line, got none"),
        (b"# only\n\n", "expected one key per line, got none"),
        (b"good\nbad key\n", "line 2: expected printable ASCII characters without spaces"),
        ("schlüssel".encode(), "line 1: expected printable ASCII"),
        (b"\xff", "expected UTF-8 text"),
        (b"k\n" * 2**17 + b"k", "expected at most 262144 characters"),
    ],
)
def test_a_bad_key_file_is_one_line_that_shows_no_key(content: bytes, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=expected) as caught:
        read_api_keys(str(file))
    assert "bad key" not in str(caught.value)
    with pytest.raises(UsageError, match="api_key_file: /nope: cannot be read: No such file"):
        read_api_keys("/nope")


def tls(**given: str | None) -> dict[str, Resolved]:
    return {name: Resolved(given.get(name), "flag") for name in ("tls_cert", "tls_key", "tls_client_ca")}


def test_tls_files_belong_together_and_must_be_readable(tmp_path: Path) -> None:
    file = str(tmp_path / "x.pem")
    (tmp_path / "x.pem").touch()
    check_tls(tls())
    check_tls(tls(tls_cert=file, tls_key=file, tls_client_ca=file))
    for given, expected in (
        ({"tls_cert": file}, "tls_key: expected a file, because tls_cert is set"),
        ({"tls_key": file}, "tls_cert: expected a file, because tls_key is set"),
        ({"tls_client_ca": file}, "tls_cert: expected a file, because tls_client_ca is set"),
        ({"tls_cert": file, "tls_key": "/nope"}, "tls_key: /nope: cannot be read: No such file or directory"),
        ({"tls_cert": str(tmp_path), "tls_key": file}, "tls_cert: .*: cannot be read: Is a directory"),
    ):
        with pytest.raises(UsageError, match=expected):
            check_tls(tls(**given))


def test_parameters_of_the_algorithm_come_from_a_yaml_mapping(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("threshold: 0.8\nsteps: 12\nremasking: random\nstrict: true\n")
    assert read_algorithm_config(str(file)) == {"threshold": 0.8, "steps": 12, "remasking": "random", "strict": True}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected a mapping of parameters"),
        ("- 1", "expected a mapping of parameters"),
        ("{}", "expected a mapping of parameters"),
        ("1: 2", "expected names as keys, got 1"),
        ("a: [1]", "a: expected a number, true, false or a text"),
        ("a: .inf", "a: expected a number, true, false or a text"),
        ("a: null", "a: expected a number, true, false or a text"),
        ("a: {", "no valid YAML"),
    ],
)
def test_a_bad_algorithm_config_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=expected) as caught:
        read_algorithm_config(str(file))
    assert "\n" not in str(caught.value)
