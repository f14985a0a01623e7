"""Multi-query associative recall: read pairs of a key and a value, then say the value of each key that is asked for.

Arora et al. 2023, "Zoology" (arXiv 2312.04927), a task by which the delta rule's paper measures recall. Here some keys
are bound a second time, to another value, and the last one counts. `train` fits a smallest model around one memory or
another, so that memories of the same size can be held against each other:

    delta, added = (train(memory) for memory in (forms.chunkwise, layer.additive))
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from labkit.threads import one_thread

from .layer import DeltaNet, Memory

NOT_ASKED = -100  # the target of a token that asks for nothing, which cross_entropy leaves out


def mqar(
    batch: int, n_pairs: int, t: int, vocab: int, generator: Generator, *, rewrites: int = 0
) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Tokens and targets: key value key value …, then every key once, as a query, with gaps of 0 between.

    n_pairs keys of 1 … vocab/2 − 1, of which `rewrites` are bound twice; values, all different, of vocab/2 … vocab − 1.
    A query's target is the value that its key was last bound to; any other token's target is NOT_ASKED.
    """
    bound, half = n_pairs + rewrites, vocab // 2
    if not (0 <= rewrites <= n_pairs < half and bound <= half and 2 * bound + n_pairs <= t):
        raise ValueError(
            f"n_pairs={n_pairs}, rewrites={rewrites}, t={t}, vocab={vocab}: expected 0 <= rewrites <= n_pairs, "
            "3 n_pairs + 2 rewrites <= t, n_pairs < vocab // 2 and n_pairs + rewrites <= vocab // 2"
        )
    keys = 1 + distinct(batch, n_pairs, half - 1, generator)
    values = half + distinct(batch, bound, half, generator)
    place = 2 * distinct(batch, bound, bound, generator)
    asked = 2 * bound + distinct(batch, n_pairs, t - 2 * bound, generator)
    # Pairs in the order of `values`: each key with a value, then the first of the keys with another, which comes later.
    twice = torch.stack([place[:, :rewrites], place[:, n_pairs:]]).sort(0).values
    place = torch.cat([twice[0], place[:, rewrites:n_pairs], twice[1]], 1)
    last = torch.cat([values[:, n_pairs:], values[:, rewrites:n_pairs]], 1)
    ids, targets = torch.zeros(batch, t, dtype=torch.long), torch.full((batch, t), NOT_ASKED)
    ids.scatter_(1, place, torch.cat([keys, keys[:, :rewrites]], 1)).scatter_(1, place + 1, values)
    ids.scatter_(1, asked, keys)
    targets.scatter_(1, asked, last)
    return ids, targets


def distinct(batch: int, n: int, below: int, generator: Generator) -> Int[Tensor, "b n"]:
    """In each row n different numbers of 0 … below − 1, in random order."""
    return torch.rand(batch, below, generator=generator).argsort(1)[:, :n]


class Recaller(nn.Module):
    """Embedding, layers with norm and residual, readout: ids (b t) -> logits (b t vocab). No MLP: recall needs none."""

    def __init__(self, vocab: int, d: int, layers: int, heads: int, d_k: int, d_v: int, memory: Memory) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, d)
        self.norms = nn.ModuleList(nn.RMSNorm(d) for _ in range(layers))
        self.layers = nn.ModuleList(DeltaNet(d, heads, d_k=d_k, d_v=d_v, memory=memory) for _ in range(layers))
        self.readout = nn.Sequential(nn.RMSNorm(d), nn.Linear(d, vocab, bias=False))

    def forward(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t vocab"]:
        x = self.embed(ids)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.readout(x)


@dataclass(frozen=True)
class Recall:
    """The share of queries that are answered right in 512 sequences never trained on, one for each seed."""

    kept: list[float]  # queries for a key that was bound once
    rewritten: list[float]  # queries for a key that was bound twice; NaN where there are none
    state_floats: int  # numbers that the memories hold of a sequence, however long it is
    steps: int
    seconds: float  # for all seeds together


def train(
    memory: Memory,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    n_pairs: int = 8,
    rewrites: int = 4,
    t: int = 40,
    vocab: int = 40,
    d: int = 64,
    layers: int = 1,
    heads: int = 1,
    d_k: int = 16,
    d_v: int = 16,
    steps: int = 300,
    batch: int = 16,
    lr: float = 0.03,
) -> Recall:
    """Train a model around `memory` for each seed, which decides its weights and what it reads, and measure its recall.

    One layer is enough, as its short convolution puts a key and its value into one token. It also keeps memories apart:
    two additive layers, trained four times as long, recall rewritten keys too.
    """
    start, scores = time.perf_counter(), []
    for seed in seeds:
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model, generator = Recaller(vocab, d, layers, heads, d_k, d_v, memory), Generator().manual_seed(seed)
            optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.5)
            for _ in range(steps):
                ids, targets = mqar(batch, n_pairs, t, vocab, generator, rewrites=rewrites)
                loss = F.cross_entropy(rearrange(model(ids), "b t vocab -> (b t) vocab"), targets.flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            scores.append(accuracies(model, *mqar(512, n_pairs, t, vocab, generator, rewrites=rewrites)))
    kept, rewritten = ([score[n] for score in scores] for n in range(2))
    return Recall(kept, rewritten, layers * heads * d_k * d_v, steps, time.perf_counter() - start)


@torch.no_grad()
def accuracies(
    model: Callable[[Tensor], Tensor], ids: Int[Tensor, "b t"], targets: Int[Tensor, "b t"]
) -> tuple[float, float]:
    """The share of right answers among the queries whose key was bound once, and among those where it was twice."""
    right, asked = model(ids).argmax(-1) == targets, targets != NOT_ASKED
    seen = (ids[:, :, None] == ids[:, None, :]).tril(-1).sum(-1)  # how often each token was there before
    return right[asked & (seen == 1)].float().mean().item(), right[asked & (seen == 2)].float().mean().item()
