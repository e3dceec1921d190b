"""A small byte-level transformer on one text file, written the way nanoGPT's train.py is."""

import argparse
import math
import os
import time
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

# -----------------------------------------------------------------------------
parser = argparse.ArgumentParser()
parser.add_argument("--data", default=os.environ.get("BUDGETED_DATA", "data"))
parser.add_argument("--eval_interval", type=int, default=250)
parser.add_argument("--eval_iters", type=int, default=20)
parser.add_argument("--log_interval", type=int, default=10)
parser.add_argument("--gradient_accumulation_steps", type=int, default=2)
parser.add_argument("--batch_size", type=int, default=16)
parser.add_argument("--block_size", type=int, default=64)
parser.add_argument("--n_layer", type=int, default=4)
parser.add_argument("--n_head", type=int, default=4)
parser.add_argument("--n_embd", type=int, default=128)
parser.add_argument("--learning_rate", type=float, default=1e-3)
parser.add_argument("--max_iters", type=int, default=5000, help="a guess")
parser.add_argument("--warmup_iters", type=int, default=100)
parser.add_argument("--min_lr", type=float, default=1e-4)
parser.add_argument("--weight_decay", type=float, default=0.1)
parser.add_argument("--grad_clip", type=float, default=1.0)
parser.add_argument("--dtype", default="float16" if torch.cuda.is_available() else "float32")
args = parser.parse_args()
# -----------------------------------------------------------------------------

torch.manual_seed(1337)
device = "cuda" if torch.cuda.is_available() else "cpu"
ctx = nullcontext() if args.dtype == "float32" else torch.amp.autocast(device, dtype=getattr(torch, args.dtype))

text = np.fromfile(os.path.join(args.data, "tinyshakespeare", "input.txt"), dtype=np.uint8)
data = {"train": text[: int(0.9 * len(text))], "val": text[int(0.9 * len(text)) :]}


def get_batch(split):
    starts = torch.randint(len(data[split]) - args.block_size, (args.batch_size,))
    rows = np.stack([data[split][i : i + args.block_size + 1] for i in starts]).astype(np.int64)
    rows = torch.from_numpy(rows).to(device)
    return rows[:, :-1], rows[:, 1:]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(args.n_embd), nn.LayerNorm(args.n_embd)
        self.qkv = nn.Linear(args.n_embd, 3 * args.n_embd, bias=False)
        self.proj = nn.Linear(args.n_embd, args.n_embd, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(args.n_embd, 4 * args.n_embd), nn.GELU(), nn.Linear(4 * args.n_embd, args.n_embd)
        )

    def forward(self, x):
        heads = (h.unflatten(-1, (args.n_head, -1)).transpose(1, 2) for h in self.qkv(self.ln1(x)).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(256, args.n_embd), nn.Embedding(args.block_size, args.n_embd)
        self.blocks = nn.Sequential(*(Block() for _ in range(args.n_layer)))
        self.ln = nn.LayerNorm(args.n_embd)
        self.lm_head = nn.Linear(args.n_embd, 256, bias=False)

    def forward(self, x, y):
        h = self.wte(x) + self.wpe.weight[: x.shape[1]]
        logits = self.lm_head(self.ln(self.blocks(h)))
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())


def estimate_loss():
    model.eval()
    out = {}
    for split in ("train", "val"):
        losses = torch.zeros(args.eval_iters)
        for k in range(args.eval_iters):
            with ctx:
                losses[k] = model(*get_batch(split)).item()
        out[split] = losses.mean()
    model.train()
    return out


def get_lr(it):
    if it < args.warmup_iters:
        return args.learning_rate * (it + 1) / (args.warmup_iters + 1)
    decay_ratio = (it - args.warmup_iters) / (args.max_iters - args.warmup_iters)
    coeff = 0.5 * (1.0 + math.cos(math.pi * decay_ratio))
    return args.min_lr + coeff * (args.learning_rate - args.min_lr)


model = GPT().to(device)
scaler = torch.amp.GradScaler(device, enabled=args.dtype == "float16")
optimizer = torch.optim.AdamW(
    model.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=args.weight_decay
)

iter_num, t0 = 0, time.time()
while True:
    lr = get_lr(iter_num)
    for param_group in optimizer.param_groups:
        param_group["lr"] = lr

    last = iter_num == args.max_iters
    if last or iter_num % args.eval_interval == 0:
        with torch.no_grad():
            losses = estimate_loss()
        print(f"step {iter_num}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}")
    if last:
        break

    for _ in range(args.gradient_accumulation_steps):
        with ctx:
            loss = model(*get_batch("train")) / args.gradient_accumulation_steps
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)

    if iter_num % args.log_interval == 0:
        t1 = time.time()
        print(f"iter {iter_num}: loss {loss.item() * args.gradient_accumulation_steps:.4f}, time {t1 - t0:.1f}s")
    iter_num += 1
