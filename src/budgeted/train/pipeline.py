"""A device that runs behind its host: how far, and which of its updates happened."""

from __future__ import annotations

from collections import deque

import torch
from torch.optim import Optimizer

from ..core.ledger import Ledger
from .shared import SharedLedger

_RUN_AHEAD = 4  # updates that the host may be ahead of the device when seconds are counted


def device_of(optimizer: Optimizer) -> torch.device:
    """Where an optimizer's parameters are."""
    return next((p.device for group in optimizer.param_groups for p in group["params"]), torch.device("cpu"))


class Pipeline:
    """What the host must know of a device that runs behind it: how far behind, and which updates were skipped.

    Seconds are only right if the host cannot run ahead of the device without bound, so it waits for the update
    four back, which a device that keeps up has finished. A fused optimizer under mixed precision decides on the
    device whether it skips; its flag is copied behind the update and read when that wait is over.
    """

    def __init__(self, device: torch.device, ledger: Ledger | SharedLedger) -> None:
        self._device, self._ledger = device, ledger
        self._queue: deque[tuple[torch.cuda.Event, torch.Tensor | None]] = deque()

    @classmethod
    def of(cls, optimizer: Optimizer, ledger: Ledger | SharedLedger) -> Pipeline | None:
        """A pipeline where one is needed: for a CUDA device with a clock, or an optimizer that skips by itself."""
        device = device_of(optimizer)
        skips = getattr(optimizer, "_step_supports_amp_scaling", False)
        return cls(device, ledger) if skips or (device.type == "cuda" and ledger.timed) else None

    def happened(self, optimizer: Optimizer) -> bool:
        """Whether to count the update just run; one that turns out to be skipped later is taken back then."""
        flag: torch.Tensor | None = getattr(optimizer, "found_inf", None)
        if self._device.type != "cuda":
            return flag is None or not bool(flag)
        if flag is not None:
            flag = flag.to("cpu", non_blocking=True)
        elif not self._ledger.timed:
            return True
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._queue.append((event, flag))
        if len(self._queue) > _RUN_AHEAD:
            event, flag = self._queue.popleft()
            event.synchronize()
            if flag is not None and bool(flag):
                self._ledger.skipped(1)
        return True
