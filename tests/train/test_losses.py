"""Losses between two logged rows."""

from __future__ import annotations

import pytest
import torch

from budgeted import NonFiniteLoss
from budgeted.train.losses import Losses


def test_the_mean_is_of_all_losses_since_the_last_restart():
    losses = Losses()
    assert losses.mean() is None
    for step, value in enumerate([1.0, 2.0, 6.0], 1):
        losses.add(torch.tensor(value), step)
    assert losses.mean() == losses.mean() == 3.0  # looking changes nothing
    losses.restart()
    assert losses.mean() is None
    losses.add(torch.tensor(5.0, dtype=torch.bfloat16), 4)
    assert losses.mean() == 5.0


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_loss_that_is_not_finite_is_named_at_once_on_a_cpu(value):
    losses = Losses()
    losses.add(torch.tensor(1.0), 1)
    with pytest.raises(
        NonFiniteLoss, match=rf"^the loss was {value} at update 2; try a lower base rate, or a warm-up$"
    ):
        losses.add(torch.tensor(float(value)), 2)


class OnDevice:
    """A loss that says that it lies on a device."""

    device = torch.device("meta")


def test_on_a_device_losses_stay_unread_for_a_while(monkeypatch):
    read = []

    def stack(losses):
        read.append(len(losses))
        return torch.tensor([float("nan") if k == 100 else 1.0 for k in range(len(losses))])

    monkeypatch.setattr(torch, "stack", stack)
    losses = Losses()
    for step in range(1001, 1256):
        losses.add(OnDevice(), step)  # type: ignore[arg-type]
    assert read == []
    with pytest.raises(NonFiniteLoss, match="at update 1101;"):
        losses.add(OnDevice(), 1256)  # type: ignore[arg-type]
    assert read == [256]


def test_the_first_of_several_bad_losses_is_named():
    losses = Losses()
    losses._unread = [torch.tensor(x) for x in (1.0, float("inf"), float("nan"))]
    losses._step = 12
    with pytest.raises(NonFiniteLoss, match="was inf at update 11;"):
        losses.check()
