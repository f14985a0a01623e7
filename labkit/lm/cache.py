"""The KV cache: what earlier tokens left behind, so that a new token costs one token's work."""

import torch
from torch import Tensor

from .model import LanguageModel, rotate, softmax_attention
from .tap import Tap


class Cache:
    """Keeps every token's key (rotated once, at its place in the text) and value.

    Hand the same cache to one forward pass after another: `lm.run(ids, cache=cache)`. A policy evicts between passes
    with `cache.keep(slots)`; the kept keys stay where they were in the text.
    """

    def __init__(self) -> None:
        self.keys: list[Tensor] = []  # a layer: (b kv s d_head)
        self.values: list[Tensor] = []
        self.positions = torch.arange(0)  # (s,) of each slot, in the text
        self.seen = 0  # tokens taken in so far

    def __len__(self) -> int:
        return len(self.positions)

    def begin(self, lm: LanguageModel, batch: int, t: int) -> int:
        if self.keys and self.keys[0].shape[0] != batch:
            raise ValueError(f"cache: it holds a batch of {self.keys[0].shape[0]}, the tokens come in {batch}")
        new = torch.arange(self.seen, self.seen + t)
        self.rotation = lm.rotation(new)
        self.positions = torch.cat([self.positions, new])
        self.seen += t
        return self.seen - 1

    def __call__(self, i: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap) -> Tensor:
        q, k = rotate(q, self.rotation), rotate(k, self.rotation)
        if i == len(self.keys):
            self.keys.append(k)
            self.values.append(v)
        else:
            self.keys[i] = torch.cat([self.keys[i], k], dim=2)
            self.values[i] = torch.cat([self.values[i], v], dim=2)
        return softmax_attention(i, q, self.keys[i], self.values[i], None, tap)

    def keep(self, slots: Tensor) -> None:
        """Evict all but these slots (n,), in this order."""
        self.keys = [k[:, :, slots] for k in self.keys]
        self.values = [v[:, :, slots] for v in self.values]
        self.positions = self.positions[slots]

    def n_bytes(self) -> int:
        """Memory that the kept keys and values take, in bytes."""
        return sum(x.numel() * x.element_size() for x in (*self.keys, *self.values))
