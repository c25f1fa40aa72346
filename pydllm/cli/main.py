"""`pydllm`: the parser. Commands are imported when they run, so that --help is quick."""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import TYPE_CHECKING

from pydllm._version import __version__
from pydllm.cli.options import add_options
from pydllm.cli.settings import CHAT, ENGINE, EVAL, GENERATE, SERVE, VIEW

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = "A serving engine for diffusion language models."
_MODEL_HELP = "checkpoint directory or Hugging Face id (default: the embedded demo model)"


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, exit code 2."""

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog="pydllm", description=_DESCRIPTION, allow_abbrev=False)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    _add_serve(commands)
    _add_chat(commands)
    _add_generate(commands)
    _add_eval(commands)
    commands.add_parser(
        "models", help="architectures and decoding algorithms, with their parameters", allow_abbrev=False
    )
    commands.add_parser("env", help="versions, processor, memory and CUDA, for bug reports", allow_abbrev=False)
    commands.add_parser("version", help="print the version", allow_abbrev=False)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted."""
    arguments = parser().parse_args(argv)
    if arguments.command == "version":
        print(__version__)
        return 0
    try:
        command = importlib.import_module(f"pydllm.cli.{arguments.command}")
        return int(command.run(arguments))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _add_serve(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "serve",
        help="serve a model over REST and gRPC",
        description="Serves a model over REST and gRPC. An option is taken from its flag, else from the environment "
        "variable PYDLLM_<OPTION>, else from the --config file, else its default.",
        allow_abbrev=False,
    )
    command.add_argument("model", nargs="?", default=None, metavar="MODEL", help=_MODEL_HELP)
    command.add_argument("--config", default=None, metavar="FILE", help="YAML file with options as keys")
    add_options(command, {**SERVE, **ENGINE})


def _add_chat(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "chat",
        help="talk to a model in the terminal and watch it denoise",
        description="A conversation in the terminal that shows the denoising; /help in it lists its commands. Through "
        "pipes: one question per line of stdin, one plain answer each on stdout.",
        allow_abbrev=False,
    )
    model_help = f"{_MODEL_HELP}; with --server: a name it serves"
    command.add_argument("model", nargs="?", default=None, metavar="MODEL", help=model_help)
    command.add_argument("--config", default=None, metavar="FILE", help="YAML file with options as keys")
    _add_param(command)
    add_options(command, {**CHAT, **ENGINE})


def _add_param(command: _Parser) -> None:
    command.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="parameter of the algorithm, e.g. steps=64 (see `pydllm models`); may be given several times",
    )


def _add_generate(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "generate",
        help="answer one prompt in this process",
        description="Answers one prompt and prints only the text on stdout.",
        allow_abbrev=False,
    )
    command.add_argument("prompt", metavar="PROMPT", help='the prompt; "-" reads stdin')
    command.add_argument("--model", default=None, metavar="MODEL", help=_MODEL_HELP)
    command.add_argument("--config", default=None, metavar="FILE", help="YAML file with options as keys")
    command.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="stop string; may be given several times"
    )
    _add_param(command)
    add_options(command, {**GENERATE, **ENGINE, **VIEW})
    output = command.add_argument_group("output")
    output.add_argument("--raw", action="store_true", help="send the prompt as it is, without the chat template")
    output.add_argument("--stats", action="store_true", help="print statistics on stderr")
    output.add_argument("--watch", action="store_true", help="show the denoising on the terminal")
    output.add_argument("--json", action="store_true", help="print one JSON object per candidate instead of the text")


def _add_eval(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "eval",
        help="accuracy and tokens per forward pass of decoding settings",
        description="Answers a suite of problems under each setting and prints accuracy, tokens per forward pass and "
        "tokens per second.",
        allow_abbrev=False,
    )
    command.add_argument("model", nargs="?", default=None, metavar="MODEL", help=_MODEL_HELP)
    command.add_argument("--config", default=None, metavar="FILE", help="YAML file with options as keys")
    command.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="TEXT",
        help='"ALGORITHM NAME=VALUE ...", or "default"; may be given several times',
    )
    command.add_argument("--family", action="append", default=[], metavar="NAME", help="only this family (repeatable)")
    command.add_argument(
        "--batch", action="append", type=int, default=[], metavar="N", help="problems at once (repeatable; default: 32)"
    )
    add_options(command, {**EVAL, **ENGINE})


if __name__ == "__main__":
    sys.exit(main())
