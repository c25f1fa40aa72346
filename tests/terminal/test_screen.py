"""The live view, drawn on a small terminal emulator."""

from __future__ import annotations

import io
import itertools
import os
import signal
import threading
import time
from typing import Any

import pytest
from emulator import Terminal
from rich.console import Console
from talking import Script, appended, finished, snapshot

from pydllm.errors import InternalEngineError
from pydllm.outputs import Started
from pydllm.params import DiffusionParams, SamplingParams
from pydllm.terminal.answer import Answer
from pydllm.terminal.cells import MASK, Pieces
from pydllm.terminal.conversation import say
from pydllm.terminal.screen import FRAME_SECONDS, Screen, _Painter

LONG = " ".join(f"word{number} 日本語é" for number in range(60))


class Output(io.StringIO):
    """Passes on to a terminal as a tty does and keeps each write."""

    def __init__(self, columns: int = 40, rows: int = 8) -> None:
        super().__init__()
        self.terminal = Terminal(columns, rows)
        self.writes: list[str] = []
        self.drawn = threading.Condition()

    def write(self, text: str) -> int:
        with self.drawn:
            self.writes.append(text)
            self.terminal.write(text.replace("\n", "\r\n"))
            self.drawn.notify_all()
        return len(text)

    def wait_for(self, text: str) -> None:
        with self.drawn:
            assert self.drawn.wait_for(lambda: any(text in line for line in self.terminal.lines), 30), text


def console_on(output: Output) -> Console:
    return Console(
        file=output,
        force_terminal=True,
        width=output.terminal.columns,
        height=output.terminal.rows,
        color_system="256",
        highlight=False,
        _environ={"TERM": "xterm-256color"},
    )


def show(script: list[Any], output: Output, *, first_block: int = 0, pace: float = 0.0) -> Answer:
    backend, answer = Script(script), Answer(first_block=first_block)
    events = backend.stream("x", SamplingParams(), DiffusionParams(), snapshots=True)
    Screen(console_on(output), Pieces(backend.texts), pace=pace).show(events, answer)
    assert backend.cancelled == 0
    return answer


def blocks(text: str, size: int) -> list[Any]:
    script: list[Any] = [Started(0, 3)]
    for number, at in enumerate(range(0, len(text), size)):
        script.append(snapshot([None] * 8, block_index=number))
        script.append(snapshot([97, None, *[None] * 6], block_index=number, step=1))
        script.append(appended(text[at : at + size], [1] * 8, block=number))
    return [*script, finished(tokens=80)]


@pytest.mark.parametrize(("columns", "rows"), [(40, 8), (9, 4), (120, 50), (21, 3), (2, 2)])
@pytest.mark.parametrize("pace", [0.0, 0.02])
def test_a_long_answer_ends_up_whole_above_its_counters(columns: int, rows: int, pace: float) -> None:
    output = Output(columns, rows)
    answer = show(blocks(LONG, 37), output, pace=pace)
    everything = "".join(output.terminal.lines).replace(" ", "")
    assert answer.text == LONG
    assert everything.startswith(LONG.replace(" ", ""))
    if columns > 20:
        assert everything[len(LONG.replace(" ", "")) :].startswith("160tokens/s")
    assert MASK not in everything
    assert output.terminal.cursor_visible


def test_masks_come_first_and_tokens_appear_out_of_order() -> None:
    output = Output()
    seen: list[str] = []

    def look_at(counters: str) -> Any:
        def look() -> None:
            output.wait_for(counters)
            seen.append(output.terminal.lines[0])

        return look

    script = [
        Started(0, 3),
        look_at("waiting for the first step"),
        snapshot([None, None, 99, None], [0, 0, 0.95, 0]),
        look_at("1 of 4 cells"),
        snapshot([97, None, 99, None], [0.6, 0, 0.95, 0], step=1),
        look_at("2 of 4 cells"),
        appended("abcd", [97, 98, 99, 100]),
        finished(),
    ]
    show(script, output, first_block=4)
    assert seen == [MASK * 4, f"{MASK}{MASK}c{MASK}", f"a{MASK}c{MASK}"]
    assert output.terminal.lines[0] == "abcd"
    assert {"32", "1;38;5;208"} <= output.terminal.styles  # certain is green, 0.6 orange and new


def test_hostile_text_is_shown_and_never_executed() -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\x9b31m\rback\u202eflip [red]markup[/red] :smile:"
    tokens = [*b"\x1b[2J"]
    output = Output(120, 10)
    answer = show([Started(0, 3), snapshot(tokens), appended(hostile, tokens), finished()], output, pace=0.04)
    text = "\n".join(output.terminal.lines)  # the emulator refuses every control character and foreign sequence
    assert "␛[2J␛]0;owned␇\\u009b31m␍back\\u202eflip [red]markup[/red] :smile:" in text
    assert any("␛[2J" in write and "cells" in write for write in output.writes)
    assert answer.text == hostile


def test_frames_are_drawn_at_most_thirty_times_a_second() -> None:
    drawn: list[float] = []
    painter = _Painter(lambda: drawn.append(time.monotonic()))
    painter.start()
    end = time.monotonic() + 10 * FRAME_SECONDS
    while time.monotonic() < end:
        painter.touch()
    painter.close()
    assert 2 <= len(drawn) <= 12
    assert all(later - earlier >= FRAME_SECONDS * 0.9 for earlier, later in itertools.pairwise(drawn))


def test_nothing_is_drawn_without_news() -> None:
    drawn = threading.Event()
    painter = _Painter(drawn.set)
    painter.start()
    assert not drawn.wait(5 * FRAME_SECONDS)
    painter.touch()
    assert drawn.wait(30)
    painter.close()


def test_a_frame_is_one_write_so_that_it_cannot_flicker() -> None:
    output = Output()
    show(blocks("short", 5), output, pace=0.04)
    frames = [write for write in output.writes if "cells" in write]
    assert frames
    for write in frames[1:]:
        assert write.startswith("\r\x1b[2K")
        assert write.count("cells") == 1


def test_the_last_state_is_drawn_even_when_the_stream_is_silent_afterwards() -> None:
    output = Output()
    steps = [snapshot([97] * step + [None] * (4 - step), step=step) for step in range(4)]
    show([Started(0, 3), *steps, lambda: output.wait_for("3 of 4 cells"), finished()], output)


def test_ctrl_c_cancels_and_leaves_the_screen_in_order() -> None:
    def interrupt_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    output, backend = Output(), Script([Started(0, 3), snapshot([97, None]), interrupt_twice, finished()])
    events = backend.stream("x", SamplingParams(), DiffusionParams(), snapshots=True)
    with pytest.raises(KeyboardInterrupt):
        Screen(console_on(output), Pieces(backend.texts)).show(events, Answer())
    assert backend.cancelled == 1
    assert output.terminal.cursor_visible
    assert output.terminal.lines[0] == f"a{MASK}"
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_in_the_stream_is_raised_after_the_last_frame() -> None:
    output = Output()
    with pytest.raises(InternalEngineError):
        show([Started(0, 3), snapshot([97, None]), InternalEngineError("boom")], output)
    assert output.terminal.lines[0] == f"a{MASK}"
    assert output.terminal.cursor_visible


def test_an_error_while_drawing_is_raised_and_does_not_hang() -> None:
    class Broken(Output):
        def write(self, text: str) -> int:
            if "cells" in text:
                raise OSError("the terminal is gone")
            return super().write(text)

    with pytest.raises(OSError, match="gone"):
        show([Started(0, 3), snapshot([97, None])], Broken())


def test_every_step_stays_for_the_pace_and_its_time_is_not_called_the_models() -> None:
    output = Output()
    began = time.monotonic()
    show([Started(0, 3), *[snapshot([97, None], step=step) for step in range(4)], finished()], output, pace=0.05)
    assert time.monotonic() - began >= 5 * 0.05
    frames = [write for write in output.writes if "cells" in write]
    assert len(frames) >= 4
    assert not any("tokens/s " in write for write in frames)


def test_notices_cannot_control_the_terminal_either() -> None:
    output = Output(60, 8)
    say(console_on(output), "a\x1b[2Jb [bold]c[/bold]")
    assert output.terminal.lines[0] == "a␛[2Jb [bold]c[/bold]"
