"""How well a language model reads on when its cache is cut: losses, token by token and all at once."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from labkit.lm.model import LanguageModel, repeat_heads, rotate, softmax_attention
from labkit.lm.tap import Tap

from .cache import Positions, SinkCache, check_window
from .forms import banded, visible

Ids = Int[Tensor, " t"]
Nll = Float[Tensor, " t-1"]


class SinkAttention:
    """The sink cache's attention for a whole text in one pass: what every token would have seen, side by side.

    Positions are relative, so a key in the window may keep its place in the text; only the distance to a sink differs:
    token i stands at p_i = min(i, n_sink + window) in the cache. So each query is rotated twice, by i for the window
    and by p_i for the sinks, and each key lives in one half of a doubled head: [q_i, q_p] · [k, 0] or · [0, k].
    """

    def __init__(self, n_sink: int, window: int, positions: Positions = "cache"):
        check_window(n_sink, window, positions)
        self.n_sink, self.window, self.positions = n_sink, window, positions

    def begin(self, lm: LanguageModel, batch: int, t: int) -> int:
        text = torch.arange(t)
        in_cache = text.clamp(max=self.n_sink + self.window)
        self.in_text, self.in_cache = lm.rotation(text), lm.rotation(in_cache)
        return t - 1 if self.positions == "original" else int(in_cache[-1])

    def __call__(self, i: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap) -> Tensor:
        scale = q.shape[-1] ** -0.5
        if self.positions == "cache":
            is_sink = (torch.arange(q.shape[2]) < self.n_sink)[:, None]
            q = torch.cat([rotate(q, self.in_text), rotate(q, self.in_cache)], dim=-1)
            k = torch.cat([rotate(k, self.in_text) * ~is_sink, rotate(k, self.in_cache) * is_sink], dim=-1)
        else:
            by = self.in_text if self.positions == "original" else self.in_cache
            q, k = rotate(q, by), rotate(k, by)
        if tap.wants(f"{i}.scores", f"{i}.pattern"):
            return softmax_attention(i, q, k, v, visible(q.shape[2], self.n_sink, self.window), tap, scale)
        k, v = (repeat_heads(x, q.shape[1]) for x in (k, v))
        return banded(q, k, v, n_sink=self.n_sink, window=self.window, scale=scale)


def streaming_nll(lm: LanguageModel, ids: Ids, *, n_sink: int, window: int, positions: Positions = "cache") -> Nll:
    """−ln p(next token) in nats, for a stream that keeps `n_sink` + `window` tokens, in one parallel pass.

    ids: (t,) with t >= 2. Returns (t−1,): entry i is the loss of ids[i+1] given what token i's cache holds.
    Equals `token_by_token_nll` to rounding. positions: see `SinkCache`.
    """
    check_text(ids)
    return nll(lm, ids, cache=SinkAttention(n_sink, window, positions))


def token_by_token_nll(lm: LanguageModel, ids: Ids, *, n_sink: int, window: int, positions: Positions = "cache") -> Nll:
    """The same by the definition: feed one token, score the next, evict, go on (the paper's evaluation loop)."""
    check_text(ids)
    cache, losses = SinkCache(n_sink, window, positions), []
    for token, following in pairwise(ids):
        logits = lm(token.view(1, 1), cache=cache)
        losses.append(F.cross_entropy(logits[0], following[None]))
    return torch.stack(losses)


def dense_nll(lm: LanguageModel, ids: Ids) -> Nll:
    """The same with nothing evicted: every token sees the whole text before it."""
    check_text(ids)
    return nll(lm, ids)


def recompute_nll(lm: LanguageModel, ids: Ids, *, length: int, at: Ids, batch: int = 16) -> Float[Tensor, " n"]:
    """The alternative to a cache: for each position in `at`, read the last `length` tokens afresh, score the next.

    at: (n,) positions with length − 1 <= at < t − 1. Returns (n,), comparable with streaming_nll(…)[at].
    """
    check_text(ids)
    if length < 1 or at.numel() == 0 or at.min() < length - 1 or at.max() > len(ids) - 2:
        raise ValueError(f"at: expected positions from length − 1 = {length - 1} to t − 2 = {len(ids) - 2}, got {at}")
    losses = []
    for some in at.split(batch):
        windows = ids[some[:, None] + torch.arange(1 - length, 1)]
        logits = lm.run(windows, logits_at=slice(-1, None)).logits[:, 0]
        losses.append(F.cross_entropy(logits, ids[some + 1], reduction="none"))
    return torch.cat(losses)


def nll(lm: LanguageModel, ids: Ids, **run) -> Nll:
    """−ln p(ids[i+1]) after one pass over ids (t,); keyword arguments go to `lm.run` (cache, edit)."""
    final = lm.run(ids[None], record="final", logits_at=slice(0, 0), **run)["final"][:, :-1]
    parts = zip(final.split(512, dim=1), ids[1:].split(512), strict=True)  # t × vocab logits never exist at once
    return torch.cat([F.cross_entropy(lm.unembed(x)[0], wanted, reduction="none") for x, wanted in parts])


def check_text(ids: Tensor) -> None:
    """Refuse what has no next token."""
    if not isinstance(ids, Tensor) or ids.ndim != 1 or len(ids) < 2:
        got = tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise ValueError(f"ids: expected (t,) with t >= 2, got {got}; lm.encode(text) makes one")
