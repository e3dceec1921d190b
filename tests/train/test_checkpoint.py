"""Checkpoints: whole or refused, the one before in reserve, and never run."""

from __future__ import annotations

import copy
import errno
import functools
import io
import os
import pickle
import random
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from budgeted import RunFolderError
from budgeted.train import checkpoint

CPU = torch.device("cpu")


def model(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Linear(width, 3))


def state(steps: int = 3) -> dict[str, Any]:
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.randn(4, 4)).sum().backward()
    optimizer.step()
    return {
        "run": {"ledger": {"spent": {"steps": float(steps)}}, "budget": "10ep", "caps": [["steps", 100.0, "10ep"]]},
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "precision": "float32",
        "threads": 2,
        "best": {"value": None, "steps": 3},
        "random": {"torch": torch.get_rng_state(), "python": random.getstate()},
    }


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def steps_of(found: dict[str, Any] | None) -> float | None:
    return found and found["run"]["ledger"]["spent"]["steps"]


def refuse(number: int) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


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
    assert loaded.pop("schema") == 2
    assert same(content, loaded)


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Bits flipped, a hole, a cut, bytes too many, a page of zeros, or parts in another place."""
    place, kind = dice.randrange(len(content)), dice.randrange(7)
    match kind:
        case 0 | 1:
            changed = bytearray(content)
            for _ in range(dice.choice([1, 1, 1, 8, 100])):
                changed[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            return bytes(changed)
        case 2:
            return content[:place]
        case 3:
            return content[:place] + content[place + dice.randrange(1, 200) :]
        case 4:
            return content[:place] + dice.randbytes(dice.randrange(1, 50)) + content[place:]
        case 5:
            return content[:place] + bytes(512) + content[place + 512 :]
        case _:
            return content[place:] + content[:place]


@pytest.mark.parametrize("part", range(4))
def test_eight_hundred_corruptions_are_refused_or_harmless(path, part):
    """Refused with a sentence, or what was saved is loaded to the bit."""
    dice, whole, sentences = random.Random(part), state(), []
    checkpoint.save(path, whole)
    content = path.read_bytes()
    for _ in range(200):
        path.write_bytes(damaged(content, dice))
        try:
            found, said = checkpoint.latest(path.parent, CPU)
        except RunFolderError as error:
            sentences.append(str(error))
        else:
            assert said is None
            del found["schema"]
            assert same(whole, found)
    assert 150 < len(sentences) < 200
    assert all(text.endswith(", and there is no whole one before it; train anew") for text in sentences)


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


def as_pickle(content: Any, protocol: int) -> bytes:
    return pickle.dumps(content, protocol)


def as_torch(content: Any, protocol: int, *, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def as_zip(content: Any, protocol: int) -> bytes:
    """What `torch.save` writes, by hand and compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as parts:
        parts.writestr("archive/data.pkl", pickle.dumps(content, protocol))
        parts.writestr("archive/version", "3\n")
        parts.writestr("archive/byteorder", "little")
    return file.getvalue()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("write", [as_pickle, as_torch, functools.partial(as_torch, zipped=False), as_zip])
@pytest.mark.parametrize("key", ["schema", "run", "model", "best"])
def test_a_foreign_pickle_is_not_run(path, tmp_path, write, protocol, key):
    marker = tmp_path / "marker"
    content = {"schema": 2, **state(), key: Malice(marker)}
    if write is as_pickle or write is as_zip:
        content |= {"model": content["model"] if key == "model" else {}, "optimizer": {}, "random": {}}
    path.write_bytes(write(content, protocol))
    for act in (lambda: checkpoint.load(path, CPU), lambda: checkpoint.latest(tmp_path, CPU)):
        with pytest.raises(RunFolderError, match="is damaged or not a checkpoint"):
            act()
    assert not marker.exists()
    pickle.loads(pickle.dumps(content))  # the trap does work
    assert marker.exists()


def foreign(content: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """A state in which something is of another type, is missing, or is another thing."""
    content = copy.deepcopy(content)
    within, key = content, dice.choice(list(content))
    while isinstance(within[key], dict) and within[key] and dice.random() < 0.6:
        within = within[key]
        key = dice.choice(list(within))
    other = [
        None,
        True,
        -1,
        1e308,
        float("nan"),
        "x",
        b"\0",
        [],
        {},
        (),
        [[3]],
        {"ledger": 1},
        {1: 2},
        torch.ones(2),
        {3},
    ]
    if dice.random() < 0.2:
        del within[key]
    else:
        within[key] = dice.choice(other)
    return content


def test_two_hundred_foreign_files_are_refused_or_loaded_as_they_are(path):
    """Sound files of torch under the right keys, and files of other things."""
    dice, sentences = random.Random(0), []
    for k in range(200):
        content = foreign({"schema": 2, **state()}, dice)
        write = dice.choice([as_torch, as_torch, as_torch, as_pickle, as_zip])
        path.write_bytes(write(content, 2) if k % 10 else dice.randbytes(dice.randrange(2000)))
        try:
            found, _ = checkpoint.latest(path.parent, CPU)
        except RunFolderError as error:
            sentences.append(str(error))
        else:
            assert isinstance(steps_of(found), float)
            assert isinstance(found["model"], dict)
            assert isinstance(found["threads"], int)
    assert 100 < len(sentences) < 200
    assert all(str(path) in text for text in sentences)


def test_a_zip_file_of_other_things_is_refused(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(RunFolderError, match="is damaged or not a checkpoint"):
        checkpoint.load(path, CPU)


def test_a_saved_program_is_refused(path):
    """As `torch.jit.save` writes it; `torch.load` would run it."""
    with zipfile.ZipFile(path, "w") as file:
        for name in ("data.pkl", "constants.pkl", "version", "code/__torch__.py"):
            file.writestr(f"archive/{name}", pickle.dumps(()))
    with pytest.raises(RunFolderError, match="is damaged or not a checkpoint"):
        checkpoint.load(path, CPU)


@pytest.mark.parametrize("content", [{"schema": 2}, {"run": {}}, [1, 2], torch.ones(2), {"schema": "2"}])
def test_a_foreign_file_of_torch_is_refused(path, content):
    torch.save(content, path)
    with pytest.raises(RunFolderError, match="is not a checkpoint of budgeted's"):
        checkpoint.load(path, CPU)


@pytest.mark.parametrize(
    ("schema", "advice"), [(3, "update budgeted"), (1, "finish it with the version that wrote it")]
)
def test_another_schema_is_refused(path, schema, advice):
    """Even where there is one before it that could be read: it would lose what the newer version trained."""
    checkpoint.save(path, state())
    checkpoint.save(path, {**state(), "schema": schema})
    for act in (lambda: checkpoint.load(path, CPU), lambda: checkpoint.latest(path.parent, CPU)):
        with pytest.raises(RunFolderError, match=f"has schema {schema}, and this version reads 2; {advice}$"):
            act()


@pytest.mark.parametrize("name", ["run", "model", "optimizer", "random", "precision", "threads"])
def test_what_a_checkpoint_must_hold(path, name):
    content = state()
    del content[name]
    checkpoint.save(path, content)
    with pytest.raises(RunFolderError, match=f"is not a checkpoint of budgeted's: it has no {name}"):
        checkpoint.load(path, CPU)


def test_a_missing_one_says_why(path):
    with pytest.raises(
        RunFolderError, match=r"there is no checkpoint at .*: the run ended before its first one; start"
    ):
        checkpoint.load(path, CPU)


def test_a_full_disk_leaves_the_old_one(path, saved, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse(errno.ENOSPC))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        RunFolderError, match=r"the disk of '.*' is full: .* kB were to be written, and 1\.0 kB are free"
    ):
        checkpoint.save(path, state())
    assert path.read_bytes() == saved
    assert os.listdir(path.parent) == ["last.pt"]


# Two are kept


def test_there_is_none_before_the_first(tmp_path):
    assert checkpoint.latest(tmp_path, CPU) == (None, None)


def test_two_are_kept(path):
    for steps in range(5):
        checkpoint.save(path, state(steps))
    assert sorted(os.listdir(path.parent)) == ["last.pt", "previous.pt"]
    assert [steps_of(checkpoint.load(path.with_name(name), CPU)) for name in ("previous.pt", "last.pt")] == [3, 4]
    found, said = checkpoint.latest(path.parent, CPU)
    assert (steps_of(found), said) == (4, None)


@pytest.fixture
def two(path) -> Path:
    """A folder with the checkpoints of updates 1 and 2."""
    for steps in (1, 2):
        checkpoint.save(path, state(steps))
    return path.parent


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_the_one_before_is_used_where_the_last_is_damaged_and_that_is_said(two):
    cut(two / "last.pt")
    found, said = checkpoint.latest(two, CPU)
    assert steps_of(found) == 1
    assert said.startswith(f"the checkpoint '{two / 'last.pt'}' is damaged or not a checkpoint of budgeted's (")
    assert said.endswith("; the one before it is used, of update 1")


def test_where_both_are_damaged_the_run_is_refused(two):
    cut(two / "last.pt")
    cut(two / "previous.pt")
    with pytest.raises(
        RunFolderError, match=r"last\.pt' is damaged .*, and there is no whole one before it; train anew$"
    ):
        checkpoint.latest(two, CPU)


def test_a_damaged_one_never_pushes_out_the_whole_one(two):
    cut(two / "last.pt")
    checkpoint.latest(two, CPU)
    checkpoint.save(two / "last.pt", state(3))
    cut(two / "last.pt")
    assert steps_of(checkpoint.latest(two, CPU)[0]) == 1


class Killed(BaseException):
    """Nothing runs after it, as after SIGKILL."""


@pytest.fixture
def kill_at(monkeypatch) -> Iterator[Callable[[int], None]]:
    """Have the process die at the n-th call that changes the disk, before or after it took effect."""
    calls = {"left": 10**9}
    real = {"fsync": lambda _: None, "replace": os.replace}

    def dying(name: str, *details: Any) -> None:
        calls["left"] -= 1
        if calls["left"] == 0:
            raise Killed
        real[name](*details)
        calls["left"] -= 1
        if calls["left"] == 0:
            raise Killed

    unlink = os.unlink
    for name in real:
        monkeypatch.setattr(os, name, functools.partial(dying, name))
    monkeypatch.setattr(os, "unlink", lambda path: None if calls["left"] <= 0 else unlink(path))
    yield lambda number: calls.update(left=number)
    monkeypatch.undo()


@pytest.mark.parametrize("last_is_damaged", [False, True])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_a_kill_at_any_moment_of_a_write_leaves_a_whole_one(tmp_path, kill_at, before, last_is_damaged):
    """The old one or the new one; and the next write goes on from whatever the kill left."""
    kills, moment = 0, 0
    while kills == moment:
        moment += 1
        folder = tmp_path / str(moment)
        folder.mkdir()
        for steps in range(1, before + 1):
            checkpoint.save(folder / "last.pt", state(steps))
        old = before or None
        if last_is_damaged and before == 2:
            cut(folder / "last.pt")
            old = 1
            checkpoint.latest(folder, CPU)
        saver = checkpoint.Saver(folder)
        saver.keep_best(model(), {"value": "0.5"})
        kill_at(moment)
        try:
            saver.save(state(3))
        except Killed:
            kills += 1
        kill_at(10**9)
        new = steps_of(checkpoint.latest(folder, CPU)[0])
        assert new in ((3, 1, old) if before else (3, None))
        if before == 2 and not last_is_damaged and new == 1:
            assert not (folder / "last.pt").exists()  # between the two renames
        if (folder / "best.safetensors").exists():
            checkpoint.load_weights(folder / "best.safetensors", model())
        checkpoint.Saver(folder).save(state(4))
        assert steps_of(checkpoint.latest(folder, CPU)[0]) == 4
    assert new == 3
    assert kills > 10


def test_a_checkpoint_survives_a_loss_of_power(path, monkeypatch):
    """Its folder is synced after the last rename."""
    happened = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *details, name=name, real=real: happened.append((name, *details)) or real(*details)
        )
    checkpoint.save(path, state())
    assert [name for name, *_ in happened][-2:] == ["replace", "fsync"]


# Beside training


class Gate:
    """Holds the thread that writes until it is told to go on."""

    def __init__(self, monkeypatch) -> None:
        self.opened, self.reached = threading.Event(), threading.Event()
        save = checkpoint.save

        def wait_and_save(path: Path, content: dict[str, Any]) -> None:
            self.reached.set()
            assert self.opened.wait(20)
            save(path, content)

        monkeypatch.setattr(checkpoint, "save", wait_and_save)


def test_what_is_written_beside_training_is_the_state_of_the_moment(tmp_path, monkeypatch):
    gate, saver, network = Gate(monkeypatch), checkpoint.Saver(tmp_path), model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def train() -> None:
        network(torch.randn(4, 4)).square().sum().backward()
        optimizer.step()

    train()
    given = state() | {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "left_out": ["a"]}
    then = copy.deepcopy(given)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    saver.keep_best(network, {"steps": "1"})
    saver.save(given, beside=True)
    assert gate.reached.wait(20)
    train()
    given["left_out"].append("b")
    given["run"]["ledger"]["spent"]["steps"] = 99.0
    assert not same(then["model"], given["model"])
    gate.opened.set()
    saver.wait()
    found, _ = checkpoint.latest(tmp_path, CPU)
    del found["schema"]
    assert same(then, found)
    assert same(weights, checkpoint.read_weights(tmp_path / "best.safetensors")[0])


def test_a_copy_is_what_a_write_on_the_spot_would_have_been(tmp_path):
    """Down to the versions that modules keep beside their weights, and to views, ties and layouts."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(4), nn.Linear(2, 2)
    )
    content = state() | {"model": network.state_dict(), "more": (1, [torch.arange(6).view(2, 3).t(), None], {"x": 2.5})}
    saver = checkpoint.Saver(tmp_path)
    for beside in (True, False):
        saver.save(content, beside=beside)
    saver.wait()
    copied, direct = (checkpoint.load(tmp_path / name, CPU) for name in ("previous.pt", "last.pt"))
    assert same(copied, direct)
    assert copied["model"]._metadata == direct["model"]._metadata
    assert copied["model"]["0.weight"].stride() == direct["model"]["0.weight"].stride()


def test_one_write_is_under_way_at_most_and_the_last_one_counts(tmp_path):
    saver, running = checkpoint.Saver(tmp_path), threading.active_count()
    for steps in range(4):
        saver.save(state(steps), beside=steps != 2)
        assert threading.active_count() <= running + 1
    saver.wait()
    saver.wait()
    assert threading.active_count() == running
    assert steps_of(checkpoint.latest(tmp_path, CPU)[0]) == 3


def test_a_write_that_failed_beside_training_is_said_by_wait(tmp_path, monkeypatch):
    saver = checkpoint.Saver(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse(errno.ENOSPC))
        saver.save(state(1), beside=True)
        with pytest.raises(RunFolderError, match=r"^the disk of '.*' is full: "):
            saver.wait()
    saver.wait()
    assert checkpoint.latest(tmp_path, CPU) == (None, None)


def failed_beside(folder, monkeypatch, best, number=errno.ENOSPC) -> checkpoint.Saver:
    """A saver whose first write, with the best weights, the disk has refused beside training."""
    saver = checkpoint.Saver(folder)
    saver.keep_best(best, {"value": "0.5"})
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse(number))
        saver.save(state(1), beside=True)
        saver._thread.join()
    return saver


def test_a_write_that_failed_beside_training_is_said_by_the_next_one_which_writes_all_the_same(tmp_path, monkeypatch):
    """The best weights of the one that failed are written too."""
    best = model()
    saver = failed_beside(tmp_path, monkeypatch, best)
    with pytest.raises(RunFolderError, match="is full"):
        saver.save(state(2), beside=True)
    saver.wait()
    assert steps_of(checkpoint.latest(tmp_path, CPU)[0]) == 2
    weights, note = checkpoint.read_weights(tmp_path / "best.safetensors")
    assert same(dict(best.state_dict()), weights)
    assert note["value"] == "0.5"


def test_the_last_write_does_not_fail_for_one_that_failed_before_it(tmp_path, monkeypatch):
    """There may be room again: what a signal left to be saved must be."""
    saver = failed_beside(tmp_path, monkeypatch, model())
    saver.save(state(2))
    assert steps_of(checkpoint.latest(tmp_path, CPU)[0]) == 2
    assert checkpoint.read_weights(tmp_path / "best.safetensors")[1]["value"] == "0.5"


@pytest.mark.parametrize("beside", [False, True])
def test_better_weights_take_the_place_of_those_that_failed(tmp_path, monkeypatch, beside):
    saver = failed_beside(tmp_path, monkeypatch, model(), errno.EIO)
    saver.keep_best(model(), {"value": "0.75"})
    if beside:
        with pytest.raises(RunFolderError, match="cannot write to"):
            saver.save(state(2), beside=True)
        saver.wait()
    else:
        saver.save(state(2))
    assert checkpoint.read_weights(tmp_path / "best.safetensors")[1]["value"] == "0.75"


def test_the_best_weights_wait_for_a_write_that_succeeds(tmp_path, monkeypatch):
    saver = checkpoint.Saver(tmp_path)
    saver.keep_best(model(), {"value": "0.5"})
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse(errno.ENOSPC))
        with pytest.raises(RunFolderError, match="is full"):
            saver.save(state(1))
    assert os.listdir(tmp_path) == []
    saver.save(state(2))
    (tmp_path / "best.safetensors").unlink()
    saver.save(state(3))  # written once
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"]


def test_whatever_fails_beside_training_is_not_passed_over(tmp_path):
    """What cannot be pickled is the fault of a task's optimizer, say."""
    saver = checkpoint.Saver(tmp_path)
    saver.save(state() | {"optimizer": {"state": lambda: None}}, beside=True)
    with pytest.raises(Exception, match=r"lambda|pickle"):
        saver.wait()


def test_a_slow_write_had_better_run_beside_training(tmp_path, monkeypatch):
    saver, now = checkpoint.Saver(tmp_path), [0.0]
    assert not saver.beside
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "save", lambda *_: now.__setitem__(0, now[0] + 0.5))
    saver.save(state())
    assert saver.seconds == 0.5
    assert saver.beside


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
        with pytest.raises(RunFolderError, match="are another model's"):
            checkpoint.load_weights(path, other)


def test_missing_and_damaged_weights_are_refused(path):
    with pytest.raises(RunFolderError, match="there are no weights at"):
        checkpoint.load_weights(path, model())
    checkpoint.save_weights(path, model(), {})
    content = path.read_bytes()
    for broken in (b"", content[:-1], content[:20], struct.pack("<Q", 2**60) + content[8:], b"nonsense" * 20):
        path.write_bytes(broken)
        with pytest.raises(RunFolderError, match="are damaged"):
            checkpoint.load_weights(path, model())


NOTE = {"task": "mine", "value": "0.8125", "steps": "40"}


@pytest.mark.parametrize("part", range(2))
def test_damage_in_weights_is_found_wherever_it_is(path, part):
    """In the tensors, in their names, or in the note beside them."""
    whole, dice, sentences = model(), random.Random(part), []
    checkpoint.save_weights(path, whole, NOTE)
    content = path.read_bytes()
    for _ in range(200):
        path.write_bytes(damaged(content, dice))
        try:
            weights, note = checkpoint.read_weights(path)
        except RunFolderError as error:
            sentences.append(str(error))
        else:
            assert same(dict(whole.state_dict()), weights)
            assert note == NOTE
    assert len(sentences) > 150
    assert all(str(path) in text for text in sentences)


def test_a_flipped_bit_in_the_note_is_found(path):
    """It says how good the weights are."""
    checkpoint.save_weights(path, model(), NOTE)
    content = path.read_bytes()
    for text in (b"0.8125", b'"40"'):
        path.write_bytes(content.replace(text, text[:1] + bytes([text[1] ^ 1]) + text[2:]))
        with pytest.raises(RunFolderError, match="are damaged"):
            checkpoint.read_weights(path)


def test_weights_of_every_kind_have_a_checksum(path):
    weights = {
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3),
        "flags": torch.tensor([True, False]),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    checkpoint.write_weights(path, weights, NOTE)
    found, note = checkpoint.read_weights(path)
    assert same(weights, found)
    assert note == NOTE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="are damaged: their checksum is another"):
        checkpoint.read_weights(path)


def test_weights_that_were_written_without_a_checksum_are_read(path):
    from safetensors.torch import save_file

    weights = {name: tensor.contiguous() for name, tensor in model().state_dict().items()}
    save_file(weights, path)
    assert same(weights, checkpoint.read_weights(path)[0])
