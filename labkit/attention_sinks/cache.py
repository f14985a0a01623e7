"""The streaming cache as the paper has it: `n_sink` slots that stay, `window` slots that roll, positions given anew."""

from typing import Literal, get_args

import torch
from torch import Tensor

from labkit.lm.model import LanguageModel, rotate, softmax_attention
from labkit.lm.tap import Tap

from .forms import check_sizes

Positions = Literal["cache", "original", "frozen"]


class SinkCache:
    """Keys (un-rotated) and values of the first `n_sink` tokens and of the last `window`; a drop-in for `lm.Cache`.

    A new token sees every slot and itself; after that, what left the window is evicted (arXiv 2309.17453, §3.2).
    positions says which rotary position a slot gets, and so which distances the model believes:
        "cache"     its place in the cache, 0, 1, 2 …: never past n_sink + window (the paper's choice);
        "original"  its place in the text: sinks drift ever further away;
        "frozen"    the place in the cache it was inserted at, never renewed: every distance in the window becomes 0.
    """

    def __init__(self, n_sink: int, window: int, positions: Positions = "cache"):
        check_window(n_sink, window, positions)
        self.n_sink, self.window, self.positions = n_sink, window, positions
        self.kept: list[int] = []  # the text position of the token in each slot
        self.seen = 0  # tokens taken in so far
        self.keys: list[Tensor] = []  # a layer: (b kv slots d_head)
        self.values: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.kept)

    def keep(self, slots: list) -> list:
        """What stays of a list of slots: the sinks, and the newest `window`."""
        return slots[: self.n_sink] + slots[max(self.n_sink, len(slots) - self.window) :]

    def rotary(self, tokens: list[int]) -> list[int]:
        """The rotary position of each slot, given the text positions of the tokens in them."""
        if self.positions == "cache":
            return list(range(len(tokens)))
        if self.positions == "original":
            return tokens
        return [min(token, self.n_sink + self.window) for token in tokens]

    def begin(self, lm: LanguageModel, batch: int, t: int) -> int:
        if self.keys and self.keys[0].shape[0] != batch:
            raise ValueError(f"cache: it holds a batch of {self.keys[0].shape[0]}, the tokens come in {batch}")
        # tokens that all fit go together; otherwise one by one, as each evicts before the next
        together = t if len(self.kept) + t <= self.n_sink + self.window + 1 else 1
        self.steps, reach = [], 0
        for _ in range(0, t, together):
            tokens = self.kept + list(range(self.seen, self.seen + together))
            rotary = self.rotary(tokens)
            slots = self.keep(list(range(len(tokens))))
            self.steps.append((together, lm.rotation(torch.tensor(rotary)), slots))
            self.kept, self.seen = [tokens[s] for s in slots], self.seen + together
            reach = max(reach, *rotary)
        return reach

    def __call__(self, i: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap) -> Tensor:
        if i == len(self.keys):
            self.keys.append(k[:, :, :0])
            self.values.append(v[:, :, :0])
        out, done = [], 0
        for t, rotation, slots in self.steps:
            new = slice(done, done := done + t)
            keys = torch.cat([self.keys[i], k[:, :, new]], dim=2)
            values = torch.cat([self.values[i], v[:, :, new]], dim=2)
            of_new = type(rotation)(*(x[-t:] for x in rotation))
            out.append(softmax_attention(i, rotate(q[:, :, new], of_new), rotate(keys, rotation), values, None, tap))
            self.keys[i], self.values[i] = keys[:, :, slots], values[:, :, slots]
        return torch.cat(out, dim=2)


def check_window(n_sink: int, window: int, positions: str) -> None:
    """Refuse sizes and names that mean nothing."""
    check_sizes(n_sink, window)
    if positions not in get_args(Positions):
        raise ValueError(f"positions: expected one of {', '.join(get_args(Positions))}, got {positions!r}")
