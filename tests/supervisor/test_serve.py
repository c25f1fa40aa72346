"""The real `pydllm serve` over the demo model: addresses, configuration, draining, crashes, secrets."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fakes import is_alive, visible
from stack import Stack, children, environment, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANY = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
CERTS = Path(__file__).resolve().parents[1] / "server/certs"
LONG = {
    "prompt": "x",
    "max_tokens": 240,
    "ignore_eos": True,
    "temperature": 1.0,
    "stream": True,
    "dllm": {"algorithm": "llada_schedule", "block_length": 8},
}


@pytest.fixture
def serve() -> Iterator[Stack]:
    with Stack() as running:
        yield running


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pydllm", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(**variables),
        check=False,
    )


def last_line(outcome: subprocess.CompletedProcess[str]) -> str:
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    return outcome.stderr.strip().splitlines()[-1]


def post(url: str, body: dict[str, Any], timeout: float = 60) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return urllib.request.urlopen(request, timeout=timeout)


def ask(url: str) -> str:
    messages = [{"role": "user", "content": "Solve: 12 + 30."}]
    with post(f"{url}/v1/chat/completions", {"model": "demo", "messages": messages}) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def status(url: str) -> tuple[int, str | None]:
    """Of GET /ready; 0 when nobody listens."""
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=10) as response:
            return response.status, None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Retry-After"]
    except OSError:
        return 0, None


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> float:
    """The seconds until the condition held."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds, f"waited in vain: {what}"
        time.sleep(0.01)
    return time.monotonic() - begin


def pasted(serve: Stack) -> list[str]:
    """The copy-paste commands, one string each. They follow the ready line on the other stream."""
    until(lambda: "candidates[0].text)" in serve.errors(), "the last command")
    errors = serve.errors()
    lines = errors[errors.index("  curl ") :].replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"  (curl|SSL_CERT_FILE=|python|grpcurl)", line)]


def test_the_pasted_lines_and_every_address_work(serve: Stack) -> None:
    curl, openai, grpcurl, grpc = pasted(serve)
    done = subprocess.run(["sh", "-c", curl], capture_output=True, timeout=60, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "12 + 30 = 42"
    assert (serve.http in openai, serve.grpc in grpcurl) == (True, True)
    words = shlex.split(grpc)
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, timeout=60, check=True, env=environment())
    assert done.stdout == b"12 + 30 = 42\n"
    assert "# HELP" in urllib.request.urlopen(serve.metrics_url, timeout=10).read().decode()
    assert serve.process.stdout is not None
    assert serve.stop() == 0
    assert serve.process.stdout.read() == ""  # the ready line was the only one


@pytest.mark.parametrize("option", ["grpc_port", "http_port", "metrics_port"])
def test_a_port_in_use_ends_before_anything_is_started(option: str) -> None:
    flag = "--" + option.replace("_", "-")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        outcome = run(*ANY, flag, port)
    assert outcome.returncode == 2
    assert outcome.stderr == f"pydllm serve: {option}: 127.0.0.1:{port} is in use\n"


def test_two_options_with_one_port_are_refused() -> None:
    port = str(free_port())
    outcome = run(*ANY, "--http-port", port, "--metrics-port", port)
    assert outcome.returncode == 2
    assert last_line(outcome) == (
        f"pydllm serve: metrics_port: expected a port of its own, got {port}, which is http_port"
    )


def test_the_configuration_is_printed_with_sources_and_without_secrets(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("page-size: 8\nthreads: 1\nlog_level: error\napi_key: s3cret-file\nmax_batched_tokens: 77\n")
    variables = {"PYDLLM_THREADS": "2", "PYDLLM_LOG_LEVEL": "warning", "PYDLLM_API_KEY": "s3cret-env"}
    outcome = run("/nope", *ANY, "--config", str(file), "--log-level", "debug", **variables)
    assert outcome.returncode == 1
    assert last_line(outcome) == ("pydllm serve: checkpoint: /nope: no such directory, and not a Hub id (owner/name)")
    printed = {line.split()[0]: line.split(maxsplit=1)[1] for line in outcome.stderr.splitlines() if "  [" in line}
    assert printed["log_level"] == "debug  [flag]"
    assert printed["threads"] == "2  [env PYDLLM_THREADS]"
    assert printed["page_size"] == f"8  [config {file}]"
    assert printed["mem_fraction"] == "0.5  [default]"
    assert printed["api_key"] == "(set)  [env PYDLLM_API_KEY]"
    assert printed["tls_cert"] == "(none)  [default]"
    assert printed["host"] == "127.0.0.1  [default]"
    assert "s3cret" not in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--api-key", "two words"], 2, "--api-key: expected printable ASCII characters without spaces"),
        (["--api-key-file", "/nope"], 2, "api_key_file: /nope: cannot be read: No such file or directory"),
        (["--tls-cert", "/nope"], 2, "tls_key: expected a file, because tls_cert is set"),
        (["--algorithm-config", "/nope"], 2, "/nope: cannot be read: No such file or directory"),
        (["--max-model-len", "9999"], 2, "max_model_len: "),
        (["--device", "cuda"], 2, "device: "),
        (["--host", "203.0.113.7"], 2, "host: 203.0.113.7 is no address of this machine"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_its_exit_code(arguments: list[str], code: int, expected: str) -> None:
    outcome = run(*ANY, *arguments)
    assert outcome.returncode == code
    assert last_line(outcome).startswith(f"pydllm serve: {expected}")
    assert "two words" not in outcome.stderr


def test_tls_material_that_is_none_ends_the_start(tmp_path: Path) -> None:
    file = tmp_path / "x.pem"
    file.write_text("no certificate")
    outcome = run(*ANY, "--tls-cert", str(file), "--tls-key", str(file))
    assert outcome.returncode == 2
    assert last_line(outcome).startswith("pydllm serve: tls_")


def test_parameters_of_the_default_algorithm_reach_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("steps: 12\n")
    with Stack("--algorithm", "llada_schedule", "--algorithm-config", str(file)) as serve:
        body = {"prompt": "x", "max_tokens": 24, "ignore_eos": True, "dllm": {}}
        with post(f"{serve.url}/v1/completions", body) as response:
            answer = json.load(response)
    assert answer["choices"][0]["dllm"]["nfe"] == 12
    file.write_text("nonsense: 1\n")
    outcome = run(*ANY, "--algorithm-config", str(file))
    assert outcome.returncode == 2
    assert "nonsense" in last_line(outcome)


def test_sigterm_lets_a_running_stream_finish_and_ends_every_process(serve: Stack) -> None:
    own = serve.pids()
    with post(f"{serve.url}/v1/completions", LONG) as stream:
        first = stream.readline()
        serve.process.send_signal(signal.SIGTERM)
        rest = stream.read().decode()
    assert first.startswith(b"data: {")
    assert rest.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"length"' in rest.replace(" ", "")
    assert "for 1 calls" in serve.errors()  # it was still running when the drain began
    assert serve.process.wait(60) == 0
    assert not any(map(is_alive, own.values()))
    assert "Traceback" not in serve.errors()


def test_a_second_signal_ends_every_process_at_once() -> None:
    with Stack("--drain-timeout", "600") as serve:
        own = serve.pids()
        with post(f"{serve.url}/v1/completions", {**LONG, "n": 16}) as stream:
            assert stream.readline()
            serve.process.send_signal(signal.SIGTERM)
            until(lambda: "draining" in serve.errors(), "the log line")
            serve.process.send_signal(signal.SIGINT)
            assert serve.process.wait(10) == 128 + signal.SIGINT
        assert not any(map(is_alive, own.values()))


def test_a_killed_engine_comes_back_and_the_gateway_stays(
    serve: Stack, record_property: Callable[[str, object], None]
) -> None:
    before = serve.pids()
    seen: set[tuple[int, str | None]] = set()
    os.kill(before["engine"], signal.SIGKILL)
    down = until(lambda: status(serve.url) == (503, "1"), "503 with Retry-After")

    def back() -> bool:
        seen.add(status(serve.url))
        return (200, None) in seen

    seconds = until(back, "the engine's return")
    assert seen <= {(503, "1"), (200, None)}
    assert ask(serve.url) == "12 + 30 = 42"
    after = serve.pids()
    assert after["gateway"] == before["gateway"]
    assert after["engine"] != before["engine"]
    errors = serve.errors()
    assert f"engine process {before['engine']} was killed by SIGKILL; starting it again in 0.5 s" in errors
    assert f"engine process {after['engine']} is ready again" in errors
    with socket.create_connection(serve.grpc.rsplit(":", 1)):  # type: ignore[arg-type]
        pass  # the public port is the same
    assert serve.stop() == 0
    record_property("figure", f"engine killed: 503 after {down:.2f} s, serving again {seconds:.1f} s later")


def test_a_stream_that_loses_its_engine_ends_with_an_error(
    serve: Stack, record_property: Callable[[str, object], None]
) -> None:
    with post(f"{serve.url}/v1/completions", {**LONG, "n": 8}) as stream:
        assert stream.readline().startswith(b"data: {")
        begin = time.monotonic()
        os.kill(serve.pids()["engine"], signal.SIGKILL)
        rest = stream.read().decode()
        seconds = time.monotonic() - begin
    assert seconds < 2
    record_property("figure", f"engine killed: its stream ended with an error event after {seconds:.2f} s")
    assert '{"error":' in rest.replace(" ", "")
    assert "[DONE]" not in rest
    assert "unix:" not in rest


def test_a_killed_gateway_comes_back_on_its_port_and_the_engine_stays(serve: Stack) -> None:
    before = serve.pids()
    os.kill(before["gateway"], signal.SIGKILL)
    until(lambda: status(serve.url)[0] == 200 and serve.pids().get("gateway") != before["gateway"], "the gateway")
    assert ask(serve.url) == "12 + 30 = 42"
    assert serve.pids()["engine"] == before["engine"]
    assert serve.stop() == 0


def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with Stack(TMPDIR=str(tmp_path)) as serve:  # nobody is left to remove the socket's folder
        own = serve.pids()
        assert set(own) == {"engine", "gateway"}
        serve.process.kill()
        seconds = until(lambda: not any(map(is_alive, own.values())), "the children's end", 10)
    record_property("figure", f"children of a killed supervisor ended after {seconds:.2f} s")


def test_children_of_a_supervisor_killed_while_loading_leave_too(tmp_path: Path) -> None:
    with socket.socket() as hub:
        hub.bind(("127.0.0.1", 0))
        hub.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "pydllm", "serve", "some/model", *ANY],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**stalled(hub), "TMPDIR": str(tmp_path)},
        )
        try:
            download, _ = hub.accept()  # the engine is in the middle of it
            own = list(children(process.pid).values())
            assert len(own) == 2
        finally:
            process.kill()
            process.wait()
        with download:
            until(lambda: not any(map(is_alive, own)), "the children's end", 10)


def test_sigterm_while_loading_ends_every_process_without_waiting() -> None:
    with socket.socket() as hub:
        hub.bind(("127.0.0.1", 0))
        hub.listen()
        process = subprocess.Popen(
            [sys.executable, "-m", "pydllm", "serve", "some/model", *ANY],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=stalled(hub),
        )
        download, _ = hub.accept()
        with download:
            own = list(children(process.pid).values())
            process.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            out, errors = process.communicate(timeout=60)
            assert time.monotonic() - begin < 5
    assert (process.returncode, out) == (0, "")
    assert errors.splitlines()[-1] == "pydllm serve: stopped while loading"
    assert not any(map(is_alive, own))


def stalled(hub: socket.socket) -> dict[str, str]:
    """The environment of a server whose download of weights never answers."""
    endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
    return environment(HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0", HF_HOME="/nope", NO_PROXY="127.0.0.1")


def test_no_secret_is_visible_from_outside(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("s3cret-of-the-file\n")
    file.chmod(0o600)
    with Stack("--api-key-file", str(file)) as serve:
        for pid in (serve.process.pid, *serve.pids().values()):
            assert "s3cret" not in visible(pid)
        assert "s3cret" not in serve.errors()
        assert "can be read by other users" not in serve.errors()
        request = urllib.request.Request(f"{serve.url}/v1/models")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 401
        caught.value.close()
        curl = pasted(serve)[0]
        assert "$PYDLLM_API_KEY" in curl
        done = subprocess.run(
            ["sh", "-c", curl],
            capture_output=True, timeout=60, check=True, env={**os.environ, "PYDLLM_API_KEY": "s3cret-of-the-file"},
        )  # fmt: skip
        assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "12 + 30 = 42"


def test_a_key_from_the_environment_reaches_no_child_in_its_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("another\n")
    file.chmod(0o644)
    with Stack("--api-key-file", str(file), PYDLLM_API_KEY="s3cret-variable") as serve:
        own = serve.pids()
        assert set(own) == {"engine", "gateway"}
        for pid in own.values():
            assert "s3cret" not in visible(pid)
        assert "can be read by other users" in serve.errors()
        for key in ("s3cret-variable", "another"):
            request = urllib.request.Request(f"{serve.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
            with urllib.request.urlopen(request, timeout=10) as response:
                assert response.status == 200


@pytest.mark.parametrize("mutual", [False, True])
def test_with_tls_the_pasted_lines_name_what_to_trust(mutual: bool, tmp_path: Path) -> None:
    flags = ["--tls-cert", f"{CERTS}/server.pem", "--tls-key", f"{CERTS}/server.key"]
    flags += ["--tls-client-ca", f"{CERTS}/authority.pem"] if mutual else []
    for name, source in (("client.pem", "client.pem"), ("client-key.pem", "client.key")):
        (tmp_path / name).write_bytes((CERTS / source).read_bytes())
    with Stack(*flags) as serve:
        curl, _, _, grpc = (line.replace(f"{CERTS}/server.pem", f"{CERTS}/authority.pem") for line in pasted(serve))
        done = subprocess.run(["sh", "-c", curl], cwd=tmp_path, capture_output=True, timeout=60, check=True)
        assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "12 + 30 = 42"
        python = [sys.executable, *shlex.split(grpc)[1:]]
        done = subprocess.run(python, cwd=tmp_path, capture_output=True, timeout=60, check=True, env=environment())
        assert done.stdout == b"12 + 30 = 42\n"
        with pytest.raises(OSError):  # noqa: PT011 - plain HTTP gets no answer, whatever the reason it is given
            urllib.request.urlopen(f"http://{serve.http}/health", timeout=10)
        assert serve.stop() == 0


def test_an_open_address_is_warned_about_once() -> None:
    with Stack("--host", "0.0.0.0") as serve:
        text = serve.errors().upper()
        assert text.count("AUTHENTICATION") == text.count("ENCRYPTION") == 1
        assert "0.0.0.0:" in serve.http
        assert pasted(serve)[0].startswith("curl http://127.0.0.1:")


def test_the_socket_folder_is_private_and_removed(tmp_path: Path) -> None:
    with Stack(TMPDIR=str(tmp_path)) as serve:
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in folder.iterdir()] == ["engine.sock"]
        assert serve.stop() == 0
        assert not list(tmp_path.iterdir())
