"""The language model of Python's standard library: its text, its windows, its network, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from budgeted import TaskError
from budgeted.core.record import RunFolder, Spec
from budgeted.tasks.language import Text, Transformer
from budgeted.tasks.stdlib_lm import StdlibLM, library, own_text
from budgeted.train.loop import fit

CPU = torch.device("cpu")


def text(count=1000, window=16, batch_size=4):
    return Text(torch.arange(count).remainder(256).to(torch.uint8), window, batch_size)


def test_each_byte_is_to_be_told_from_those_before_it():
    for batch in text().epoch(0, 0):
        assert batch.inputs.shape == batch.targets.shape == (4, 16)
        assert torch.equal(batch.targets, (batch.inputs + 1) % 256)


def test_an_epoch_goes_through_the_text_once():
    data = text()
    starts = torch.cat([batch.inputs[:, 0] for batch in Text(torch.arange(200).to(torch.uint8), 16, 4).epoch(3, 1)])
    assert len(data) == data.samples // 4
    assert len(starts.unique()) == len(starts)
    assert (starts.sort().values.diff() == 16).all()


def test_order_and_shift_depend_on_seed_and_epoch_alone():
    def first(seed, epoch, skipped=0):
        return next(text().epoch(seed, epoch, skipped)).inputs

    assert torch.equal(first(0, 1), first(0, 1))
    assert not torch.equal(first(0, 1), first(0, 2))
    assert torch.equal(list(text().epoch(0, 1))[5].inputs, first(0, 1, 5))


def test_probes_read_it_from_the_first_byte_on():
    batches = list(text().unaugmented(None, 0))
    assert torch.equal(torch.cat([b.inputs[:, 0] for b in batches]), torch.arange(text().samples) * 16 % 256)
    assert sum(len(b.inputs) for b in text().unaugmented(0.5, 0)) == round(text().samples / 2)


def test_the_network_looks_back_only():
    torch.manual_seed(0)
    model = Transformer(width=16, layers=2, heads=2, window=8).eval()
    x = torch.randint(256, (2, 8))
    changed = x.clone()
    changed[:, 5] = (x[:, 5] + 1) % 256
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])
    assert abs(nn.functional.cross_entropy(before.flatten(0, 1), x.flatten()).item() - math.log(256)) < 0.5


def test_bits_are_those_of_a_loop_over_bytes():
    task = StdlibLM()
    torch.manual_seed(0)
    model = Transformer(width=16, layers=1, heads=2, window=16).eval()
    data, bits, count = text(count=300), 0.0, 0
    with torch.no_grad():
        found = task.evaluate(model, data)["bits_per_byte"]
        for batch in data.spread(task.judged):
            for window, wanted in zip(batch.inputs, batch.targets, strict=True):
                for k in range(16):
                    p = torch.softmax(model(window[None, : k + 1])[0, -1], 0)[wanted[k]]
                    bits -= math.log2(p)
                    count += 1
    assert found == pytest.approx(bits / count, rel=1e-4)


def test_files_are_whole_on_one_side_or_the_other():
    train, held = library()
    assert len(train) > 5_000_000
    assert 0.01 < len(held) / len(train) < 0.15
    assert library() == (train, held)
    assert b"class OrderedDict" in train + held  # collections/__init__.py


def test_a_text_of_the_users(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes(bytes(range(256)) * 1000)
    train, held = own_text(path)
    assert (len(train), len(held)) == (243_200, 12_800)
    data = StdlibLM().data(path, CPU)
    assert data.train.samples == 243_199 // 128 // 32 * 32
    assert isinstance(StdlibLM().data(tmp_path, CPU).train, Text)  # a folder holds other tasks' data: the library


def test_a_text_that_is_too_short_or_cannot_be_read(tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("too short")
    with pytest.raises(TaskError, match=r"has 9 bytes, .* a text to train on has at least 85,140"):
        StdlibLM().data(short, CPU)
    with pytest.raises(TaskError, match=r"there is no '.*none.txt'; --data names a text file to train on"):
        StdlibLM().data(tmp_path / "none.txt", CPU)
    with pytest.raises(TaskError, match="cannot read the text"):
        own_text(tmp_path / "none.txt")


def test_budgets_in_tokens_count_bytes_and_the_loss_falls(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 4000)
    spec = Spec("stdlib-lm", "1e5 tokens", "warmup(10 steps, linear)", model="transformer(width=32, layers=1)")
    folder = RunFolder.create(tmp_path / "runs", spec)
    rows = list(fit(StdlibLM(), spec, folder, root=Path(path)))
    assert rows[-1]["steps"] == math.ceil(1e5 / (32 * 128))
    assert rows[-1]["bits_per_byte"] < 7.0  # a guess takes 8
    assert folder.result["spent"]["tokens"] == 25 * 32 * 128
