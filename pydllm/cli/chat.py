"""`pydllm chat`: a conversation in the terminal that shows the denoising."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from pydllm.cli.console import FAILED, OK, USAGE, fail, loading
from pydllm.cli.options import Resolved, UsageError, resolve
from pydllm.cli.settings import CHAT, ENGINE, MODEL, listed
from pydllm.cli.values import DIFFUSION, SAMPLING, check_server_options, extra_param, given, pace
from pydllm.errors import InvalidRequestError, PydllmError, UnsupportedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from pydllm.terminal.backend import Backend
    from pydllm.terminal.session import Session
    from pydllm.terminal.settings import Settings

_SCHEMES = {"grpc": False, "grpcs": True}


def run(arguments: argparse.Namespace) -> int:
    """Talks until the end of the input; the exit code."""
    try:
        options = resolve((MODEL, *listed(CHAT), *listed(ENGINE)), vars(arguments), os.environ, arguments.config)
        check_server_options(options, local=listed(ENGINE), remote=CHAT["server"])
        with contextlib.closing(_backend(options)) as backend:
            settings = _settings(backend, options, arguments.param)
            return _converse(backend, settings, options)
    except (UsageError, InvalidRequestError, UnsupportedError) as error:
        return fail("chat", error, USAGE)
    except PydllmError as error:
        return fail("chat", error, FAILED)


def _converse(backend: Backend, settings: Settings, options: Mapping[str, Resolved]) -> int:
    from pydllm.terminal.keyboard import is_terminal
    from pydllm.terminal.session import Session

    if is_terminal(sys.stdin) and is_terminal(sys.stdout):
        return _interactive(backend, settings, pace(options, demo=backend.embedded))
    from pydllm.terminal.conversation import exchange
    from pydllm.terminal.visible import lenient

    lenient(sys.stdout, "backslashreplace")

    def report(text: str) -> None:
        fail("chat", text, FAILED)

    return OK if exchange(Session(backend, settings, notify=report), report=report) else FAILED


def _interactive(backend: Backend, settings: Settings, step_pace: float) -> int:
    from rich.console import Console

    from pydllm.terminal.cells import Pieces
    from pydllm.terminal.conversation import say, talk
    from pydllm.terminal.screen import Screen
    from pydllm.terminal.session import Session
    from pydllm.terminal.visible import lenient

    console = Console(file=lenient(sys.stdout), highlight=False)
    session = Session(backend, settings, notify=lambda line: say(console, line, "yellow"))
    _edit_lines(session)
    say(console, f"{backend.label} · {settings.algorithm} · /help lists the commands, Ctrl-D leaves")
    talk(session, Screen(console, Pieces(backend.texts), pace=step_pace), console)
    return OK


def _edit_lines(session: Session) -> None:
    """Arrow keys, history and completion for the prompt, where Python has readline."""
    try:
        import readline
    except ImportError:
        return
    from pydllm.terminal.commands import completions

    def complete(_: str, state: int) -> str | None:
        found = completions(session, readline.get_line_buffer())
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims("")
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")


def _backend(options: Mapping[str, Resolved]) -> Backend:
    if options["server"].value is not None:
        return _remote(options)
    from pydllm.embedded import embedded_name
    from pydllm.llm import LLM
    from pydllm.terminal.local import LocalBackend

    model = options["model"].value
    # A block-causal model may need the block length to load.
    engine = given(options, (*(option.name for option in listed(ENGINE)), "block_length"))
    label = model or "the embedded demo model"
    with loading(label, quiet=True) as report:
        llm = LLM(model, load_progress=report, **engine)
        return LocalBackend(llm, label, embedded=embedded_name(model) is not None)


def _remote(options: Mapping[str, Resolved]) -> Backend:
    from pydllm.terminal.remote import RemoteBackend, Target

    address, tls = _address(options["server"].value)
    authority = options["tls_ca"].value
    if authority is not None and not tls:
        raise UsageError("--tls-ca: only with --server grpcs://HOST:PORT")
    target = Target(
        address=address,
        tls=tls,
        tls_ca=None if authority is None else _certificates(authority),
        api_key=options["api_key"].value,
        model=options["model"].value or "",
    )
    return RemoteBackend(target)


def _address(written: str) -> tuple[str, bool]:
    """host:port and whether it wants TLS, of "HOST:PORT", "grpc://…" or "grpcs://…"."""
    scheme, separator, address = written.rpartition("://")
    host, colon, port = address.rpartition(":")
    bad_port = not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
    if not (host and colon) or bad_port or "/" in host or (separator and scheme not in _SCHEMES):
        raise UsageError(f"--server: expected HOST:PORT, grpc://HOST:PORT or grpcs://HOST:PORT, got {written[:60]!r}")
    return address, _SCHEMES.get(scheme, False)


def _certificates(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"--tls-ca: {path}: {os.strerror(error.errno or 0)}") from None


def _settings(backend: Backend, options: Mapping[str, Resolved], params: Sequence[str]) -> Settings:
    """What the flags ask, checked as the commands check it."""
    from pydllm.terminal.settings import SettingError, initial, with_algorithm, with_param, with_sampling

    settings = initial(backend.algorithms, backend.default_params, backend.attention)
    try:
        if options["algorithm"].value is not None:
            settings, _ = with_algorithm(settings, options["algorithm"].value)
        for name, value in _asked(options, params):
            settings = with_param(settings, name, value)
        for name, value in given(options, SAMPLING).items():
            settings = with_sampling(settings, name, value)
    except SettingError as error:
        raise UsageError(str(error)) from None
    return _with_system(settings, options["system"].value)


def _asked(options: Mapping[str, Resolved], params: Sequence[str]) -> Iterator[tuple[str, Any]]:
    for name, value in given(options, DIFFUSION).items():
        if name != "algorithm":
            yield name, value
    yield from map(extra_param, params)


def _with_system(settings: Settings, text: str | None) -> Settings:
    from dataclasses import replace

    from pydllm.terminal.visible import is_unicode

    if text is not None and not is_unicode(text):
        raise UsageError("--system: expected UTF-8")
    return replace(settings, system=text or "")
