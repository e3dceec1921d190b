"""One run of digits in plain PyTorch: the network, recipe, updates and evaluations of budgeted's task, without budgeted.

python benchmarks/studies/plain_digits.py --schedule linear --epochs 5 --seed 0 --out results
"""

import argparse
import json
import math
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

# The rate's factor by progress, 0 to 1.
SCHEDULES = {
    "const": lambda _: 1.0,
    "linear": lambda p: 1 - p,
    "cosine": lambda p: (1 + math.cos(math.pi * p)) / 2,
    "step-d2": lambda p: 0.1 ** sum(milestone <= p for milestone in (1 / 3, 2 / 3)),
}


def conv_net(width=16):
    def layer(inputs, outputs, stride):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]

    layers = [*layer(1, width, 1), *layer(width, 2 * width, 2), *layer(2 * width, 4 * width, 2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * width, 10))


def train(schedule, epochs, seed):
    """The best accuracy, from an evaluation each epoch, and the number of updates."""
    torch.set_num_threads(1)  # two runs share two processors
    digits = load_digits()
    images = ((torch.from_numpy(digits.images).float() / 16 - 0.305) / 0.376).unsqueeze(1)
    images, labels = images.to(memory_format=torch.channels_last), torch.from_numpy(digits.target).long()
    held, kept = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).split([360, len(labels) - 360])

    torch.manual_seed(seed)
    model = conv_net().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    steps = epochs * math.ceil(len(kept) / 64)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: SCHEDULES[schedule](step / steps))
    best, updates = 0.0, 0
    for _ in range(epochs):
        model.train()
        for batch in kept[torch.randperm(len(kept))].split(64):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            updates += 1
        model.eval()
        with torch.inference_mode():
            best = max(best, (model(images[held]).argmax(1) == labels[held]).float().mean().item())
    return {"accuracy": best, "updates": updates}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schedule", choices=SCHEDULES, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    result = train(given.schedule, given.epochs, given.seed)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{given.schedule}-{given.epochs}-{given.seed}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
