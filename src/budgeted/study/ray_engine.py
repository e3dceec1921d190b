"""Ray: more than one machine, by its own scheduler, retries and fractional GPUs.

Every machine needs this package, the data where the options say, and the folder of the runs at the same path.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, final

from ..core.errors import BudgetedError
from .engine import Ended, Engine

_PATIENCE = 10.0  # seconds
_RETRIES = 2  # that Ray makes of a call whose worker died


@final
class RayEngine(Engine):
    """A Ray cluster.

    Args:
        address: of the cluster; `auto` for the one that this machine belongs to, `local` to start one here.
        gpus: of one call, such as 0.25 for four calls on a GPU.

    Raises:
        BudgetedError: where Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str, *, gpus: float = 0.0) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ModuleNotFoundError:
            raise BudgetedError("--ray needs Ray, which is not installed: pip install ray") from None
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            _require_answer(address)
            where: dict[str, Any] = {"address": address, **({"include_dashboard": False} if address == "local" else {})}
            try:
                ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:
                reason = str(error).strip().partition("\n")[0]
                raise BudgetedError(
                    f"no Ray cluster answers at '{address}' ({reason}); start one with: ray start --head"
                ) from None
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        self.slots = int(there.get("GPU", 0) / gpus) if gpus else int(there.get("CPU", 1))
        if not self.slots:
            self.close()
            has = f"{there.get('GPU', 0):g} GPUs"
            raise BudgetedError(
                f"the Ray cluster at '{address}' has {has}, and a run wants {gpus:g}; give fewer, or leave --gpus out"
            )
        # One processor, and so one thread: Ray sets OMP_NUM_THREADS by it.
        self._call = ray.remote(_call).options(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)
        self._under_way: dict[Any, int] = {}
        self._count = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        self._count += 1
        self._under_way[self._call.remote(function, arguments, os.getcwd())] = self._count
        return self._count

    def wait(self, timeout: float) -> list[Ended]:
        if not self._under_way:
            return []
        ready, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=timeout)
        return [self._ended(reference) for reference in ready]

    def _ended(self, reference: Any) -> Ended:
        ticket = self._under_way.pop(reference)
        try:
            return Ended(ticket, self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            return Ended(ticket, error=str(error))
        except self._ray.exceptions.RayError as error:  # the worker, its machine, or a cancellation
            return Ended(ticket, died=f"{type(error).__name__} after {_RETRIES} retries")

    def interrupt(self) -> None:
        for reference in self._under_way:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference)  # as Ctrl-C does

    def close(self) -> None:
        if self._ours and self._ray.is_initialized():
            self._ray.shutdown()


def _require_answer(address: str) -> None:
    """Ray itself would go on for minutes to try an address at which nobody listens."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "//" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        reason = error.strerror or "no answer"
        raise BudgetedError(
            f"no Ray cluster answers at '{address}' ({reason}); start one with: ray start --head"
        ) from None


def _call(function: Callable[..., Any], arguments: tuple[Any, ...], folder: str) -> Any:
    with contextlib.suppress(OSError):
        os.chdir(folder)  # a task of the user's own is named from there
    return function(*arguments)
