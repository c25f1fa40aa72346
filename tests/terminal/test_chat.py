"""`pydllm chat` and `pydllm generate --watch` as processes: on a pseudo-terminal, through pipes, against a server."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from demo_facts import VOCABULARY
from emulator import Terminal
from talking import ROOT, Typist, environment

from pydllm.cli import settings
from pydllm.terminal.cells import MASK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOLVE, ANSWER = "Solve: 12 + 30.", "12 + 30 = 42"
KEY = "a-key-of-the-tests"


def run(*arguments: str, stdin: str | bytes = "", **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pydllm", *arguments],
        input=stdin if isinstance(stdin, str) else stdin.decode("latin-1"),
        encoding="utf-8" if isinstance(stdin, str) else "latin-1",
        capture_output=True,
        timeout=120,
        env=environment(**variables),
        check=False,
    )


def shown(text: str, columns: int = 100, rows: int = 24) -> str:
    """What a terminal shows of the text, and above."""
    terminal = Terminal(columns, rows)
    terminal.write(text)
    return "\n".join(terminal.lines)


def test_the_answer_crystallises_out_of_masks(record_property: Any) -> None:
    with Typist("chat", "--pace", "0.5") as typist:
        typist.ask(SOLVE)
        masks = typist.expect("waiting for the first step")
        answer = typist.expect("tokens/forward")
        typist.ask("/quit")
        assert typist.end() == 0
    assert MASK * 32 in masks
    assert ANSWER in answer
    screen = shown(typist.written)
    assert f"{ANSWER}\n" in screen
    assert "9.00 tokens/forward · 1 forward · first block" in screen
    assert MASK not in screen
    record_property("figure", "pydllm chat: 32 masked cells, then 12 + 30 = 42 in 1 forward")


def test_tokens_are_committed_out_of_order_and_colored_by_confidence() -> None:
    schedule = ("--algorithm", "llada_schedule", "--param", "steps=32", "--param", "remasking=random", "--seed", "2")
    with Typist("chat", "--max-tokens", "32", *schedule) as typist:
        typist.ask("Hi there.")
        drawn = typist.expect("tokens/forward")
        typist.ask("/quit")
        assert typist.end() == 0
    frames = [shown(part).splitlines() for part in drawn.split("\x1b[2K") if " of 32 cells" in part]
    assert any(re.search(f"{MASK} *[A-Za-z]+.*{MASK}", frame[0]) for frame in frames)
    colors = {color for color in ("31", "38;5;208", "33", "32") if re.search(rf"\x1b\[(1;)?{color}m", drawn)}
    assert len(colors) >= 2
    assert "Hello! How can I help you today?" in shown(typist.written)


def test_commands_change_the_algorithm_and_the_threshold_between_questions() -> None:
    with Typist("chat", "--pace", "0") as typist:
        typist.ask("/threshold 0.5")
        typist.ask("/algorithm entropy_threshold")
        dropped = typist.expect("no longer set")
        typist.ask("/threshold 0.3")
        typist.ask(SOLVE)
        typist.expect("tokens/forward")
        typist.ask("/algorithm nope")
        typist.expect("error: algorithm: expected one of")
        typist.ask("/show")
        listed = typist.expect("system  none")
        typist.ask("/quit")
        assert typist.end() == 0
    assert "it has no confidence_threshold" in dropped
    assert "entropy_threshold  0.3" in listed
    assert ANSWER in shown(typist.written)


def test_ctrl_c_cancels_the_answer_and_the_session_goes_on() -> None:
    with Typist("chat", "--algorithm", "llada_schedule", "--pace", "0.2") as typist:
        typist.ask("What are you?")
        typist.expect(" of 32 cells")
        typist.press("\x03")
        typist.expect("cancelled")
        typist.ask("/set steps=3")
        typist.ask(SOLVE)
        typist.expect(ANSWER)
        typist.expect("tokens/forward")
        typist.ask("/quit")
        assert typist.end() == 0
    assert typist.written.endswith("\x1b[?25h") or "\x1b[?25h" in typist.written.split("\x1b[?25l")[-1]


def test_ctrl_c_twice_at_the_prompt_leaves_and_once_does_not() -> None:
    with Typist("chat") as typist:
        typist.interrupt_at_prompt()
        typist.expect("Ctrl-C again or Ctrl-D leaves")
        typist.ask("/reset")
        typist.expect("a new conversation")
        typist.interrupt_at_prompt()
        typist.expect("Ctrl-C again")
        typist.interrupt_at_prompt()
        assert typist.end() == 0


def test_ctrl_d_leaves() -> None:
    with Typist("chat") as typist:
        typist.expect("> ")
        typist.press("\x04")
        assert typist.end() == 0


def test_history_and_completion_work_at_the_prompt() -> None:
    pytest.importorskip("readline")
    with Typist("chat", "--pace", "0") as typist:
        typist.ask("/he\t")
        typist.expect("ask the last question again")
        typist.ask("\x1b[A")
        typist.expect("ask the last question again")
        typist.ask("/quit")
        assert typist.end() == 0


def test_a_narrow_terminal_keeps_the_picture_whole() -> None:
    with Typist("chat", columns=20, rows=6) as typist:
        typist.ask("What are you?")
        typist.expect("tokens/forward")
        typist.ask("/quit")
        assert typist.end() == 0
    text = shown(typist.written, columns=20, rows=6).replace("\n", " ")
    assert "I am a tiny diffusion language model. I write all words of an answer in parallel." in " ".join(text.split())


def test_pipes_get_plain_answers_line_by_line() -> None:
    out = run("chat", stdin=f"{SOLVE}\n\nWhat is 3 + 4?\n/quit\nnever\n")
    assert (out.returncode, out.stdout) == (0, f"{ANSWER}\n3 + 4 = 7\n")
    assert out.stderr == ""


def test_an_error_in_a_pipe_is_one_line_and_the_next_line_is_answered() -> None:
    out = run("chat", stdin=f"/threshold 7\n/max 2000000\n{SOLVE}\n/max 32\n{SOLVE}".encode() + b"\n\xff\n")
    assert out.returncode == 1
    assert out.stdout == f"{ANSWER}\n"
    errors = out.stderr.splitlines()
    assert errors[0].startswith("pydllm chat: confidence_threshold: expected a number in [0, 1], got 7")
    assert any("sampling.max_tokens" in line for line in errors)
    assert errors[-1] == "pydllm chat: expected UTF-8 text on stdin"


@pytest.mark.parametrize(
    "variables", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C.UTF-8"}]
)
def test_bytes_that_are_no_text_are_one_line_at_the_prompt(variables: dict[str, str]) -> None:
    with Typist("chat", **variables) as typist:
        typist.ask("/system \udcff")
        typist.expect("error: expected UTF-8")
        typist.ask("/quit")
        assert typist.end() == 0


def test_every_flag_has_one_meaning() -> None:
    names = [option.name for option in settings.listed({**settings.CHAT, **settings.ENGINE})]
    assert len(names) == len(set(names))


def test_show_has_the_defaults_of_the_models_family() -> None:
    dream = ROOT / "tests" / "golden" / "checkpoints" / "dream-tiny"
    out = run("chat", str(dream), stdin="/algorithm multi_block_entropy\n/show\n")
    lines = out.stderr.splitlines()
    assert out.returncode == 0
    assert "pydllm chat: entropy_threshold default 0.4" in lines
    assert "pydllm chat: force_scope default first" in lines
    assert "pydllm chat: block_add_threshold default 0.1" in lines, "the algorithm's own, which the family leaves"


def test_a_closed_stdin_is_an_empty_one() -> None:
    command = [sys.executable, "-m", "pydllm", "chat"]
    out = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, env=environment(), check=False
    )
    assert (out.returncode, out.stdout, out.stderr) == (0, b"", b"")


def test_an_encoding_without_the_characters_does_not_break_the_pipe() -> None:
    out = run("chat", stdin="/system é\n/show\n".encode(), PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    assert (out.returncode, "Traceback" in out.stderr) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--algorithm", "nope"], 2, "algorithm: expected one of confidence_threshold"),
        (["--threshold", "1"], 2, "unrecognized arguments"),
        (["--confidence-threshold", "2"], 2, "--confidence-threshold: expected a number in [0, 1]"),
        (["--algorithm", "llada_schedule", "--confidence-threshold", "0.5"], 2, "has no such parameter"),
        (["--param", "nope=1"], 2, "expected a parameter of confidence_threshold"),
        (["--param", "nope"], 2, "--param: expected NAME=VALUE"),
        (["--api-key", "k"], 2, "--api-key: only with --server"),
        (["--server", "nowhere"], 2, "--server: expected HOST:PORT"),
        (["--server", "http://127.0.0.1:1"], 2, "--server: expected HOST:PORT"),
        (["--server", "127.0.0.1:1", "--threads", "2"], 2, "--threads: not with --server"),
        (["--server", "127.0.0.1:1", "--tls-ca", "x"], 2, "--tls-ca: only with --server grpcs://"),
        (["--server", "grpcs://127.0.0.1:1", "--tls-ca", "/nope.pem"], 2, "--tls-ca: /nope.pem: No such file"),
        (["--server", "127.0.0.1:1"], 1, "127.0.0.1:1: no server can be reached"),
        (["/nope"], 1, "no such directory"),
        (["--pace", "-1"], 2, "--pace: expected a number in [0, 60]"),
    ],
)
def test_what_cannot_start_is_one_line(arguments: list[str], code: int, message: str) -> None:
    out = run("chat", *arguments)
    assert (out.returncode, out.stdout) == (code, "")
    assert len(out.stderr.splitlines()) == 1
    assert message in out.stderr


def test_watch_draws_where_the_text_goes() -> None:
    with Typist("generate", "--watch", SOLVE) as typist:
        assert typist.end() == 0
    screen = shown(typist.written)
    assert MASK * 32 in typist.written
    assert screen.count(ANSWER) == 1
    assert "9.00 tokens/forward" in screen


def test_watch_draws_on_stderr_when_stdout_is_a_pipe() -> None:
    reading, writing = os.pipe()
    with Typist("generate", "--watch", "--stats", SOLVE, stdout=writing) as typist:
        os.close(writing)
        assert typist.end() == 0
    with os.fdopen(reading) as file:
        assert file.read() == f"{ANSWER}\n"
    assert MASK in typist.written
    assert "forward_passes 1" in typist.written


def test_watch_and_json_share_a_terminal() -> None:
    with Typist("generate", "--watch", "--json", SOLVE) as typist:
        assert typist.end() == 0
    last = shown(typist.written, columns=1000).strip().splitlines()[-1]
    output = json.loads(last)
    assert (output["text"], output["finish_reason"], output["prompt_tokens"]) == (ANSWER, "stop", 18)


def test_ctrl_c_ends_watch_with_130() -> None:
    with Typist("generate", "--watch", "--pace", "1", "--algorithm", "llada_schedule", SOLVE) as typist:
        typist.expect(" of 32 cells")
        typist.press("\x03")
        assert typist.end() == 130
    assert "Traceback" not in typist.written


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--watch"], 0, "--watch: neither stdout nor stderr is a terminal"),
        (["--watch", "--n", "2"], 2, "--watch: expected --n 1, got 2"),
        (["--pace", "1"], 2, "--pace: only with --watch"),
        (["--repetition-penalty", "0"], 2, "sampling.repetition_penalty: expected a number in (0, 100], got 0.0"),
        (["--min-tokens", "40", "--max-tokens", "32"], 2, "sampling.min_tokens must be between 0 and 32, got 40"),
        (["--max-repetition-run", "1"], 2, "sampling.max_repetition_run: expected 0 or an integer in [2"),
    ],
)
def test_watch_says_what_it_cannot_do(arguments: list[str], code: int, message: str) -> None:
    out = run("generate", SOLVE, *arguments)
    assert out.returncode == code
    assert len(out.stderr.splitlines()) == 1
    assert message in out.stderr
    assert out.stdout == ("" if code else f"{ANSWER}\n")


def test_generate_ends_a_run_of_equal_tokens() -> None:
    arguments = ["generate", SOLVE, "--ignore-eos", "--json", "--max-tokens", "32"]
    whole = json.loads(run(*arguments).stdout)
    cut = json.loads(run(*arguments, "--max-repetition-run", "4").stdout)
    assert (whole["finish_reason"], cut["finish_reason"]) == ("length", "repetition")
    assert cut["token_ids"] == whole["token_ids"][: len(cut["token_ids"])]
    assert len(set(cut["token_ids"][-4:])) == 1


def test_generate_makes_control_characters_visible_on_a_terminal_only() -> None:
    from pydllm.cli import generate

    assert generate._printed("a\x1bb") == "a\x1bb"  # pytest's stdout is no terminal


@pytest.mark.parametrize("command", ["chat", "generate"])
def test_help_is_quick(command: str, record_property: Any) -> None:
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        out = run(command, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert out.returncode == 0
    assert "live view:" in out.stdout
    assert min(times) < 0.2  # processor time: a busy machine is not our slowness
    record_property("figure", f"pydllm {command} --help: {min(times) * 1e3:.0f} ms")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """host:port of an engine process with the demo model that wants an API key."""
    config = {"engine": {"threads": 1}, "server": {"port": 0, "api_keys": [KEY]}}
    with subprocess.Popen(
        [sys.executable, "-m", "pydllm.server", "--supervised"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(config) + "\n")
        process.stdin.flush()
        ready = json.loads(process.stdout.readline())
        assert ready["event"] == "ready"
        yield f"127.0.0.1:{ready['grpc_port']}"
        process.stdin.close()  # its parent is gone: it ends


def test_a_server_is_talked_to_like_a_model_of_our_own(server: str) -> None:
    with Typist("chat", "--server", f"grpc://{server}", "--pace", "0.1", PYDLLM_API_KEY=KEY) as typist:
        typist.ask(SOLVE)
        masks = typist.expect("waiting for the first step")
        typist.expect("tokens/forward")
        typist.ask("/algorithm llada_schedule")
        typist.ask("/algorithm soar")
        typist.expect("error: algorithm: expected one of confidence_threshold")
        typist.ask("Hello!")
        typist.expect("tokens/forward")
        typist.ask("/quit")
        assert typist.end() == 0
    assert MASK * 32 in masks
    screen = shown(typist.written)
    assert ANSWER in screen
    assert "Hello! How can I help you today?" in screen
    assert "0.31 tokens/forward · 32 forwards" in screen


def test_a_server_streams_snapshots_with_confidences_and_cancels(server: str) -> None:
    from pydllm.outputs import BlockSnapshot, Finished
    from pydllm.params import DiffusionParams, SamplingParams
    from pydllm.terminal.remote import RemoteBackend, Target

    backend = RemoteBackend(Target(address=server, api_key=KEY))
    try:
        diffusion = DiffusionParams(algorithm="llada_schedule", block_length=32, extra={"steps": 32})
        sampling = SamplingParams(max_tokens=200, ignore_eos=True)
        messages = [{"role": "user", "content": SOLVE}]
        events = backend.stream(messages, sampling, diffusion, snapshots=True)
        snapshots = [event for event in (next(events) for _ in range(20)) if isinstance(event, BlockSnapshot)]
        assert any(None in snapshot.token_ids for snapshot in snapshots)
        assert all(len(snapshot.confidences) == len(snapshot.token_ids) for snapshot in snapshots)
        events.close()
        rest = list(backend.stream(messages, SamplingParams(), DiffusionParams(), snapshots=False))
        end = rest[-1]
        assert isinstance(end, Finished)
        assert (end.completion_tokens, end.stats.forward_passes) == (9, 1)
        assert backend.embedded
        assert backend.default_params["llada_schedule", "block_length"] == "32"
        assert backend.default_params["multi_block_entropy", "cache_refresh_interval"] == "10000"
    finally:
        backend.close()


def test_a_server_gives_the_same_pieces_as_a_model_of_our_own(server: str, demo: Any) -> None:
    from pydllm.terminal.local import LocalBackend
    from pydllm.terminal.remote import RemoteBackend, Target

    backend = RemoteBackend(Target(address=server, api_key=KEY))
    try:
        keys = [(token,) for token in range(VOCABULARY)] + [
            tuple(demo.tokenizer.encode("日é", add_special_tokens=False))
        ]
        shown_at_once = 64  # calls with a deadline each
        remote = [
            text for at in range(0, len(keys), shown_at_once) for text in backend.texts(keys[at : at + shown_at_once])
        ]
        assert remote == LocalBackend(demo, "").texts(keys)
        assert backend.texts([(10**6,)]) == ["\ufffd"]
    finally:
        backend.close()


def test_pipes_work_with_a_server(server: str) -> None:
    out = run("chat", "--server", server, "--api-key", KEY, stdin=f"{SOLVE}\n")
    assert (out.returncode, out.stdout) == (0, f"{ANSWER}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "PYDLLM_API_KEY"),
        (["--api-key", "wrong"], ""),
        (["--api-key", KEY, "unknown-model"], "unknown-model"),
    ],
)
def test_what_a_server_refuses_is_one_line(server: str, arguments: list[str], message: str) -> None:
    out = run("chat", "--server", server, *arguments, stdin=SOLVE)
    assert (out.returncode, out.stdout) == (1, "")
    assert len(out.stderr.splitlines()) == 1
    assert message in out.stderr
    assert KEY not in out.stderr


def test_a_request_that_a_server_refuses_names_the_field_and_the_session_goes_on(server: str) -> None:
    out = run("chat", "--server", server, "--api-key", KEY, stdin=f"/max 100000\n{SOLVE}\n/max default\n{SOLVE}\n")
    assert (out.returncode, out.stdout) == (1, f"{ANSWER}\n")
    assert "max_tokens" in out.stderr.splitlines()[1]


def test_saved_conversations_are_where_the_user_said(tmp_path: Path) -> None:
    out = run("chat", stdin=f"{SOLVE}\n/save {tmp_path}/talk.json\n")
    assert out.returncode == 0
    assert json.loads((tmp_path / "talk.json").read_text())[1] == {"role": "assistant", "content": ANSWER}
