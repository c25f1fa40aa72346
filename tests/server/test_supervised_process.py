"""`python -m pydllm.server --supervised`: one line in, event lines out, and no life without a parent."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from process import environment
from prometheus_client.parser import text_string_to_metric_families
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import generation_service_pb2_grpc, types_pb2

from pydllm.server.config import ServerConfig, parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

CERTS = Path(__file__).with_name("certs")


class Supervised:
    """The process, with its standard input held open."""

    def __init__(self, line: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pydllm.server", "--supervised"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**variables),
            start_new_session=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def __enter__(self) -> Supervised:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()

    def event(self) -> dict[str, Any]:
        """The next one; {} at the end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return dict(json.loads(line)) if line else {}

    def leave(self) -> None:
        """What a dying parent does."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None


def config(**server: Any) -> str:
    return json.dumps({"model": None, "engine": {"threads": 1}, "server": {"port": 0, **server}})


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[tuple[Supervised, dict[str, Any], str]]:
    path = str(tmp_path / "engine.sock")
    with Supervised(config(socket=path, metrics_port=0, drain_timeout=60)) as process:
        yield process, process.event(), path


def generation(channel: grpc.Channel) -> Any:
    return generation_service_pb2_grpc.GenerationServiceStub(channel)


def long_request() -> pb.StreamGenerateRequest:
    return pb.StreamGenerateRequest(
        request=pb.GenerateRequest(
            prompt="x",
            sampling=types_pb2.SamplingParams(max_tokens=240, ignore_eos=True, n=8, temperature=1.0),
            diffusion=types_pb2.DiffusionParams(algorithm="llada_schedule", block_length=8),
        )
    )


def test_it_serves_on_its_port_on_the_socket_and_on_its_page(ready: tuple[Supervised, dict[str, Any], str]) -> None:
    process, event, path = ready
    assert set(event) == {"event", "model", "grpc_port", "metrics_port"}
    assert (event["event"], event["model"]) == ("ready", "demo")
    for target in (f"127.0.0.1:{event['grpc_port']}", f"unix:{path}"):
        with grpc.insecure_channel(target) as channel:
            answer = generation(channel).Generate(pb.GenerateRequest(prompt="x"))
            assert answer.candidates
    with socket.create_connection(("127.0.0.1", event["metrics_port"])) as page:
        page.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = page.makefile("rb").read().decode().split("\r\n\r\n", 1)[1]
    totals = {family.name: family.samples[0].value for family in text_string_to_metric_families(text)}
    assert totals["pydllm_e2e_request_latency_seconds"] == 2 or totals["pydllm_generation_tokens"] > 0
    process.process.terminate()
    assert process.process.wait(60) == 0
    assert process.event() == {}
    assert not Path(path).exists()


def test_the_end_of_stdin_ends_it_also_with_a_request_running(ready: tuple[Supervised, dict[str, Any], str]) -> None:
    process, event, _ = ready
    with grpc.insecure_channel(f"127.0.0.1:{event['grpc_port']}") as channel:
        calls = [generation(channel).StreamGenerate(long_request()) for _ in range(2)]
        for call in calls:
            assert next(call).HasField("started")
        process.leave()
        for call in calls:  # each finishes within the five seconds or is told that the server goes away
            with contextlib.suppress(grpc.RpcError):
                list(call)
            assert call.code() in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
    assert process.process.wait(30) == 0


def test_a_parent_that_leaves_during_a_drain_shortens_it(ready: tuple[Supervised, dict[str, Any], str]) -> None:
    process, event, _ = ready
    with grpc.insecure_channel(f"127.0.0.1:{event['grpc_port']}") as channel:
        calls = [generation(channel).StreamGenerate(long_request()) for _ in range(8)]
        for call in calls:
            assert next(call).HasField("started")
        process.process.terminate()
        process.leave()
        assert process.process.wait(30) == 0


def test_a_second_sigterm_exits_at_once(ready: tuple[Supervised, dict[str, Any], str]) -> None:
    process, event, _ = ready
    assert process.process.stderr is not None
    with grpc.insecure_channel(f"127.0.0.1:{event['grpc_port']}") as channel:
        calls = [generation(channel).StreamGenerate(long_request()) for _ in range(4)]
        for call in calls:
            assert next(call).HasField("started")
        process.process.terminate()
        while b"draining" not in process.process.stderr.readline():
            pass
        process.process.terminate()
        assert process.process.wait(10) == 128 + signal.SIGTERM


FAILURES: dict[str, tuple[str, int, str]] = {
    "no JSON": ("{", 2, "configuration: expected one line with a JSON object"),
    "no object": ("[1]", 2, "configuration: expected one line with a JSON object"),
    "empty": ("", 2, "configuration: expected one line with a JSON object"),
    "unknown key": ('{"modle": null}', 2, "modle: no such setting; expected one of model, "),
    "unknown server key": ('{"server": {"prot": 1}}', 2, "server.prot: no such setting; expected one of host, port"),
    "unknown engine key": ('{"engine": {"thread": 1}}', 2, "thread: no such engine option"),
    "wrong type": ('{"server": {"port": "1"}}', 2, "server.port: expected an integer in [0, 65535], got '1'"),
    "wrong engine type": ('{"engine": {"threads": true}}', 2, "threads: "),
    "key with a space": ('{"server": {"api_keys": ["a b"]}}', 2, "server.api_keys: expected a list of keys"),
    "relative socket": ('{"server": {"socket": "x"}}', 2, "server.socket: expected an absolute path"),
    "long socket": (config(socket="/" + "x" * 107), 2, "server.socket: expected an absolute path of at most 107"),
    "socket without folder": (config(socket="/nope/x.sock"), 2, "socket: cannot listen on this path"),
    "foreign host": (config(host="203.0.113.7"), 2, "host: 203.0.113.7 is no address of this machine"),
    "half of TLS": (config(tls_cert=str(CERTS / "server.pem")), 2, "tls_key: expected with tls_cert"),
    "missing key": (
        config(tls_cert=str(CERTS / "server.pem"), tls_key="/nope.key"),
        2,
        "tls_key: /nope.key cannot be read (No such file or directory)",
    ),
    "bad algorithm": ('{"engine": {"algorithm": "nope"}, "server": {"port": 0}}', 2, "algorithm: expected one of"),
    "no checkpoint": ('{"model": "/nope", "server": {"port": 0}}', 1, "checkpoint: "),
    "no model here": ('{"model": "/proc", "server": {"port": 0}}', 1, "checkpoint: "),
}


@pytest.mark.parametrize(("line", "code", "expected"), FAILURES.values(), ids=FAILURES.keys())
def test_what_cannot_start_says_why_in_one_line(line: str, code: int, expected: str) -> None:
    with Supervised(line) as process:
        event = process.event()
        assert (event["event"], event["code"]) == ("failed", code)
        assert event["message"].startswith(expected)
        assert "\n" not in event["message"]
        assert process.process.wait(30) == code
        assert process.event() == {}
        assert process.process.stderr is not None
        assert b"Traceback" not in process.process.stderr.read()


@pytest.mark.parametrize("name", ["grpc_port", "metrics_port"])
def test_a_port_in_use_is_a_wrong_setting(name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Supervised(config(**{name.removeprefix("grpc_"): port})) as process:
            event = process.event()
            assert event["message"] == f"{name}: 127.0.0.1:{port} is in use"
            assert (event["code"], process.process.wait(30)) == (2, 2)


def test_secrets_are_in_no_message() -> None:
    line = json.dumps({"server": {"api_keys": ["secret one"], "internal_key": "secret-two"}})
    with Supervised(line) as process:
        assert "secret one" not in process.event()["message"]
        assert process.process.stderr is not None
        assert b"secret" not in process.process.stderr.read()
    assert "secret" not in repr(parse(b'{"server": {"api_keys": ["secret-1"], "internal_key": "secret-2"}}'))


def test_a_stale_socket_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "engine.sock")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)
        one.listen()
        with Supervised(config(socket=path)) as process:
            assert process.event()["message"] == "socket: the path is in use"
    assert os.path.exists(path)  # nobody listens any more, the file is still there
    with Supervised(config(socket=path)) as process:
        assert process.event()["event"] == "ready"
    (tmp_path / "file").write_text("precious")
    with Supervised(config(socket=str(tmp_path / "file"))) as process:
        assert process.event()["message"] == "socket: the path is taken by something that is no socket"
    assert (tmp_path / "file").read_text() == "precious"


def test_sigterm_while_loading_exits_zero_without_an_event() -> None:
    code = (
        "import sys, threading\n"
        "from pydllm.server import supervised\n"
        "def slow(*a, **k):\n"
        "    print('printed while loading', file=sys.stderr, flush=True)\n"
        "    print('stray output')\n"
        "    threading.Event().wait()\n"
        "supervised.load_served = slow\n"
        "sys.exit(supervised.main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(config().encode() + b"\n")
    process.stdin.flush()
    while b"printed while loading" not in process.stderr.readline():
        pass
    process.terminate()
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"")


def test_without_the_flag_it_points_to_pydllm_serve() -> None:
    out = subprocess.run([sys.executable, "-m", "pydllm.server"], capture_output=True, env=environment(), check=False)
    assert (out.returncode, out.stdout) == (2, b"")
    assert b"pydllm serve" in out.stderr


def test_every_setting_of_the_server_is_read() -> None:
    import dataclasses

    given: dict[str, Any] = {
        "host": "::1",
        "port": 1,
        "drain_timeout": 2.5,
        "socket": "/s",
        "api_keys": ["a"],
        "internal_key": "b",
        "tls_cert": "c",
        "tls_key": "d",
        "tls_client_ca": "e",
        "enable_admin": True,
        "metrics_port": 3,
        "metrics_alias": True,
        "skip_tokenizer": True,
    }
    assert set(given) == {field.name for field in dataclasses.fields(ServerConfig)}
    assert parse(json.dumps({"server": given}).encode()).server == ServerConfig(**{**given, "api_keys": ("a",)})
    nulls = dict.fromkeys(("socket", "internal_key", "tls_cert", "tls_key", "tls_client_ca", "metrics_port"))
    assert parse(json.dumps({"server": nulls, "model": None}).encode()).server == ServerConfig()
