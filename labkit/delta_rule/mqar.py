"""Multi-query associative recall: read pairs of a key and a value, then say which value belongs to each key asked for.

Arora et al. 2023, "Zoology" (arXiv 2312.04927); the delta rule's paper measures recall with it. Here some keys are
bound a second time, to another value, and the last one counts. A small model is trained on it, around any memory.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from .layer import DeltaNet, Memory

NOT_ASKED = -100  # the target of a token that asks for nothing; cross_entropy leaves it out


def mqar(
    batch: int, n_pairs: int, t: int, vocab: int, generator: Generator, *, rewrites: int = 0
) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Tokens and targets: key value key value …, with n_pairs keys of which `rewrites` come twice, then every key once.

    A key is in 1 … vocab/2 − 1, a value in vocab/2 … vocab − 1, and what is left of t, between the queries, is 0. The
    target of a query is the value last bound to its key, and of any other token NOT_ASKED.
    """
    bound, half = n_pairs + rewrites, vocab // 2
    if not (0 <= rewrites <= n_pairs < half and bound <= half and 2 * bound + n_pairs <= t):
        raise ValueError(
            f"n_pairs={n_pairs}, rewrites={rewrites}, t={t}, vocab={vocab}: expected rewrites <= n_pairs < vocab / 2, "
            "n_pairs + rewrites <= vocab / 2 and 3 n_pairs + 2 rewrites <= t"
        )
    keys = 1 + distinct(batch, n_pairs, half - 1, generator)
    values = half + distinct(batch, bound, half, generator)
    place = 2 * distinct(batch, bound, bound, generator)
    again = torch.stack([place[:, :rewrites], place[:, n_pairs:]]).sort(0).values  # the second binding is the later one
    place = torch.cat([again[0], place[:, rewrites:n_pairs], again[1]], 1)
    asked = 2 * bound + distinct(batch, n_pairs, t - 2 * bound, generator)
    ids, targets = torch.zeros(batch, t, dtype=torch.long), torch.full((batch, t), NOT_ASKED)
    ids.scatter_(1, place, torch.cat([keys, keys[:, :rewrites]], 1)).scatter_(1, place + 1, values)
    ids.scatter_(1, asked, keys)
    targets.scatter_(1, asked, torch.cat([values[:, n_pairs:], values[:, rewrites:n_pairs]], 1))
    return ids, targets


def distinct(batch: int, n: int, below: int, generator: Generator) -> Int[Tensor, "b n"]:
    """In each row, n different numbers from 0 … below − 1, in random order."""
    return torch.rand(batch, below, generator=generator).argsort(1)[:, :n]


class Recaller(nn.Module):
    """Embedding, layers of a memory with norms and residuals, readout; ids (b t) -> logits (b t vocab). No MLP."""

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
    """The share of queries answered right on unseen sequences, a number for each seed, and what it took."""

    kept: list[float]  # keys bound once
    rewritten: list[float]  # keys bound twice, of which the second value counts
    state_floats: int
    steps: int
    seconds: float  # of all seeds together


def train(
    memory: Memory,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    n_pairs: int = 8,
    rewrites: int = 4,
    t: int = 40,
    vocab: int = 64,
    d: int = 64,
    layers: int = 1,
    heads: int = 1,
    d_k: int = 16,
    d_v: int = 16,
    steps: int = 300,
    batch: int = 32,
    lr: float = 0.03,
) -> Recall:
    """Train a model around `memory` for each seed, which fixes its weights and what it reads; measure its recall."""
    start = time.perf_counter()
    scores = []
    for seed in seeds:
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = Recaller(vocab, d, layers, heads, d_k, d_v, memory)
            generator = Generator().manual_seed(seed)
            optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.5)
            for _ in range(steps):
                ids, targets = mqar(batch, n_pairs, t, vocab, generator, rewrites=rewrites)
                loss = F.cross_entropy(rearrange(model(ids), "b t vocab -> (b t) vocab"), targets.flatten())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            test = mqar(512, n_pairs, t, vocab, generator, rewrites=rewrites)
            scores.append(accuracy(model, *test))
    kept, rewritten = (list(shares) for shares in zip(*scores, strict=True))
    return Recall(kept, rewritten, heads * d_k * d_v, steps, time.perf_counter() - start)


@torch.no_grad()
def accuracy(model: nn.Module, ids: Int[Tensor, "b t"], targets: Int[Tensor, "b t"]) -> tuple[float, float]:
    """The share of queries answered right: of keys bound once before they are asked for, and of keys bound twice."""
    right = model(ids).argmax(-1) == targets
    bound = (ids[:, :, None] == ids[:, None, :]).tril(-1).sum(-1)  # how often each token stood before
    once, twice = ((targets != NOT_ASKED) & (bound == n) for n in (1, 2))
    return right[once].float().mean().item(), right[twice].float().mean().item()


@contextmanager
def one_thread() -> Iterator[None]:
    """Nothing here is large enough to share: one thread is as fast as two, and gives the same sums on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
