"""The options of the commands, by group. A default of None is the engine's or the model's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydllm.cli.options import Option, api_key, choice, real, switch, text, whole

Groups = Mapping[str, Sequence[Option]]

MODEL = Option(
    "model", "checkpoint directory, Hugging Face id, demo or demo-block", text, unset="the embedded demo model"
)

ENGINE: Groups = {
    "model": (
        Option("device", "cpu, cuda or cuda:N; auto is cpu", text, "auto", "DEVICE"),
        Option(
            "dtype",
            "auto (the checkpoint's), float32, bfloat16 or float16",
            choice("auto", "float32", "bfloat16", "float16"),
            "auto",
            "DTYPE",
        ),
        Option(
            "matmul",
            "bfloat16 products on a CUDA device: cublaslt, builtin, or auto (the first where it is found)",
            choice("auto", "cublaslt", "builtin"),
            "auto",
            "NAME",
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
        Option("host", "address to listen on, for all ports", text, "127.0.0.1", "HOST"),
        Option("http_port", "port of the REST gateway (0: any free one)", whole(0, 65535), 8000, "PORT"),
        Option("grpc_port", "port of the gRPC server (0: any free one)", whole(0, 65535), 50051, "PORT"),
        Option("metrics_port", "port of the engine's Prometheus page (0: any free one)", whole(0, 65535), 8002, "PORT"),
        Option("gateway", "serve REST beside gRPC", switch, True),
        Option("served_model_name", "name that clients use (default: the model's)", text, metavar="NAME"),
        Option("skip_tokenizer", "read no tokenizer: clients send and get token ids", switch, False),
        Option("enable_admin", "serve AdminService", switch, False),
        Option("metrics_alias", "show the metrics under vLLM's names as well", switch, False),
        Option("drain_timeout", "seconds that running requests have after SIGTERM", real(0, 86400), 30.0, "S"),
        Option(
            "log_level",
            "debug, info, warning or error",
            choice("debug", "info", "warning", "error"),
            "info",
            "LEVEL",
        ),
    ),
    "security": (
        Option(
            "api_key",
            "key that clients must send; other users of this machine see a flag, not the variable",
            api_key,
            metavar="KEY",
            unset="none",
            secret=True,
        ),
        Option(
            "api_key_file", "file with one such key per line; # begins a comment", text, metavar="FILE", unset="none"
        ),
        Option(
            "tls_cert",
            "PEM file: the server's certificate, then those that signed it",
            text,
            metavar="FILE",
            unset="none",
        ),
        Option("tls_key", "PEM file: the certificate's private key", text, metavar="FILE", unset="none"),
        Option(
            "tls_client_ca",
            "PEM file: clients must have a certificate that these have signed",
            text,
            metavar="FILE",
            unset="none",
        ),
    ),
    "defaults of requests": (
        Option("algorithm", "decoding algorithm (default: the architecture's)", text, metavar="NAME"),
        Option(
            "algorithm_config",
            "YAML file with parameters of the default algorithm (see `pydllm models`)",
            text,
            metavar="FILE",
            unset="none",
        ),
        Option("block_length", "tokens denoised together (default: the checkpoint's)", whole(1), metavar="N"),
    ),
}

GENERATE: Groups = {
    "sampling": (
        Option(
            "max_tokens",
            "most generated tokens (default: the checkpoint's, else 256; 2048 if block-causal)",
            whole(1),
            metavar="N",
        ),
        Option("min_tokens", "no end of sequence among so many tokens", whole(0), metavar="N"),
        Option("temperature", "0 is greedy", real(0, 100), metavar="T"),
        Option("top_p", "nucleus mass in (0, 1]", real(0, 1), metavar="P"),
        Option("top_k", "0 disables", whole(0), metavar="K"),
        Option("min_p", "least share of the largest probability, in [0, 1]", real(0, 1), metavar="P"),
        Option("repetition_penalty", "for tokens of the prompt and the answer (1: none)", real(0, 100), metavar="F"),
        Option("presence_penalty", "for tokens of the answer (0: none)", real(-2, 2), metavar="F"),
        Option("frequency_penalty", "the same, as often as they are there (0: none)", real(-2, 2), metavar="F"),
        Option("seed", "makes sampling repeatable", whole(0, 2**64 - 1), metavar="SEED"),
        Option("n", "candidates", whole(1, 128), metavar="N"),
        Option("ignore_eos", "generate max_tokens whatever the model says", switch),
        Option("max_repetition_run", "end after this many equal tokens in a row (0: never)", whole(0), metavar="N"),
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

VIEW: Groups = {
    "live view": (
        Option(
            "pace",
            "seconds that every step stays on the screen at least (default: 0; for the demo model 0.06)",
            real(0, 60),
            metavar="S",
        ),
    ),
}

CHAT: Groups = {
    "server": (
        Option(
            "server",
            "talk to a running server at HOST:PORT (gRPC) instead of loading a model",
            text,
            metavar="HOST:PORT",
        ),
        Option(
            "api_key",
            "the server's key; other users of this machine see a flag, not the variable",
            api_key,
            metavar="KEY",
            unset="none",
            secret=True,
        ),
        Option(
            "tls_ca", "PEM file to trust with --server grpcs://HOST:PORT (default: the system's)", text, metavar="FILE"
        ),
    ),
    "conversation": (Option("system", "system message", text, metavar="TEXT"),),
    **VIEW,
    "sampling": [option for option in GENERATE["sampling"] if option.name not in ("n", "ignore_eos")],
    "diffusion": GENERATE["diffusion"],
}

EVAL: Groups = {
    "problems": (
        Option("suite", "demo, or a JSONL file with question and answer (the number after ####)", text, "demo", "NAME"),
        Option("limit", "problems of each family (default: all)", whole(1), metavar="N"),
        Option("max_tokens", "most generated tokens of an answer", whole(1), 64, "N"),
        Option("block_length", "default of the settings; of a block-causal model for all", whole(1), metavar="N"),
        Option("grid", "compare fixed schedules, thresholds and block lengths", switch, False),
    ),
    "server": CHAT["server"][:2],
    "results": (
        Option("json", "write everything the table was made from", text, metavar="FILE"),
        Option("curve", "write accuracy against tokens per forward pass as an SVG picture", text, metavar="FILE"),
        Option("curve_title", "title of the picture", text, metavar="TEXT"),
        Option("curve_family", "draw one family (default: the mean over families)", text, metavar="NAME"),
    ),
}


def listed(groups: Groups) -> list[Option]:
    """All options of the groups."""
    return [option for group in groups.values() for option in group]
