"""`make accept-serving`: every promise of the server that people use, one line each with its figure, pass or fail.

Everything runs against real `pydllm serve` processes with the demo model. `--short` leaves out what CI runs as steps of
its own; naming lines runs only those.
"""

from __future__ import annotations

import sys

from lines import Line, make, program, run, tests

PYTHON = sys.executable
E2E = "tests/e2e/test_e2e_"
CLIENTS = f"{E2E}clients.py"
LINES = [
    Line("openai3", "the openai client 3.x: chat, completions, prompts, n, stop, seed, streams, usage, models, errors",
         tests(CLIENTS, "-k", "openai3-openai")),
    Line("openai2", "the same with the openai client 2.x", tests(CLIENTS, "-k", "openai2-openai")),
    Line("langchain", "langchain-openai: invoke, history, stream, batch, stop, completions",
         tests(CLIENTS, "-k", "langchain")),
    Line("litellm", "litellm: sync, async, stream, text completions, its exceptions", tests(CLIENTS, "-k", "litellm")),
    Line("lm_eval", "lm_eval local-completions with the remote tokenizer scores sums, offline",
         tests(CLIENTS, "-k", "lm_eval")),
    Line("fields", "every field of the clients' request types has a visible effect or is a 400 that names it",
         tests(f"{E2E}fields.py")),
    Line("stream=unary", "a concatenated stream is the unary text, every mode, algorithm and temperature",
         tests(f"{E2E}streams.py", "-k", "unary or reader")),
    Line("stop-utf8", "stop strings and characters across blocks never leak or break",
         tests(f"{E2E}streams.py", "-k", "stop or characters")),
    Line("hostile", "hostile HTTP: refused in words, never a 500 or a traceback, memory flat",
         tests(f"{E2E}hostile_http.py")),
    Line("disconnect", "clients that leave, unary calls too, free the engine within a second; nothing is left behind",
         tests(f"{E2E}disconnect.py", "-m", "not slow")),
    Line("native", "/generate in SGLang's and Diffulex's shapes says what /v1/completions says, whole and streamed",
         tests(f"{E2E}generate.py")),
    Line("metrics", "Prometheus' parser reads both pages; counters agree with the answers", tests(f"{E2E}metrics.py")),
    Line("recovery", "a killed engine or gateway is replaced, the other stays; SIGTERM drains; no orphans",
         tests(f"{E2E}recovery.py")),
    Line("examples", "the lines that serve prints and those of the README answer 42 when pasted",
         tests(f"{E2E}examples.py", f"{E2E}readme.py")),
    Line("gateway-alone", "the gateway's own wheel passes its tests where pydllm cannot be imported",
         make("test-gateway", show=r"^.*(?:cannot be imported|passed|failed).*$")),
    Line("chat-picture", "the picture of `chat` mid-denoising in docs/ is what its script draws",
         tests("tests/terminal/test_picture.py")),
    Line("help", "--help of every command under 0.2 s",
         program(PYTHON, "tests/accept/help_time.py", show=r"^.+$")),
    Line("throughput", "32 streams through the gateway beside gRPC: tokens/s and p99 of the first block, 90 % or more",
         program(PYTHON, "bench/serve.py", show=r"^(?:pass|FAIL)  (.*)$"), False),
    Line("throughput-quick", "the same in a fifth of the time, few samples: 75 % or more",
         program(PYTHON, "bench/serve.py", "--quick", show=r"^(?:pass|FAIL)  (.*)$")),
    Line("supervisor", "the supervisor's own tests", tests("tests/supervisor"), False),
    Line("terminal", "the terminal's own tests", tests("tests/terminal"), False),
]  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(LINES, __doc__, "clients"))
