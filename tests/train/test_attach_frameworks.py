"""What really steps counts, also where a framework owns the loop. Attached to the optimizer itself or to what wraps it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import budgeted

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own


def record(optimizer) -> list[float]:
    seen: list[float] = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    return seen


@pytest.mark.parametrize("wrapped", [False, True])
def test_accelerate_s_accumulate(wrapped):
    accelerate = pytest.importorskip("accelerate")
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = record(optimizer)
    loader = DataLoader(TensorDataset(torch.randn(10, 3)), batch_size=1)
    accelerator = accelerate.Accelerator(gradient_accumulation_steps=4, cpu=True)
    own, given = optimizer, "6 steps"
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    run = budgeted.attach(optimizer if wrapped else own, given)
    rates = record(own)
    while not run.done:
        for (x,) in run.over(loader):
            with accelerator.accumulate(model):
                accelerator.backward(model(x).square().mean())
                optimizer.step()
                optimizer.zero_grad()
    # 10 batches in windows of 4, 4 and 2: three updates an epoch
    assert run.ledger.steps == 6
    assert rates == [0.1 * (1 - k / 6) for k in range(6)]
    assert own.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize("wrapped", [False, True])
def test_lightning_s_accumulate_grad_batches(tmp_path, wrapped):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch, index):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            self.own = torch.optim.SGD(self.parameters(), lr=0.1)
            if not wrapped:
                self.budget_run, self.rates = budgeted.attach(self.own, "6 steps"), record(self.own)
            return self.own

        def on_train_start(self):
            if wrapped:
                self.budget_run, self.rates = budgeted.attach(self.optimizers(), "6 steps"), record(self.own)

        def on_train_batch_end(self, *_):
            self.trainer.should_stop = self.budget_run.done

    module = Module()
    loader = DataLoader(TensorDataset(torch.randn(10, 3)), batch_size=1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=9,
        accumulate_grad_batches=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, loader)
    assert module.budget_run.ledger.steps == 6 == trainer.global_step
    assert module.rates == [0.1 * (1 - k / 6) for k in range(6)]


def test_the_trainer_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def forward(self, x):
            return {"loss": self.layer(x).square().mean()}

    class Stop(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = run.done

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = budgeted.attach(optimizer, "6 steps")
    rates = record(optimizer)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        max_steps=100,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=[{"x": x} for x in torch.randn(10, 3)],
        optimizers=(optimizer, None),
        callbacks=[Stop()],
    )
    trainer.train()
    assert run.ledger.steps == 6 == trainer.state.global_step
    assert rates == [0.1 * (1 - k / 6) for k in range(6)]
