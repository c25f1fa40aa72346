"""The options of the commands, by group. A default of None is the engine's or the model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydllm.cli.options import Option, choice, real, switch, text, whole

Groups = Mapping[str, Sequence[Option]]

MODEL = Option("model", "checkpoint directory or Hugging Face id", text)

ENGINE: Groups = {
    "model": (
        Option("device", "auto or cpu", text, "auto", "DEVICE"),
        Option(
            "dtype",
            "auto (the checkpoint's), float32, bfloat16 or float16",
            choice("auto", "float32", "bfloat16", "float16"),
            "auto",
            "DTYPE",
        ),
        Option("mask_token_id", "overrides the checkpoint's mask token", whole(0), metavar="ID"),
        Option(
            "allow_unused_tensors",
            "load a checkpoint with tensors that the model does not use",
            switch,
            False,
        ),
    ),
    "engine": (
        Option(
            "max_model_len",
            "prompt plus generated tokens (default: the model's context)",
            whole(2),
            metavar="N",
        ),
        Option("max_batched_tokens", "tokens of one forward pass", whole(1), 4096, "N"),
        Option("max_running_requests", "requests in the running batch", whole(1), 64, "N"),
        Option("max_waiting_requests", "requests in the queue; beyond it RESOURCE_EXHAUSTED", whole(1), 1024, "N"),
        Option("page_size", "positions of one K/V page", whole(1), 32, "N"),
        Option("mem_fraction", "share of free memory for K/V pages, (0, 1]", real(0, 1), 0.5, "F"),
        Option("threads", "compute threads (0: one per usable core)", whole(0, 4096), 0, "N"),
    ),
}

SERVE: Groups = {
    "server": (
        Option("revision", "branch, tag or commit of a Hugging Face id", text, metavar="REV"),
        Option("host", "address to listen on", text, "127.0.0.1", "HOST"),
        Option("grpc_port", "port of the gRPC server (0: any free one)", whole(0, 65535), 50051, "PORT"),
        Option("served_model_name", "name that clients use (default: the model's)", text, metavar="NAME"),
        Option("drain_timeout", "seconds that running requests have after SIGTERM", real(0, 86400), 30.0, "S"),
        Option(
            "log_level",
            "debug, info, warning or error",
            choice("debug", "info", "warning", "error"),
            "info",
            "LEVEL",
        ),
    ),
    "defaults of requests": (
        Option("algorithm", "decoding algorithm (default: the architecture's)", text, metavar="NAME"),
        Option("block_length", "tokens denoised together (default: the checkpoint's)", whole(1), metavar="N"),
    ),
}

GENERATE: Groups = {
    "sampling": (
        Option("max_tokens", "most generated tokens (default: the checkpoint's, else 256)", whole(1), metavar="N"),
        Option("temperature", "0 is greedy", real(0, 100), metavar="T"),
        Option("top_p", "nucleus mass in (0, 1]", real(0, 1), metavar="P"),
        Option("top_k", "0 disables", whole(0), metavar="K"),
        Option("seed", "makes sampling repeatable", whole(0, 2**64 - 1), metavar="SEED"),
        Option("n", "candidates", whole(1, 128), metavar="N"),
        Option("ignore_eos", "generate max_tokens whatever the model says", switch),
    ),
    "diffusion": (
        Option("algorithm", "decoding algorithm (default: the architecture's)", text, metavar="NAME"),
        Option("block_length", "tokens denoised together", whole(1), metavar="N"),
        Option("max_steps_per_block", "most denoising steps for one block", whole(1), metavar="N"),
        Option("max_forward_passes", "most forward passes for the request", whole(1), metavar="N"),
        Option("confidence_threshold", "commit positions at or above this confidence", real(0, 1), metavar="F"),
        Option(
            "entropy_threshold",
            "commit positions at or below this entropy, in nats",
            real(0, 1e6),
            metavar="F",
        ),
    ),
}


def listed(groups: Groups) -> list[Option]:
    """All options of the groups."""
    return [option for group in groups.values() for option in group]
