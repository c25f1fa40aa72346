"""The two ways to talk: on a terminal with the live view, and line by line through pipes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.text import Text

from pydllm.errors import PydllmError
from pydllm.outputs import BlockAppended
from pydllm.terminal import commands
from pydllm.terminal.answer import Answer
from pydllm.terminal.settings import SettingError
from pydllm.terminal.visible import is_unicode, one_line, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from pydllm.terminal.screen import Screen
    from pydllm.terminal.session import Session

PROMPT = "> "
BYE = "Ctrl-C again or Ctrl-D leaves"


def say(console: Console, text: str, style: str = "dim") -> None:
    """Prints a notice."""
    console.print(Text(visible(text), style), soft_wrap=True)


def talk(session: Session, screen: Screen, console: Console, *, read: Callable[[str], str] = input) -> None:
    """Reads questions and commands until the user leaves. Errors are one line; the conversation goes on."""
    interrupted = False
    while True:
        try:
            line = read(PROMPT)
            interrupted = False
            if not _turn(session, screen, console, line):
                return
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print()
            if interrupted:
                return
            interrupted = True
            say(console, BYE)
        except UnicodeDecodeError:
            say(console, "error: expected UTF-8", "red")


def _turn(session: Session, screen: Screen, console: Console, line: str) -> bool:
    """One line of input; False when it was the last."""
    try:
        if not is_unicode(line):
            raise SettingError("expected UTF-8")
        again = False
        if commands.is_command(line):
            reply = commands.run(session, line)
            if reply.text:
                say(console, reply.text)
            if not reply.again:
                return not reply.leave
            again = True
        if again or line.strip():
            _watch(session, screen, console, session.last_question if again else commands.question(line), again=again)
    except PydllmError as error:
        say(console, f"error: {one_line(error)}", "red")
    return True


def _watch(session: Session, screen: Screen, console: Console, question: str, *, again: bool) -> None:
    answer = Answer(first_block=session.first_block)
    try:
        screen.show(session.ask(question, again=again), answer)
    except KeyboardInterrupt:
        say(console, "cancelled; the conversation goes on without this question")
    else:
        session.answered(answer.text)
        if not answer.text:
            say(console, "(an empty answer)")
    finally:
        console.print()


def exchange(session: Session, *, report: Callable[[str], None]) -> bool:
    """Answers each line of stdin with plain text on stdout; `report` gets everything else. False after any error."""
    good = True
    for raw in sys.stdin.buffer if sys.stdin is not None else ():
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            good = False
            report("expected UTF-8 text on stdin")
            continue
        try:
            if not _answer(session, line, report):
                break
        except PydllmError as error:
            good = False
            report(one_line(error))
    return good


def _answer(session: Session, line: str, report: Callable[[str], None]) -> bool:
    """One line of a pipe; False when it was the last."""
    again = False
    if commands.is_command(line):
        reply = commands.run(session, line)
        for part in reply.text.splitlines():
            report(part)
        if not reply.again:
            return not reply.leave
        again = True
    if not (again or line.strip()):
        return True
    question = session.last_question if again else commands.question(line)
    events = session.ask(question, again=again, snapshots=False)
    text = "".join(event.text for event in events if isinstance(event, BlockAppended))
    session.answered(text)
    print(visible(text), flush=True)
    return True
