"""Checkpoints: whole or refused, and never run."""

from __future__ import annotations

import os
import pickle
import random
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from budgeted import RunFolderError
from budgeted.train import checkpoint

CPU = torch.device("cpu")


def model(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3))


def state() -> dict:
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(4, 4)).sum().backward()
    optimizer.step()
    return {
        "run": {"progress": 0.1, "budget": "10ep", "caps": [["steps", 100.0, "10ep"]]},
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": {"value": None, "steps": 3},
        "random": torch.get_rng_state(),
    }


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "last.pt"


@pytest.fixture
def saved(path) -> bytes:
    checkpoint.save(path, state())
    return path.read_bytes()


def test_what_is_saved_is_loaded(path):
    content = state()
    checkpoint.save(path, content)
    loaded = checkpoint.load(path, CPU)
    assert loaded.pop("schema") == 1
    assert same(content, loaded)


def test_one_hundred_corruptions_are_refused_or_harmless(path, saved):
    """A flipped bit, a byte, a hole, a cut, bytes too many: refused, or what was saved is loaded to the bit."""
    dice, whole, refused = random.Random(0), state(), 0
    for _ in range(120):
        content = bytearray(saved)
        place, kind = dice.randrange(len(content)), dice.randrange(5)
        if kind == 0:
            content[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            content[place] = dice.randrange(256)
        elif kind == 2:
            content[place : place + dice.randrange(1, 200)] = b""
        elif kind == 3:
            del content[place:]
        else:
            content[place:place] = dice.randbytes(dice.randrange(1, 50))
        path.write_bytes(content)
        try:
            loaded = checkpoint.load(path, CPU)
        except RunFolderError:
            refused += 1
        else:
            del loaded["schema"]
            assert same(whole, loaded)
    assert refused > 80


def test_a_flipped_bit_in_the_weights_is_refused(path, saved):
    """torch.load alone would take it."""
    place = saved.index(state()["model"]["0.weight"].numpy().tobytes())
    content = bytearray(saved)
    content[place + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        RunFolderError, match=r"is damaged or not a checkpoint of budgeted's \(the checksum of its part"
    ):
        checkpoint.load(path, CPU)


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_file_cut_short_is_refused(path, saved, size):
    path.write_bytes(saved[:size])
    with pytest.raises(RunFolderError, match="is damaged or not a checkpoint"):
        checkpoint.load(path, CPU)


class Malice:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("way", ["pickle", "torch", "torch, legacy"])
def test_a_foreign_pickle_is_not_run(path, tmp_path, way):
    content, marker = {"schema": 1, "run": Malice(tmp_path / "marker")}, tmp_path / "marker"
    if way == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(RunFolderError, match="is damaged or not a checkpoint"):
        checkpoint.load(path, CPU)
    assert not marker.exists()
    pickle.loads(pickle.dumps(content))  # the trap does work
    assert marker.exists()


@pytest.mark.parametrize("content", [{"schema": 1}, {"run": {}}, [1, 2], torch.ones(2)])
def test_a_foreign_file_of_torch_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(RunFolderError, match="is not a checkpoint of budgeted's"):
        checkpoint.load(path, CPU)


def test_a_newer_schema_is_refused(path):
    checkpoint.save(path, {**state(), "schema": 2})
    with pytest.raises(RunFolderError, match="has schema 2, and this version reads up to 1; update budgeted"):
        checkpoint.load(path, CPU)


def test_a_missing_one_says_why(path):
    with pytest.raises(
        RunFolderError, match=r"there is no checkpoint at .*: the run ended before its first one; start"
    ):
        checkpoint.load(path, CPU)


def test_a_full_disk_leaves_the_old_one(path, saved, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"the disk of '.*' is full; free some space"):
        checkpoint.save(path, {})
    assert path.read_bytes() == saved
    assert os.listdir(path.parent) == ["last.pt"]


# Weights alone


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_round_trip_in_any_layout(path, layout):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=layout)
    checkpoint.save_weights(path, network, {"task": "mine"})
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    checkpoint.load_weights(path, other)
    assert same(dict(network.state_dict()), dict(other.state_dict()))


def test_tied_weights_are_written_and_read(path):
    network, other = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in range(2))
    for one in (network, other):
        one[1].weight = one[0].weight
    checkpoint.save_weights(path, network, {})
    checkpoint.load_weights(path, other)
    assert same(dict(network.state_dict()), dict(other.state_dict()))


def test_another_models_weights_are_refused(path):
    checkpoint.save_weights(path, model(), {})
    for other in (model(9), nn.Linear(4, 8)):
        with pytest.raises(RunFolderError, match="are damaged, or another model's"):
            checkpoint.load_weights(path, other)


def test_missing_and_damaged_weights_are_refused(path):
    with pytest.raises(RunFolderError, match="there are no weights at"):
        checkpoint.load_weights(path, model())
    checkpoint.save_weights(path, model(), {})
    content = path.read_bytes()
    for broken in (b"", content[:-1], content[:20], struct.pack("<Q", 2**60) + content[8:], b"nonsense" * 20):
        path.write_bytes(broken)
        with pytest.raises(RunFolderError, match="are damaged, or another model's"):
            checkpoint.load_weights(path, model())
