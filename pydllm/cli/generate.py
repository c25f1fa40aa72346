"""`pydllm generate`: one prompt, answered in this process."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING

from pydllm.cli.console import FAILED, OK, USAGE, fail, loading
from pydllm.cli.options import Resolved, UsageError, resolve
from pydllm.cli.settings import ENGINE, GENERATE, MODEL, VIEW, listed
from pydllm.cli.values import DIFFUSION, SAMPLING, extra_param, given, pace
from pydllm.errors import InvalidRequestError, PydllmError, UnsupportedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from pydllm.llm import LLM
    from pydllm.outputs import GenerationOutput
    from pydllm.params import DiffusionParams, SamplingParams

STDOUT, STDERR, NOWHERE = "stdout", "stderr", "nowhere"


@dataclasses.dataclass(frozen=True)
class _Asked:
    """One request. `raw`: without the chat template."""

    prompt: str
    sampling: SamplingParams
    diffusion: DiffusionParams
    raw: bool


def run(arguments: argparse.Namespace) -> int:
    """Prints the text; the exit code."""
    options = (MODEL, *listed(GENERATE), *listed(ENGINE), *listed(VIEW))
    try:
        settings = resolve(options, vars(arguments), os.environ, arguments.config)
        prompt = _prompt(arguments.prompt)
        asked = _Asked(prompt, *_params(settings, arguments.stop, arguments.param), raw=arguments.raw)
        view = _view(arguments, settings)
        outputs = _generate(asked, settings, view)
    except (UsageError, InvalidRequestError, UnsupportedError) as error:
        return fail("generate", error, USAGE)
    except PydllmError as error:
        return fail("generate", error, FAILED)
    for output in outputs:
        if view != STDOUT:  # else it stands there already
            print(json.dumps(dataclasses.asdict(output)) if arguments.json else _printed(output.text))
        if arguments.stats:
            _print_stats(output)
    return OK


def _view(arguments: argparse.Namespace, settings: Mapping[str, Resolved]) -> str:
    """Where the live view goes: a terminal, if possible that of the text."""
    if not arguments.watch:
        if settings["pace"].source == "flag":
            raise UsageError("--pace: only with --watch")
        return NOWHERE
    if (settings["n"].value or 1) > 1:
        raise UsageError(f"--watch: expected --n 1, got {settings['n'].value}")
    if sys.stdout.isatty() and not arguments.json:
        return STDOUT
    if sys.stderr.isatty():
        return STDERR
    fail("generate", "--watch: neither stdout nor stderr is a terminal, so there is nothing to draw on", OK)
    return NOWHERE


def _printed(text: str) -> str:
    """A terminal gets control characters made visible, everything else the text itself."""
    if not sys.stdout.isatty():
        return text
    from pydllm.terminal.visible import visible

    return visible(text)


def _prompt(given: str) -> str:
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("PROMPT: expected UTF-8 text on stdin") from None


def _generate(asked: _Asked, settings: Mapping[str, Resolved], view: str) -> list[GenerationOutput]:
    with _load(settings) as llm:
        if view != NOWHERE:
            return [_watched(llm, asked, settings, view)]
        sampling, diffusion = asked.sampling, asked.diffusion
        if not asked.raw:
            try:
                return llm.chat(
                    [{"role": "user", "content": asked.prompt}], sampling=sampling, diffusion=diffusion, progress=False
                )
            except UnsupportedError as error:
                if error.field != "chat":  # no chat template: the prompt goes as it is
                    raise
        return llm.generate(asked.prompt, sampling=sampling, diffusion=diffusion, progress=False)


def _watched(llm: LLM, asked: _Asked, settings: Mapping[str, Resolved], view: str) -> GenerationOutput:
    from rich.console import Console

    from pydllm.terminal.answer import Answer
    from pydllm.terminal.cells import Pieces
    from pydllm.terminal.local import LocalBackend
    from pydllm.terminal.screen import Screen
    from pydllm.terminal.visible import lenient

    sampling, diffusion = asked.sampling, asked.diffusion
    backend = LocalBackend(llm, "")
    events = backend.stream_question(asked.prompt, sampling, diffusion, raw=asked.raw)
    answer = Answer(first_block=min(diffusion.block_length or backend.block_length, sampling.max_tokens or 2**31))
    console = Console(file=lenient(sys.stderr if view == STDERR else sys.stdout), highlight=False)
    step_pace = pace(settings, demo=settings["model"].value is None)
    Screen(console, Pieces(backend.texts), pace=step_pace).show(events, answer)
    return answer.output()


def _params(
    settings: Mapping[str, Resolved], stop: Sequence[str], params: Sequence[str]
) -> tuple[SamplingParams, DiffusionParams]:
    from pydllm.params import DiffusionParams, SamplingParams

    return (
        SamplingParams(**given(settings, SAMPLING), stop=tuple(stop)),
        DiffusionParams(**given(settings, DIFFUSION), extra=dict(map(extra_param, params))),
    )


def _load(settings: Mapping[str, Resolved]) -> LLM:
    from pydllm.llm import LLM

    names = (*(option.name for option in listed(ENGINE)), "block_length")  # a block-causal model may need it to load
    model = settings["model"].value
    with loading(model or "the embedded demo model", quiet=True) as report:
        return LLM(model, load_progress=report, **given(settings, names))


def _print_stats(output: GenerationOutput) -> None:
    stats = dataclasses.asdict(output.stats)
    words = [f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in stats.items()]
    print(f"[{output.finish_reason}] {len(output.token_ids)} tokens, {', '.join(words)}", file=sys.stderr)
