"""The lines that begin with a slash. Every error is a SettingError of one line; nothing is changed then."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydllm.terminal import settings as options
from pydllm.terminal.settings import STEPS, THRESHOLDS, UNSET, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydllm.terminal.session import Session

PREFIX = "/"
_SWITCH: dict[str, int | None] = {"on": None, "off": 0}
"""Turns that are sent before a question."""
_MOST_TURNS = 9999


@dataclass(frozen=True)
class Reply:
    """What a command leads to."""

    text: str = ""
    """Shown to the user."""
    again: bool = False
    """The last question is asked again."""
    leave: bool = False


@dataclass(frozen=True)
class Command:
    """One command under its name."""

    name: str
    value: str
    """What follows the name, as the help writes it; "" for nothing."""
    help: str
    run: Callable[[Session, str], Reply]


def is_command(line: str) -> bool:
    """Whether a line is a command. A question that begins with a slash is written with two."""
    return line.startswith(PREFIX) and not line.startswith(PREFIX * 2)


def question(line: str) -> str:
    """What a line that is no command asks."""
    return line[1:] if line.startswith(PREFIX * 2) else line


def run(session: Session, line: str) -> Reply:
    """Carries out a command."""
    name, _, rest = line[len(PREFIX) :].partition(" ")
    command = next((known for known in COMMANDS if known.name == name), None)
    if command is None:
        raise SettingError(f"{PREFIX}{name}: no such command; /help lists them")
    if rest.strip() and not command.value:
        raise SettingError(f"{PREFIX}{name}: takes no value, got {rest.strip()!r}")
    return command.run(session, rest.strip())


def completions(session: Session, line: str) -> list[str]:
    """Lines that this one may become: names of commands, algorithms and parameters."""
    name, space, rest = line.partition(" ")
    if not space:
        return [PREFIX + command.name for command in COMMANDS if (PREFIX + command.name).startswith(name)]
    if name == "/algorithm":
        return [f"{name} {known}" for known in session.settings.algorithms if known.startswith(rest)]
    if name == "/set":
        return [f"{name} {known}=" for known in options.names(session.settings) if known.startswith(rest)]
    return []


def _help(_session: Session, _value: str) -> Reply:
    usages = [f"{PREFIX}{command.name} {command.value}".rstrip() for command in COMMANDS]
    width = max(map(len, usages))
    lines = [f"{usage:{width}}  {command.help}" for usage, command in zip(usages, COMMANDS, strict=True)]
    return Reply(
        "\n".join([*lines, f"The value {UNSET} takes a setting back. A question that begins with / begins //."])
    )


def _algorithm(session: Session, name: str) -> Reply:
    if not name:
        raise SettingError(f"algorithm: expected one of {', '.join(session.settings.algorithms)}")
    chosen = session.settings.algorithms[0] if name == UNSET else name
    session.settings, lost = options.with_algorithm(session.settings, chosen)
    note = f"; it has no {', '.join(lost)}: no longer set" if lost else ""
    return Reply(f"algorithm {session.settings.algorithm}{note}")


def _param(names: tuple[str, ...]) -> Callable[[Session, str], Reply]:
    """Sets that of the parameters which the algorithm has."""

    def run(session: Session, written: str) -> Reply:
        return _assign(session, options.one_of(session.settings, names), written)

    return run


def _set(session: Session, assignment: str) -> Reply:
    name, equals, written = assignment.partition("=")
    if not (name.strip() and equals):
        raise SettingError(f"set: expected NAME=VALUE, got {assignment!r}")
    return _assign(session, name.strip(), written.strip())


def _assign(session: Session, name: str, written: str) -> Reply:
    if not written:
        raise SettingError(f"{name}: expected a value, or {UNSET}")
    session.settings = options.with_param(session.settings, name, options.scalar(written))
    return Reply(f"{name} {written}")


def _sampling(name: str) -> Callable[[Session, str], Reply]:
    def run(session: Session, written: str) -> Reply:
        if not written:
            raise SettingError(f"{name}: expected a number, or {UNSET}")
        session.settings = options.with_sampling(session.settings, name, options.scalar(written))
        return Reply(f"{name} {written}")

    return run


def _system(session: Session, text: str) -> Reply:
    session.settings = replace(session.settings, system="" if text == UNSET else text)
    return Reply("system message set, from the next question on" if session.settings.system else "no system message")


def _memory(session: Session, value: str) -> Reply:
    if value not in _SWITCH and not (value.isdecimal() and len(value) <= len(str(_MOST_TURNS))):
        raise SettingError(f"memory: expected on, off or a number of turns up to {_MOST_TURNS}, got {value!r}")
    session.memory = _SWITCH[value] if value in _SWITCH else int(value)
    return Reply(f"memory: {_remembered(session)}")


def _remembered(session: Session) -> str:
    if session.memory is None:
        return "all turns before a question"
    return f"the last {session.memory} turns before a question" if session.memory else "each question alone"


def _show(session: Session, _value: str) -> Reply:
    known = f"model  {session.backend.label}\nmemory  {_remembered(session)}"
    return Reply(f"{known}\n{options.described(session.settings)}")


def _reset(session: Session, _value: str) -> Reply:
    session.forget()
    return Reply("a new conversation")


def _retry(session: Session, _value: str) -> Reply:
    return Reply(again=bool(session.last_question))


def _save(session: Session, path: str) -> Reply:
    """JSON messages for a name that ends in .json, else text. Never writes over a file."""
    if not path:
        raise SettingError("save: expected a file name")
    messages = session.transcript()
    if path.endswith(".json"):
        content = json.dumps(messages, ensure_ascii=False, indent=1)
    else:
        content = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
    try:
        with open(os.path.expanduser(path), "x", encoding="utf-8") as file:
            file.write(content + "\n")
    except OSError as error:
        raise SettingError(f"save: {path}: {os.strerror(error.errno or 0)}") from None
    return Reply(f"saved {len(session.turns)} turns to {path}")


COMMANDS = (
    Command("help", "", "the commands", _help),
    Command("algorithm", "NAME", "decoding algorithm", _algorithm),
    Command("threshold", "X", "confidence or entropy threshold, whichever the algorithm has", _param(THRESHOLDS)),
    Command("block", "N", "tokens denoised together", _param(("block_length",))),
    Command("steps", "N", "steps in all, or at most per block, whichever the algorithm has", _param(STEPS)),
    Command("temperature", "T", "0 is greedy", _sampling("temperature")),
    Command("max", "N", "most tokens of an answer", _sampling("max_tokens")),
    Command("seed", "S", "makes sampling repeatable", _sampling("seed")),
    Command("system", "[TEXT]", "system message; without a text there is none", _system),
    Command("memory", "on|off|N", "send all turns before with a question, none, or the last N", _memory),
    Command("set", "NAME=VALUE", "any parameter of the algorithm, or max_forward_passes", _set),
    Command("show", "", "the settings", _show),
    Command("reset", "", "forget the conversation", _reset),
    Command("retry", "", "ask the last question again", _retry),
    Command("save", "FILE", "write the conversation to a new file: JSON if it ends in .json, else text", _save),
    Command("quit", "", "leave (as Ctrl-D)", lambda _session, _value: Reply(leave=True)),
)
