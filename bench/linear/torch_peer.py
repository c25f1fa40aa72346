"""The peer that runs torch.nn.functional.linear; the protocol is that of peer.h."""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch


def operands(count: int, seed: int) -> torch.Tensor:
    """The numbers of peer.h's operands()."""
    hashes = (np.arange(count, dtype=np.uint32) + np.uint32(seed)) * np.uint32(2654435761)
    return torch.from_numpy(((hashes >> 25).astype(np.int32) - 64).astype(np.float32) / 128)


class Product:
    """One prepared product with its rotating copies of the weight."""

    def __init__(self, dtype: str, rows: int, outputs: int, depth: int, copies: int) -> None:
        kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.x = operands(rows * depth, 1).reshape(rows, depth).to(kind)
        weight = operands(outputs * depth, 2).reshape(outputs, depth).to(kind)
        self.weights = [weight.clone() for _ in range(copies)]
        self.y = torch.empty(0)
        self.next_copy = 0

    def multiply(self) -> None:
        """Runs one product on the next copy of the weight."""
        self.y = torch.nn.functional.linear(self.x, self.weights[self.next_copy])
        self.next_copy = (self.next_copy + 1) % len(self.weights)


def cpu_seconds_of(call: Callable[[], None]) -> float:
    begin = time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)
    call()
    return time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID) - begin


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    product: Product | None = None
    for line in sys.stdin:
        command, *words = line.split()
        if command == "setup":
            product = None
            product = Product(words[0], *map(int, words[1:]))
            answer = f"ok torch {torch.__version__}"
        elif command == "time" and product is not None:
            answer = " ".join(repr(cpu_seconds_of(product.multiply)) for _ in range(int(words[0])))
        elif command == "row" and product is not None:
            answer = " ".join(map(repr, product.y[-1, :8].float().tolist()))
        else:
            sys.exit(f"unknown command: {line}")
        print(answer, flush=True)


if __name__ == "__main__":
    main()
