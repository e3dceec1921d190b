"""Counters of energy: what a device has used since some fixed moment, in joules."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import BudgetError

if TYPE_CHECKING:
    import torch

_OWN = "or give a counter of your own: attach(..., energy=a function that returns joules)"


def meter(device: torch.device) -> Callable[[], float]:
    """The counter of a device: NVML's for a CUDA device, RAPL's of all processors for the CPU.

    The counter is of the whole device, whatever else runs on it. A GPU's says nothing of the machine around it.

    Raises:
        BudgetError: where there is no counter, or it cannot be read: which one, and what to do.
    """
    if device.type == "cuda":
        import torch

        # CUDA's own identity of the device: NVML counts in another order and ignores CUDA_VISIBLE_DEVICES.
        return Nvml(str(torch.cuda.get_device_properties(device).uuid))
    if device.type == "cpu":
        return Rapl()
    raise BudgetError(
        f"energy cannot be measured: no counter is known for device '{device}'; use a GPU of NVIDIA, {_OWN}"
    )


class Nvml:
    """The energy counter of one NVIDIA GPU, of the Volta generation or later; the driver starts it at 0.

    Args:
        uuid: the device's, with or without `GPU-` before it.
        nvml: the module that speaks to the driver; pynvml where none is given.

    Raises:
        BudgetError: where the module, the driver, the device or its counter is missing.
    """

    def __init__(self, uuid: str, nvml: Any = None) -> None:
        self._nvml = nvml if nvml is not None else _pynvml()
        self.name = f"GPU-{uuid.removeprefix('GPU-')}"
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(self.name)
        except self._nvml.NVMLError as error:
            raise BudgetError(f"energy cannot be measured: NVML does not know {self.name} ({error}); {_OWN}") from None
        self()

    def __call__(self) -> float:
        """Joules since the driver was loaded, by nvmlDeviceGetTotalEnergyConsumption."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except self._nvml.NVMLError as error:
            raise BudgetError(
                f"energy cannot be measured: {self.name} does not tell its energy ({error}); GPUs from Volta on do, but "
                f"not shares of one; {_OWN}"
            ) from None


def _pynvml() -> Any:
    try:
        import pynvml
    except ModuleNotFoundError:
        raise BudgetError(
            f"energy cannot be measured: nvidia-ml-py is not installed; pip install 'budgeted[energy]', {_OWN}"
        ) from None
    return pynvml


@dataclass(slots=True)
class _Zone:
    """One counter that starts again at 0 behind its highest value."""

    file: Path
    highest: int
    last: int


class Rapl:
    """The energy counters of all processor packages, Intel's and AMD's, by Linux's powercap.

    The counters are 32 bits wide and start again at 0. That is accounted for as long as they are looked at at least
    once a round: a package at 300 W takes 3.6 minutes for one where the counter's unit is 15.3 microjoules, and
    14.6 minutes at 61; `max_energy_range_uj` is a round. A longer pause, in an evaluation for instance, loses whole rounds.

    Args:
        root: where the kernel shows its zones; `intel-rapl:N` with a name of `package-...` are the packages. What a
            package contains (cores, memory) and the whole platform, which contains the packages, are left out.

    Raises:
        BudgetError: where there are no packages, or their counters cannot be read.
    """

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        packages = [
            folder
            for folder in sorted(root.glob("intel-rapl:*"))
            if re.fullmatch(r"intel-rapl:\d+", folder.name) and _read(folder / "name").startswith("package")
        ]
        if not packages:
            raise BudgetError(
                f"energy cannot be measured: this machine has no counter of its processors at "
                f"'{root}/intel-rapl:*/energy_uj'; virtual machines have none; {_OWN}"
            )
        self._zones = [
            _Zone(folder / "energy_uj", _number(folder / "max_energy_range_uj"), _number(folder / "energy_uj"))
            for folder in packages
        ]
        self._total = 0

    def __call__(self) -> float:
        """Joules since this object was made."""
        for zone in self._zones:
            now = _number(zone.file)
            self._total += now - zone.last if now >= zone.last else now - zone.last + zone.highest
            zone.last = now
        return self._total / 1e6


def _number(file: Path) -> int:
    text = _read(file)
    if not text.isdecimal():
        raise BudgetError(f"energy cannot be measured: '{file}' holds '{text[:40]}', not a number; {_OWN}")
    return int(text)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except PermissionError:
        raise BudgetError(
            f"energy cannot be measured: '{file}' is the administrator's alone, as on most machines; "
            f"`sudo chmod a+r {file}` lets everybody read it until the next start, {_OWN}"
        ) from None
    except OSError as error:
        raise BudgetError(f"energy cannot be measured: '{file}' cannot be read ({error.strerror}); {_OWN}") from None
