"""Byte-level language models: text in device memory, a small transformer, bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..train.data import Batch


@dataclass(frozen=True, slots=True)
class Text:
    """Bytes in device memory, cut into windows of which each byte is to be told from those before it in its window.

    An epoch goes once through the text, its windows shifted by a random part of their length and in a random order.

    Args:
        content: uint8, shape (N,).
        window: bytes to be told in a sample.
        batch_size: windows of one update.
    """

    content: Tensor
    window: int
    batch_size: int

    @property
    def samples(self) -> int:
        """Windows in an epoch; those at its end that fill no batch are left out."""
        whole = (len(self.content) - self.window - 1) // self.window
        return whole // self.batch_size * self.batch_size if whole >= self.batch_size else whole

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def epoch(self, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in the order that (seed, epoch) gives, from the `first` on."""
        random = torch.Generator().manual_seed((seed + 1) * 1_000_003 + epoch)
        shift = int(torch.randint(self.window, (), generator=random))
        order = torch.randperm(self.samples, generator=random)
        yield from self._batches(order[first * self.batch_size :] * self.window + shift)

    def unaugmented(self, share: float | None, seed: int) -> Iterator[Batch]:
        """Windows from the first byte on: all of them, or a random part, the same for the same seed."""
        random = torch.Generator().manual_seed((seed + 1) * 1_000_003 - 3)
        count = self.samples if share is None else max(1, round(share * self.samples))
        chosen = torch.arange(count) if share is None else torch.randperm(self.samples, generator=random)[:count]
        yield from self._batches(chosen * self.window)

    def spread(self, count: int) -> Iterator[Batch]:
        """So many windows at even distances, or all where there are fewer, for evaluation."""
        at = torch.linspace(0, len(self.content) - self.window - 1, min(count, self.samples)).long()
        yield from self._batches(at)

    def _batches(self, starts: Tensor) -> Iterator[Batch]:
        within = torch.arange(self.window + 1)
        for some in starts.split(self.batch_size):
            rows = self.content[(some[:, None] + within).to(self.content.device)].long()
            yield Batch(rows[:, :-1], rows[:, 1:])


class Block(nn.Module):
    """Attention and a feed-forward layer, each after a norm and beside a shortcut (Radford et al. 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.mix = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attend(self.before_attention(x)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).flatten(2))
        return x + self.feed(self.before_feed(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A decoder over bytes; its embedding is also its head.

    Args:
        width: of the residual stream.
        layers: blocks.
        heads: of attention; they divide the width.
        window: bytes that it can look back on.
    """

    def __init__(self, width: int = 128, layers: int = 4, heads: int = 4, window: int = 128) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(256, width), nn.Embedding(window, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.apply(_initialise)
        for name, parameter in self.named_parameters():
            if name.endswith(("mix.weight", "feed.2.weight")):  # so that the stream's size does not grow with depth
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the next byte at each place, shape (batch, window, 256)."""
        h = self.embed(x) + self.place.weight[: x.shape[1]]
        return nn.functional.linear(self.norm(self.blocks(h)), self.embed.weight)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
