"""`make accept-demo`: every promise of the embedded models, one line each with its figure, pass or fail.

`--short` leaves out the fresh clone and what `make test` runs; naming lines runs only those.
"""

from __future__ import annotations

import sys

from lines import Line, program, run, tests

PYTHON = sys.executable
FIGURES = "tests/accept/demo_figures.py"
LINES = [
    Line("accuracy", "held-out accuracy of every computed family at confidence threshold 0.9: 90 % or more, n >= 200",
         program(PYTHON, FIGURES, "accuracy", show=r"^.+$")),
    Line("sibling", "the same for the block-causal sibling at block lengths 8, 16 and 32: 80 % or more",
         program(PYTHON, FIGURES, "sibling", show=r"^.+$")),
    Line("speed", "within 2 points of the fixed schedule at one token per forward pass: 6 tokens per forward or more",
         program(PYTHON, FIGURES, "speed", show=r"^.+$")),
    Line("trade-off", "where tokens must agree with each other, writing more of them at once costs accuracy",
         program(PYTHON, FIGURES, "trade", show=r"^.+$")),
    Line("disjoint", "problems that training shows and held-out ones share no key, question or pair of numbers",
         tests("tests/demo_model/test_problems.py"), False),
    Line("training", "a few steps: the loss falls, continuing equals not stopping, the engine computes the same",
         tests("tests/demo_model/test_training.py"), False),
    Line("shipped", "both shipped models: at most 10 MB, complete, their cards' figures, accuracy on a fixed sample",
         tests("tests/demo_model/test_shipped.py"), False),
    Line("eval", "pydllm eval: the demo suite, a grid, GSM8K-style files, a running server, the picture",
         tests("tests/evaluate"), False),
    Line("curve", "the curve in docs is what its measurements draw", tests("tests/demo_model/test_curve.py"), False),
    Line("imports", "serving and answering import nothing of the training stack",
         tests("tests/demo_model/test_imports.py"), False),
    Line("fresh-clone", "fresh clone: listening in under five minutes, the README's lines answer, tests green",
         program(PYTHON, "tests/accept/fresh_clone.py", "--whole", show=r"^fresh clone: (.*)$", timeout=3600), False),
]  # fmt: skip

if __name__ == "__main__":
    sys.exit(run(LINES, __doc__))
