"""`make accept-core`: every promise of the CPU core, one line each with its figure, pass or fail.

`--short` leaves out what CI runs as steps of its own (sanitizers, the instruction sets, the fresh clone) and the speed
of `linear`, which depends on the processor; naming lines runs only those.
"""

from __future__ import annotations

import sys

from lines import Line, cpp, make, program, run, tests

PYTHON = sys.executable
LINES = [
    Line("golden", "golden trajectories token for token in fp32, alone, batched, repeated; first logits within 2e-3",
         tests("tests/engine/test_golden.py")),
    Line("transfer-index", "logic_transfer_index: 45 rows exact, 60/60 entropy choices exact, tie rows by count",
         cpp("*TransferIndex*", show=r"\d+/\d+")),
    Line("chat-template", "text_chat_template 18/18", tests("tests/text/test_text_chat_template.py", "-k", "recorded")),
    Line("bit-identity", "bit-identical alone, with 15 random neighbours and after a restart, greedy and seeded",
         tests("tests/engine/test_bit_identity.py")),
    Line("sampling", "sampled frequencies match the filtered softmax (chi-square, fixed seed)",
         cpp("Sampling.Frequencies*", show="chi-square")),
    Line("streams", "64 gRPC streams, random cancels and deadlines: one terminal status each, all pages free",
         tests("tests/server/test_concurrency.py")),
    Line("hostile", "bad checkpoints and bad requests are refused in one line; nothing crashes",
         tests("tests/models/test_safetensors_hostile.py", "tests/models/test_checkpoint.py",
               "tests/server/test_bad_checkpoints.py", "tests/text/test_text_hostile_templates.py",
               "tests/server/test_statuses.py", "tests/engine/test_params.py")),
    Line("sums", "all 10,000 sums 0..99 through the batched engine at confidence threshold 0.9: 98.5 % right",
         program(PYTHON, "tests/accept/sums.py", show=r"^sums: (.*)$")),
    Line("clients", "a Python and a TypeScript gRPC client (from the .proto alone) stream an answer",
         tests("tests/clients", "-m", "clients or not clients")),
    Line("linear", "linear beside torch and oneDNN, at least 90 % of oneDNN at M >= 32",
         program(PYTHON, "bench/linear.py", "--quick", show=r"^.*(?:oneDNN|target).*$"), False),
    Line("qemu", "dispatch under an emulated CPU of each kind", make("qemu", show=r"^.*(?:pass|fail).*$"), False),
    Line("asan", "core tests clean under AddressSanitizer and UndefinedBehaviorSanitizer",
         make("asan", show=r"^\[==========\].* ran.*$|^\[  PASSED  \].*$"), False),
    Line("tsan", "core tests clean under ThreadSanitizer",
         make("tsan", show=r"^\[==========\].* ran.*$|^\[  PASSED  \].*$"), False),
    Line("fresh-clone", "fresh clone: make serve listens in under five minutes, generate prints 42, make test green",
         program(PYTHON, "tests/accept/fresh_clone.py", "--whole", show=r"^fresh clone: (.*)$", timeout=3600), False),
]  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(LINES, __doc__, "test-cpp"))
