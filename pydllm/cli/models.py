"""`pydllm models`: what this build can run, from the registries of the core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.cli.console import OK

if TYPE_CHECKING:
    import argparse

    from pydllm import _core

_ATTENTION = {
    "full": "full attention",
    "block_causal": "block-causal attention",
    "prompt_block_causal": "full attention, which it masks",
}


def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    """Prints architectures, then every algorithm with its models and parameters."""
    from pydllm import _core

    print("architectures (config.json: architectures)")
    for architecture in _core.architectures():
        names = ", ".join(
            f"{name} (default)" if name == architecture.default_algorithm else name for name in architecture.algorithms
        )
        print(f"  {architecture.name}: {names}")
        for own in architecture.defaults:
            print(f"    {own.algorithm} {own.param}: default {own.value}")
    for algorithm in _core.algorithms():
        aliases = f" (also {', '.join(algorithm.aliases)})" if algorithm.aliases else ""
        print(f"\n{algorithm.name}{aliases}: {algorithm.summary}\n  from {algorithm.source}")
        print(f"  for models with {' or '.join(_ATTENTION[kind] for kind in algorithm.attention)}")
        for spec in algorithm.params:
            only = _only(algorithm, spec)
            print(f"  {spec.name:22} {_range(spec):28} default {spec.default:15} {spec.help}{only}")
    return OK


def _only(algorithm: _core.AlgorithmInfo, spec: _core.ParamSpec) -> str:
    """What to say of a parameter that the algorithm has on some of its models."""
    if len(algorithm.attention) == 1 or len(spec.attention) == len(algorithm.attention):
        return ""
    return f"; {' or '.join(_ATTENTION[kind] for kind in spec.attention)} only"


def _range(spec: _core.ParamSpec) -> str:
    if spec.choices:
        return " | ".join(spec.choices)
    return spec.type if spec.type == "bool" else f"{spec.type} in [{spec.minimum:g}, {spec.maximum:g}]"
