"""The command line: sources of options, exit codes, one line per error, and a server as its own process."""

from __future__ import annotations

import json
import resource
import signal
import socket
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from process import ServerProcess, environment
from pydllm_proto.v1 import generation_service_pb2 as pb
from pydllm_proto.v1 import generation_service_pb2_grpc, types_pb2

from pydllm.cli import settings
from pydllm.cli.options import Option, UsageError, resolve, switch, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPTIONS = [Option("page_size", "", whole(1), 32), Option("allow_unused_tensors", "", switch, False)]


def run(*arguments: str, stdin: str | bytes = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pydllm", *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=120,
        env=environment(**variables),
        check=False,
    )


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("page-size: 8\nallow_unused_tensors: true\n")
    path = str(file)
    from_file = resolve(OPTIONS, {}, {}, path)
    assert (from_file["page_size"].value, from_file["page_size"].source) == (8, f"config {path}")
    assert from_file["allow_unused_tensors"].value is True
    environment = {"PYDLLM_PAGE_SIZE": "16", "PYDLLM_CONFIG": path}
    from_environment = resolve(OPTIONS, {}, environment, None)["page_size"]
    assert (from_environment.value, from_environment.source) == (16, "env PYDLLM_PAGE_SIZE")
    from_flag = resolve(OPTIONS, {"page_size": "64"}, environment, path)["page_size"]
    assert (from_flag.value, from_flag.source) == (64, "flag")
    default = resolve(OPTIONS, {}, {}, None)["page_size"]
    assert (default.value, default.source) == (32, "default")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pages: 1", "pages: no such option; expected one of page_size"),
        ("- 1", "expected a mapping"),
        ("page_size: [1]", "page_size: expected a single value"),
        ("page_size: 0", "page_size: expected an integer in"),
        ("page_size: {", "no valid YAML"),
        ("!!python/object/apply:os.system ['true']", "no valid YAML"),
    ],
)
def test_a_bad_file_is_one_line(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=expected) as caught:
        resolve(OPTIONS, {}, {}, str(file))
    assert "\n" not in str(caught.value)


def test_every_flag_has_one_meaning() -> None:
    for groups in ({**settings.SERVE, **settings.ENGINE}, {**settings.GENERATE, **settings.ENGINE}):
        names = [option.name for option in settings.listed(groups)]
        assert len(names) == len(set(names))


def test_engine_defaults_are_those_of_the_engine() -> None:
    from pydllm.engine import EngineConfig

    engine = EngineConfig()
    for option in settings.listed(settings.ENGINE):
        if option.default is not None:
            assert option.default == getattr(engine, option.name), option.name


@pytest.mark.parametrize(
    ("command", "groups"),
    [
        ("serve", ("server:", "security:", "defaults of requests:", "model:", "engine:")),
        ("generate", ("sampling:", "diffusion:", "model:", "engine:")),
    ],
)
def test_help_is_quick_and_grouped(
    command: str, groups: tuple[str, ...], record_property: Callable[[str, object], None]
) -> None:
    times = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = run(command, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert out.returncode == 0
    for group in groups:
        assert f"\n{group}\n" in out.stdout.decode()
    median = statistics.median(times)
    record_property("figure", f"{command} --help: {median * 1000:.0f} ms of processor time (median of {len(times)})")
    assert median < 0.2  # processor time: a busy machine is not our slowness


def test_the_parser_imports_nothing_heavy() -> None:
    code = (
        "import sys, pydllm.cli.main as m; m.parser();"
        "print([n for n in ('grpc', 'numpy', 'tokenizers', 'jinja2', 'yaml', 'rich', 'google.protobuf', "
        "'pydllm._core', 'pydllm.engine', 'asyncio') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment(), check=True)
    assert out.stdout.decode().strip() == "[]"


def test_generate_prints_only_the_text() -> None:
    out = run("generate", "Solve: 12 + 30.")
    assert (out.returncode, out.stdout.decode(), out.stderr.decode()) == (0, "12 + 30 = 42\n", "")


def test_generate_reads_stdin_and_prints_json_and_statistics() -> None:
    out = run("generate", "-", "--json", "--stats", "--n", "2", stdin="Solve: 12 + 30.")
    lines = [json.loads(line) for line in out.stdout.decode().splitlines()]
    assert [line["text"] for line in lines] == ["12 + 30 = 42"] * 2
    assert [line["index"] for line in lines] == [0, 1]
    assert out.stderr.decode().count("forward_passes") == 2


def test_generate_raw_leaves_the_template_out() -> None:
    out = run("generate", "Solve: 12 + 30.", "--raw", "--json", "--max-tokens", "1")
    chat = run("generate", "Solve: 12 + 30.", "--json", "--max-tokens", "1")
    raw, templated = json.loads(out.stdout), json.loads(chat.stdout)
    assert raw["prompt_tokens"] < templated["prompt_tokens"]


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "expected"),
    [
        (["generate", "x", "--temperature", "nan"], {}, 2, "--temperature: expected a number in [0, 100]"),
        (["generate", "x", "--max-tokens", "0"], {}, 2, "--max-tokens: expected an integer"),
        (["generate", "x", "--max-tokens", "9999"], {}, 2, "sampling.max_tokens: "),
        (["generate", "x", "--algorithm", "nope"], {}, 2, "diffusion.algorithm: expected one of"),
        (["generate", "x", "--model", "/nope"], {}, 1, "no such directory"),
        (["generate", "-"], {}, 2, "UTF-8"),
        (["generate"], {}, 2, "PROMPT"),
        (["nonsense"], {}, 2, "invalid choice"),
        (["serve", "--grpc-port", "70000"], {}, 2, "--grpc-port: expected an integer in [0, 65535]"),
        (["serve", "--device", "cuda"], {}, 2, "device: "),
        (["serve", "--mem-fraction", "0"], {}, 2, "mem_fraction: "),
        (["serve", "--grpc-port", "0"], {"PYDLLM_THREADS": "many"}, 2, "PYDLLM_THREADS: expected an integer"),
        (["serve", "--grpc-port", "0"], {"PYDLLM_CONFIG": "/nope.yaml"}, 2, "/nope.yaml: cannot be read"),
        (["serve", "--grpc-port", "0", "--algorithm", "nope"], {}, 2, "algorithm: expected one of"),
        (["serve", "--grpc-port", "0", "--max-model-len", "9999"], {}, 2, "max_model_len: "),
        (["serve", "/nope", "--grpc-port", "0"], {}, 1, "no such directory"),
        (["serve", "/proc", "--grpc-port", "0"], {}, 1, "config.json"),
    ],
)
def test_errors_are_one_line_without_traceback(
    arguments: list[str], variables: dict[str, str], code: int, expected: str
) -> None:
    out = run(*arguments, stdin=b"\xff", **variables)
    assert out.returncode == code
    assert out.stdout == b""
    last = out.stderr.decode().strip().splitlines()[-1]
    assert last.startswith("pydllm")
    assert expected in last
    assert "Traceback" not in out.stderr.decode()
    if arguments[0] == "generate":
        assert len(out.stderr.decode().strip().splitlines()) == 1


def test_generate_takes_stop_strings_and_parameters_of_the_algorithm() -> None:
    arguments = ["generate", "Solve: 12 + 30.", "--json", "--algorithm", "llada_schedule", "--param", "steps=5"]
    whole_run = json.loads(run(*arguments, "--ignore-eos").stdout)
    assert whole_run["stats"]["forward_passes"] == 5
    cut = json.loads(run(*arguments, "--stop", "nowhere", "--stop", " = ").stdout)
    assert (cut["text"], cut["finish_reason"], cut["stop_match"]) == ("12 + 30", "stop_sequence", " = ")
    wrong = run(*arguments[:2], "--param", "steps")
    assert (wrong.returncode, b"NAME=VALUE" in wrong.stderr) == (2, True)
    unknown = run(*arguments[:2], "--param", "nope=1")
    assert (unknown.returncode, b"diffusion.extra.nope" in unknown.stderr) == (2, True)


def test_models_lists_every_algorithm_with_its_parameters() -> None:
    from pydllm import _core

    out = run("models").stdout.decode()
    for algorithm in _core.algorithms():
        assert f"\n{algorithm.name}" in out
        for spec in algorithm.params:
            assert f"  {spec.name} " in out
    assert "LLaDAModelLM" in out
    near_max = out.partition("\nnear_max ")[2].partition("\n\n")[0].splitlines()
    assert near_max[2] == "  for models with full attention or block-causal attention"
    only = [line.split()[0] for line in near_max if line.endswith("; full attention only")]
    assert only == ["block_length", "remasking", "cache"]


def test_version_and_env() -> None:
    from pydllm._version import __version__

    assert run("version").stdout.decode().strip() == __version__
    out = run("env").stdout.decode()
    for fact in ("cores usable", "memory available", "cpu.float32", "cuda.built", "cuda.cublaslt", "grpcio"):
        assert fact in out


CUDA: dict[str, Any] = {
    "built": True,
    "runtime": "13.0",
    "driver": "13.1",
    "devices": [
        {"name": "NVIDIA H200", "compute_capability": "9.0", "memory_bytes": 140 * 2**30, "free_bytes": 139 * 2**30}
    ],
    "error": "",
    "problems": [],
    "cublaslt": {"version": "13.0.2", "place": "wheel", "path": "/lib/libcublasLt.so.13", "error": ""},
}


def test_env_tells_of_cuda_in_one_line_each() -> None:
    from pydllm.cli.env import cuda_lines

    assert list(cuda_lines(CUDA)) == [
        ("cuda.built", True),
        ("cuda.runtime", "13.0"),
        ("cuda.driver", "for CUDA 13.1"),
        ("cuda:0", "NVIDIA H200, compute capability 9.0, 140.0 GiB, 139.0 GiB free"),
        ("cuda.cublaslt", "13.0.2 (wheel: /lib/libcublasLt.so.13)"),
    ]
    without = {**CUDA, "driver": "", "devices": [], "problems": ["no driver"], "cublaslt": {"error": "not found"}}
    assert list(cuda_lines(without))[2:] == [
        ("cuda.driver", "none"),
        ("cuda.cublaslt", "not found"),
        ("cuda.problem", "no driver"),
    ]


def test_wheel_folders_are_found_without_importing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pydllm import nvidia_wheels

    for library in ("nvidia/cu13/lib/libcublasLt.so.13", "nvidia/cublas/lib/libcublasLt.so.12", "nvidia/other/lib/x"):
        (tmp_path / library).parent.mkdir(parents=True)
        (tmp_path / library).touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    imported = "nvidia" in sys.modules
    found = nvidia_wheels.library_folders()
    assert [Path(folder).relative_to(tmp_path).parts[1] for folder in found if folder.startswith(str(tmp_path))] == [
        "cu13",
        "cublas",
    ]
    assert ("nvidia" in sys.modules) == imported


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--drain-timeout", "60") as process:
        yield process


def stub(server: ServerProcess, channel: grpc.Channel) -> Any:
    return generation_service_pb2_grpc.GenerationServiceStub(channel)


def long_request() -> pb.StreamGenerateRequest:
    return pb.StreamGenerateRequest(
        request=pb.GenerateRequest(
            prompt="x",
            sampling=types_pb2.SamplingParams(max_tokens=240, ignore_eos=True, n=2, temperature=1.0),
            diffusion=types_pb2.DiffusionParams(algorithm="llada_schedule", block_length=8),
        )
    )


def test_the_ready_line_and_settings_are_printed(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        chat = types_pb2.ChatInput(messages=[types_pb2.ChatMessage(role="user", content="Solve: 12 + 30.")])
        answer = stub(server, channel).Generate(pb.GenerateRequest(chat=chat))
    assert answer.candidates[0].text == "12 + 30 = 42"
    assert server.stop() == 0
    errors = server.errors()
    for part in ("grpc_port", "[flag]", "page_size", "[default]", "grpcurl -plaintext", "python -c"):
        assert part in errors
    assert "Traceback" not in errors


def test_sigterm_lets_running_streams_finish_and_exits_zero(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        call = stub(server, channel).StreamGenerate(long_request())
        assert next(call).HasField("started")
        server.process.send_signal(signal.SIGTERM)
        finished = sum(message.HasField("finished") for message in call)
        assert finished == 2
        assert call.code() is grpc.StatusCode.OK
    assert server.process.wait(60) == 0


def test_what_outlives_the_drain_timeout_is_unavailable_and_the_exit_zero() -> None:
    with ServerProcess("--drain-timeout", "0") as server, grpc.insecure_channel(server.address) as channel:
        call = stub(server, channel).StreamGenerate(long_request())
        assert next(call).HasField("started")
        server.process.send_signal(signal.SIGINT)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(60) == 0


def test_a_second_sigterm_exits_at_once(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel:
        calls = [stub(server, channel).StreamGenerate(long_request()) for _ in range(3)]
        for call in calls:
            assert next(call).HasField("started")
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_error("draining")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 128 + signal.SIGTERM


def test_a_port_in_use_exits_two_with_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        out = run("serve", "--grpc-port", port)
    assert out.returncode == 2
    assert out.stderr.decode().strip().splitlines()[-1] == f"pydllm serve: grpc_port: 127.0.0.1:{port} is in use"
