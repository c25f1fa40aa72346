"""`pydllm generate`: one prompt, answered in this process."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from pydllm.cli.console import FAILED, OK, USAGE, fail, loading
from pydllm.cli.options import Resolved, UsageError, resolve
from pydllm.cli.settings import ENGINE, GENERATE, MODEL, listed
from pydllm.errors import InvalidRequestError, PydllmError, UnsupportedError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from pydllm.llm import LLM
    from pydllm.outputs import GenerationOutput
    from pydllm.params import DiffusionParams, SamplingParams

_SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "seed", "n", "ignore_eos")
_DIFFUSION = (
    "algorithm",
    "block_length",
    "max_steps_per_block",
    "max_forward_passes",
    "confidence_threshold",
    "entropy_threshold",
)


def run(arguments: argparse.Namespace) -> int:
    """Prints the text; the exit code."""
    options = (MODEL, *listed(GENERATE), *listed(ENGINE))
    try:
        settings = resolve(options, vars(arguments), os.environ, arguments.config)
        prompt = _prompt(arguments.prompt)
        sampling, diffusion = _params(settings, arguments.stop, arguments.param)
        outputs = _generate(prompt, settings, sampling, diffusion, raw=arguments.raw)
    except (UsageError, InvalidRequestError, UnsupportedError) as error:
        return fail("generate", error, USAGE)
    except PydllmError as error:
        return fail("generate", error, FAILED)
    for output in outputs:
        print(json.dumps(dataclasses.asdict(output)) if arguments.json else output.text)
        if arguments.stats:
            _print_stats(output)
    return OK


def _prompt(given: str) -> str:
    if given != "-":
        return given
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError("PROMPT: expected UTF-8 text on stdin") from None


def _generate(
    prompt: str, settings: Mapping[str, Resolved], sampling: SamplingParams, diffusion: DiffusionParams, *, raw: bool
) -> list[GenerationOutput]:
    with _load(settings) as llm:
        if not raw:
            try:
                return llm.chat(
                    [{"role": "user", "content": prompt}], sampling=sampling, diffusion=diffusion, progress=False
                )
            except UnsupportedError as error:
                if error.field != "chat":  # no chat template: the prompt goes as it is
                    raise
        return llm.generate(prompt, sampling=sampling, diffusion=diffusion, progress=False)


def _params(
    settings: Mapping[str, Resolved], stop: Sequence[str], params: Sequence[str]
) -> tuple[SamplingParams, DiffusionParams]:
    from pydllm.params import DiffusionParams, SamplingParams

    return (
        SamplingParams(**_given(settings, _SAMPLING), stop=tuple(stop)),
        DiffusionParams(**_given(settings, _DIFFUSION), extra=dict(map(_extra, params))),
    )


def _extra(given: str) -> tuple[str, bool | int | float | str]:
    """NAME=VALUE: a JSON number, true or false; anything else is text."""
    name, equals, written = given.partition("=")
    if not (name and equals):
        raise UsageError(f"--param: expected NAME=VALUE, got {given[:60]!r}")
    try:
        value = json.loads(written)
    except ValueError:
        value = written
    return name, value if isinstance(value, bool | int | float) else written


def _given(settings: Mapping[str, Resolved], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: settings[name].value for name in names if settings[name].value is not None}


def _load(settings: Mapping[str, Resolved]) -> LLM:
    from pydllm.llm import LLM

    names = tuple(option.name for option in listed(ENGINE))
    model = settings["model"].value
    with loading(model or "the embedded demo model", quiet=True) as report:
        return LLM(model, load_progress=report, **_given(settings, names))


def _print_stats(output: GenerationOutput) -> None:
    stats = dataclasses.asdict(output.stats)
    words = [f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in stats.items()]
    print(f"[{output.finish_reason}] {len(output.token_ids)} tokens, {', '.join(words)}", file=sys.stderr)
