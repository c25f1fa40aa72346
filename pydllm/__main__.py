"""`python -m pydllm` is the command `pydllm`."""

import sys

from pydllm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
