"""Counters of energy, against trees and modules that stand in for the machine's."""

from __future__ import annotations

import os
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from budgeted.core.errors import BudgetError
from budgeted.train.energy import Nvml, Rapl, meter

UUID = "f1c5ae8d-3c0c-7a10-9b2e-000000000001"
OWN = r"or give a counter of your own: attach\(..., energy=a function that returns joules\)$"

# RAPL


def zone(root: Path, number: str, name: str, energy: int, highest: int = 262_143_328_850) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    for file, content in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", highest)):
        (folder / file).write_text(f"{content}\n")
    return folder / "energy_uj"


def test_joules_of_all_packages_are_added(tmp_path):
    first, second = zone(tmp_path, "0", "package-0", 5_000_000), zone(tmp_path, "1", "package-1", 7_000_000)
    read = Rapl(tmp_path)
    assert read() == 0
    first.write_text("6500000\n")
    assert read() == 1.5
    second.write_text("7250000\n")
    assert read() == read() == 1.75


def test_what_is_part_of_a_package_or_contains_it_is_left_out(tmp_path):
    package = zone(tmp_path, "0", "package-0-die-1", 0)
    others = [
        zone(tmp_path, "0:0", "core", 0), zone(tmp_path, "0:1", "dram", 0), zone(tmp_path, "1", "psys", 0),
        zone(tmp_path, "2", "dram", 0),
    ]  # fmt: skip
    mmio = zone(tmp_path, "mmio", "package-0", 0)
    mmio.parent.rename(tmp_path / "intel-rapl-mmio:0")  # the same counter by another way
    read = Rapl(tmp_path)
    for other in others:
        other.write_text("9000000")
    (tmp_path / "intel-rapl-mmio:0" / "energy_uj").write_text("9000000")
    assert read() == 0
    package.write_text("9000000")
    assert read() == 9


@given(st.lists(st.integers(0, 999), min_size=1, max_size=30), st.integers(0, 999))
def test_a_counter_that_starts_again_goes_on(tmp_path_factory, steps, start):
    """What is used between two looks is known as long as it is less than a round."""
    root, highest = tmp_path_factory.mktemp("powercap"), 1000
    counter = zone(root, "0", "package-0", start, highest)
    read, used = Rapl(root), 0
    for step in steps:
        used += step
        counter.write_text(f"{(start + used) % highest}")
        assert read() == used / 1e6


@pytest.mark.parametrize("missing", ["nowhere", "zones", "packages"])
def test_a_machine_without_packages(tmp_path, missing):
    if missing != "nowhere":
        (tmp_path / "powercap").mkdir()
    if missing == "packages":
        zone(tmp_path / "powercap", "0", "psys", 0)
    with pytest.raises(
        BudgetError, match=rf"no counter of its processors at '{tmp_path}/powercap/intel-rapl:\*/energy_uj'.*{OWN}"
    ):
        Rapl(tmp_path / "powercap")


def test_a_counter_that_only_the_administrator_may_read(tmp_path, monkeypatch):
    counter = zone(tmp_path, "0", "package-0", 0)
    counter.chmod(0o400)
    if os.geteuid() == 0:  # root may read everything
        read = Path.read_text
        monkeypatch.setattr(
            Path, "read_text", lambda path, **how: denied(path) if path == counter else read(path, **how)
        )
    with pytest.raises(
        BudgetError, match=rf"'{counter}' is the administrator's alone.*`sudo chmod a\+r {counter}`.*{OWN}"
    ):
        Rapl(tmp_path)


def denied(path: Path) -> str:
    raise PermissionError(13, "Permission denied", str(path))


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("energy_uj", "", "energy_uj' holds '', not a number"),
        ("energy_uj", "-5", "energy_uj' holds '-5', not a number"),
        ("max_energy_range_uj", "many", "max_energy_range_uj' holds 'many', not a number"),
        ("max_energy_range_uj", None, r"max_energy_range_uj' cannot be read \(No such file or directory\)"),
        ("name", None, r"name' cannot be read \(No such file or directory\)"),
    ],
)
def test_a_damaged_counter(tmp_path, file, content, sentence):
    path = zone(tmp_path, "0", "package-0", 0).with_name(file)
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(BudgetError, match=f"energy cannot be measured: '.*{sentence}; {OWN}"):
        Rapl(tmp_path)


def test_a_counter_that_vanishes_while_it_is_used(tmp_path):
    counter = zone(tmp_path, "0", "package-0", 0)
    read = Rapl(tmp_path)
    counter.unlink()
    with pytest.raises(BudgetError, match="energy_uj' cannot be read"):
        read()


# NVML


class NVMLError(Exception):
    pass


class Driver(types.ModuleType):
    """pynvml with two GPUs, millijoules by UUID."""

    NVMLError = NVMLError

    def __init__(self, broken: str = "") -> None:
        super().__init__("pynvml")
        self.broken, self.millijoules = broken, {f"GPU-{UUID}": 1500, "GPU-other": 9_000_000}

    def nvmlInit(self) -> None:
        self.fail("nvmlInit", "Driver Not Loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid not in self.millijoules:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self.fail("nvmlDeviceGetTotalEnergyConsumption", "Not Supported")
        return self.millijoules[handle]

    def fail(self, where: str, why: str) -> None:
        if self.broken == where:
            raise NVMLError(why)


@pytest.mark.parametrize("uuid", [UUID, f"GPU-{UUID}"])
def test_joules_of_the_one_gpu(uuid):
    driver = Driver()
    read = Nvml(uuid, driver)
    assert read() == 1.5
    driver.millijoules |= {f"GPU-{UUID}": 4000, "GPU-other": 99_000_000}
    assert read() == 4


@pytest.mark.parametrize(
    ("uuid", "broken", "sentence"),
    [
        (UUID, "nvmlInit", rf"NVML does not know GPU-{UUID} \(Driver Not Loaded\)"),
        ("elsewhere", "", r"NVML does not know GPU-elsewhere \(Not Found\)"),
        (UUID, "nvmlDeviceGetTotalEnergyConsumption", rf"GPU-{UUID} does not tell its energy \(Not Supported\); GPUs from Volta on do"),
    ],
)  # fmt: skip
def test_a_gpu_without_a_counter(uuid, broken, sentence):
    with pytest.raises(BudgetError, match=f"energy cannot be measured: {sentence}.*{OWN}"):
        Nvml(uuid, Driver(broken))


def test_a_gpu_that_is_lost_while_it_is_used():
    driver = Driver()
    read = Nvml(UUID, driver)
    driver.broken = "nvmlDeviceGetTotalEnergyConsumption"
    with pytest.raises(BudgetError, match="does not tell its energy"):
        read()


def test_the_library_itself_has_what_is_asked_of_it():
    """Where there is no driver, it raises its own error, which becomes a sentence."""
    import pynvml

    assert all(hasattr(pynvml, name) for name in vars(Driver) if name.startswith("nvml"))
    with pytest.raises(BudgetError, match=f"NVML does not know GPU-nowhere .*{OWN}"):
        Nvml("nowhere")


# The device's own


def test_a_cuda_device_is_found_by_its_identity(monkeypatch):
    """Whatever CUDA_VISIBLE_DEVICES and the order of the devices: torch's `cuda:1` may be NVML's 0."""
    identities = {0: "other", 1: UUID}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid=identities[device.index])
    )
    monkeypatch.setitem(sys.modules, "pynvml", Driver())
    assert meter(torch.device("cuda:1"))() == 1.5
    assert meter(torch.device("cuda:0"))() == 9000


def test_without_the_library_it_is_said_how_to_install_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: types.SimpleNamespace(uuid=UUID))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(BudgetError, match=rf"nvidia-ml-py is not installed; pip install 'budgeted\[energy\]', {OWN}"):
        meter(torch.device("cuda"))


def test_the_processors_own(tmp_path, monkeypatch):
    counter = zone(tmp_path, "0", "package-0", 0)
    monkeypatch.setattr(Rapl.__init__, "__defaults__", (tmp_path,))
    read = meter(torch.device("cpu"))
    counter.write_text("2000000")
    assert read() == 2


def test_a_device_of_another_kind():
    with pytest.raises(BudgetError, match=rf"no counter is known for device 'meta'; use a GPU of NVIDIA, {OWN}"):
        meter(torch.device("meta"))


def test_this_machines_own_counter_rises_or_is_refused_with_a_sentence():
    try:
        read = meter(torch.device("cpu"))
    except BudgetError as refusal:
        assert re.search("no counter of its processors|the administrator's alone", str(refusal))  # noqa: PT017
        return
    assert 0 <= read() <= read()
