"""A small network on data made in memory, on several processes, sharded or not, with checkpoints to resume from.

`torchrun --nproc-per-node 2 examples/distributed.py --budget 20s --shard fsdp`. The same command resumes it, on as many
processes as there are then; docs/distributed.md says how torchrun does that itself when one of them dies.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import budgeted


class Batches:
    """One rank's share of the batches of an epoch, from update `step` on; the batches are the same for any number of ranks."""

    def __init__(self, examples, size=64):
        self.examples, self.size, self.in_epoch, self.step = examples, size, examples // size, 0

    def __len__(self):
        return self.in_epoch - self.step % self.in_epoch

    def __iter__(self):
        epoch, first = divmod(self.step, self.in_epoch)
        order = torch.randperm(self.examples, generator=torch.Generator().manual_seed(epoch)).split(self.size)
        for batch in order[first : self.in_epoch]:
            yield batch[dist.get_rank() :: dist.get_world_size()].tolist()


def make_data(examples, seed):
    """Points around ten centres, two to a class, so that no straight line parts the classes."""
    centres = torch.randn(10, 20, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(examples, 20, generator=torch.Generator().manual_seed(seed))
    which = torch.arange(examples) % 10
    return TensorDataset(centres[which] + noise, which % 5)


def make_model(shard, device):
    torch.manual_seed(0)  # every rank begins with the same weights
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).to(device)
    if shard == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    return fully_shard(model, mesh=mesh)  # of a large one, each block before


@torch.no_grad()
def evaluate(model, data, device):
    x, y = (tensor[dist.get_rank() :: dist.get_world_size()].to(device) for tensor in data.tensors)
    dist.all_reduce(correct := (model(x).argmax(dim=1) == y).sum())
    return correct.item() / len(data)


def save(folder, model, optimizer, run):
    """Every rank writes its shards into a new folder, which one rename makes the latest checkpoint."""
    unfinished = folder / "unfinished"
    if dist.get_rank() == 0:
        shutil.rmtree(unfinished, ignore_errors=True)  # a death may have left one
        unfinished.mkdir()
        (unfinished / "run.json").write_text(json.dumps(run.state_dict()))
    dist.barrier()
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=unfinished)  # returns when all ranks have written
    if dist.get_rank() == 0:
        kept = sorted(folder.glob("checkpoint-*"))
        number = int(kept[-1].name.partition("-")[2]) + 1 if kept else 0
        unfinished.rename(folder / f"checkpoint-{number:06}")
        for old in kept[:-1]:
            shutil.rmtree(old)


def load(folder, model, optimizer):
    """The weights and the optimizer's state from the latest checkpoint; what belongs to the run is returned."""
    if not (kept := sorted(folder.glob("checkpoint-*"))):
        return None, 0.0
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=kept[-1])
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    saved = kept[-1] / "run.json"
    return json.loads(saved.read_text()), (folder / "alive").stat().st_mtime - saved.stat().st_mtime


def main():
    parser = argparse.ArgumentParser(description="Several processes, one budget")
    parser.add_argument("--budget", default="20s")
    parser.add_argument("--shard", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--out", type=Path, default=Path("runs/distributed"))
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two checkpoints")
    args = parser.parse_args()
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    leads = dist.get_rank() == 0
    args.out.mkdir(parents=True, exist_ok=True)
    train, test = make_data(5000, seed=1), make_data(1000, seed=2)
    batches = Batches(len(train))
    loader = DataLoader(train, batch_sampler=batches)
    model = make_model(args.shard, device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    state, lost = load(args.out, model, optimizer)  # before attach: it may step the optimizer to make it its state
    run = budgeted.attach(optimizer, args.budget, steps_per_epoch=batches.in_epoch)
    if state is not None:
        run.load_state_dict(state, lost=max(0.0, lost))  # what was spent on updates that a death undid stays spent
        if leads:
            print(f"resumed at update {run.ledger.steps} on {dist.get_world_size()} ranks", flush=True)
    first, time_to_save = run.ledger.steps, run.every(args.every)

    with run.heed():
        while not run.done:
            batches.step = run.ledger.steps
            for x, y in run.over(loader):
                F.cross_entropy(model(x.to(device)), y.to(device)).backward()
                optimizer.step()
                optimizer.zero_grad()
                if leads:
                    (args.out / "alive").touch()
                if time_to_save():
                    with run.measure("checkpoint"):
                        save(args.out, model, optimizer, run)
            if run.interrupted:
                break  # the checkpoint first: little time may be left
            with run.measure():
                accuracy = evaluate(model, test, device)
            if leads:
                print(f"update {run.ledger.steps}  p {run.progress:.4f}  accuracy {accuracy:.3f}", flush=True)
        if run.ledger.steps > first:
            with run.measure("checkpoint"):
                save(args.out, model, optimizer, run)
    if leads:
        print(run.summary(), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
