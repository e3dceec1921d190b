"""What the loop asks of the process around it: randomness that can be put back, and exact repetition."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def seed(number: int) -> None:
    """Seed every generator that a task may draw from: torch's, Python's and NumPy's."""
    torch.manual_seed(number)
    random.seed(number)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(number)


def random_state() -> dict[str, Any]:
    """Where those generators stand, as tensors, numbers and text."""
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
    }
    if numpy := sys.modules.get("numpy"):
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = (kind, torch.from_numpy(keys.astype("int64")), *rest)
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put them back."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        for device in range(min(len(state["cuda"]), torch.cuda.device_count())):  # a run may go on on another machine
            torch.cuda.set_rng_state(state["cuda"][device].cpu(), device)
    random.setstate(state["python"])
    if "numpy" in state:
        import numpy

        kind, keys, *rest = state["numpy"]
        numpy.random.set_state((kind, keys.cpu().numpy().astype("uint32"), *rest))


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is drawn inside, training goes on as if it had not been."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Where wanted, only algorithms that give the same bits each time, at some cost in speed."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    threads = torch.get_num_threads()  # a run may choose fewer
    torch.use_deterministic_algorithms(wanted or before)
    torch.backends.cudnn.benchmark = not wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_num_threads(threads)
