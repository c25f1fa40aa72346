"""`python -m pydllm_gateway`: see pydllm_gateway.process and pydllm_gateway.command."""

from __future__ import annotations

import sys

from pydllm_gateway.command import main

if __name__ == "__main__":
    sys.exit(main())
