"""`python -m pydllm.server --supervised`: the engine process that `pydllm serve` starts."""

from __future__ import annotations

import os
import signal
import sys

USAGE = 2


def _run() -> int:
    if sys.argv[1:] != ["--supervised"]:
        print("python -m pydllm.server --supervised: started by `pydllm serve`; use that", file=sys.stderr)
        return USAGE
    # Until the server watches for signals itself, there is nothing to drain.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    from pydllm.server.supervised import main

    return main()


if __name__ == "__main__":
    sys.exit(_run())
