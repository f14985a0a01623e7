"""Two small trainings, in which nothing changes but the mechanism: handwritten digits, and the King James Bible.

    results = [experiments.digits(mechanism) for mechanism in BIDIRECTIONAL]
    results = [experiments.characters(mechanism) for mechanism in CAUSAL]

Each model has one layer of attention, which is all that brings tokens together: without it a digit is no more than how
much ink it has, and a text is read one character at a time. All mechanisms have the same parameters, and a seed's
models begin with the same weights and read the same batches, whichever the mechanism is.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from labkit import texts
from labkit.digits import digits as pictures
from labkit.threads import one_thread

from .layer import MLP, Attention, Mechanism, drawn, each, evenness, norm

SIDE = 10  # pixels of a digit's side
CONTEXT = 24  # characters that a model of text sees
LOOKED_AT = 64  # held-out sequences whose weights are measured

Batch = tuple[Tensor, Tensor]  # what is read, and what should be said


# ------------------------------------------------------------------ models, s side by side
class PixelReader(nn.Module):
    """Brightnesses (s b t) -> logits (s b 10): a token a pixel, attention, the mean over tokens, a readout."""

    def __init__(self, d: int, heads: int, mechanism: Mechanism, generators: Sequence[Generator]) -> None:
        super().__init__()
        self.brightness = drawn(generators, 1, 1, d, std=0.3)
        self.position = drawn(generators, 1, SIDE**2, d, std=0.3)
        self.attention = Attention(d, heads, mechanism, generators)
        self.readout = drawn(generators, d, 10, std=1.0)
        self.sources = torch.full((SIDE**2,), SIDE**2)

    def embed(self, x: Float[Tensor, "s b t"]) -> Float[Tensor, "s b t d"]:
        return x[..., None] * self.brightness + self.position

    def forward(self, x: Float[Tensor, "s b t"]) -> Float[Tensor, "s b 10"]:
        x = self.embed(x)
        return torch.bmm((x + self.attention(x)).mean(2), self.readout)


class CharacterReader(nn.Module):
    """Characters (s b t) -> logits (s b t vocab) of the one after each: attention, an MLP, a readout."""

    def __init__(self, vocab: int, d: int, heads: int, mechanism: Mechanism, generators: Sequence[Generator]) -> None:
        super().__init__()
        self.character = drawn(generators, vocab, d, std=1.0)
        self.position = drawn(generators, 1, CONTEXT, d, std=0.3)
        self.attention = Attention(d, heads, mechanism, generators)
        self.mlp = MLP(d, 2 * d, generators)
        self.readout = drawn(generators, d, vocab, std=d**-0.5)
        self.sources = torch.arange(1, CONTEXT + 1)

    def embed(self, ids: Int[Tensor, "s b t"]) -> Float[Tensor, "s b t d"]:
        """A place past the last one that was learned has the last one's vector."""
        s, vocab, _ = self.character.shape
        character = F.embedding(ids + vocab * torch.arange(s)[:, None, None], self.character.flatten(0, 1))
        return character + self.position[:, :, torch.arange(ids.shape[2]).clamp(max=CONTEXT - 1)]

    def forward(self, ids: Int[Tensor, "s b t"]) -> Float[Tensor, "s b t vocab"]:
        x = self.embed(ids)
        x = x + self.attention(x)
        return each(norm(x + self.mlp(x)), self.readout)


# ------------------------------------------------------------------ what is measured
@dataclass(frozen=True)
class Trained:
    """Models of one mechanism, one for each seed, and what they did with sequences that were held out."""

    scores: list[float]  # the share of digits that are named right, or bits a character
    evenness: list[float]  # the mean over sequences, heads and rows (`layer.evenness`)
    evenness_before: list[float]  # the same before the first step
    parameters: int  # of each model
    seconds: float  # for all seeds together
    model: PixelReader | CharacterReader = field(repr=False)
    held_out: Tensor = field(repr=False)  # sequences (n t)

    @torch.no_grad()
    def weights(self, n: int) -> Float[Tensor, "s h t t"]:
        """What each token takes from each in the n-th held-out sequence, for each seed and head."""
        x = self.held_out[None, n : n + 1].expand(len(self.scores), -1, -1)
        return self.model.attention.weights(self.model.embed(x))[:, 0]


def digits(
    mechanism: Mechanism, seeds: Sequence[int] = (0, 1, 2), *, steps: int = 400, batch: int = 8, lr: float = 0.03
) -> Trained:
    """Name a digit from its pixels, read as a sequence: 4,000 pictures to learn from, 1,000 held out."""
    (x, labels), held_out = split_pictures()
    generators = [Generator().manual_seed(seed) for seed in seeds]
    model = PixelReader(32, 2, mechanism, generators)

    def read() -> Batch:
        chosen = torch.stack([torch.randint(len(x), (batch,), generator=g) for g in generators])
        return x[chosen], labels[chosen]

    def right(logits: Tensor, labels: Tensor) -> Tensor:
        return (logits.argmax(-1) == labels).double()

    return trained(model, read, held_out, right, steps, lr)


def characters(
    mechanism: Mechanism, seeds: Sequence[int] = (0, 1, 2), *, steps: int = 600, batch: int = 8, lr: float = 0.02
) -> Trained:
    """Guess each next character of the Bible: nine tenths to learn from, the last tenth held out."""
    text, held_out = split_text()
    generators = [Generator().manual_seed(seed) for seed in seeds]
    model = CharacterReader(len(letters()), 32, 2, mechanism, generators)

    def read() -> Batch:
        start = torch.stack([torch.randint(len(text) - CONTEXT, (batch,), generator=g) for g in generators])
        ids = text[start[..., None] + torch.arange(CONTEXT + 1)]
        return ids[..., :-1], ids[..., 1:]

    def bits(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.movedim(-1, 1), targets, reduction="none").double() / math.log(2)

    return trained(model, read, held_out, bits, steps, lr)


@torch.no_grad()
def bits_by_place(trained: Trained, t: int = 96) -> Float[Tensor, "s t"]:
    """Bits a character at each place of 200 held-out texts; CONTEXT characters are what the models were trained on."""
    ids, targets = (x.expand(len(trained.scores), -1, -1) for x in split_text(200, t)[1])
    return F.cross_entropy(trained.model(ids).movedim(-1, 1), targets, reduction="none").mean(1) / math.log(2)


def bigram() -> float:
    """Bits a character that the held-out texts cost who knows how often each character follows each, and no more."""
    text, (x, targets) = split_text()
    counts = torch.ones(len(letters()), len(letters()))  # one of each, so that no pair is impossible
    counts.index_put_((text[:-1], text[1:]), torch.ones(len(text) - 1), accumulate=True)
    return -(counts / counts.sum(1, keepdim=True))[x, targets].log2().mean().item()


# ------------------------------------------------------------------ training
def trained(
    model: PixelReader | CharacterReader,
    read: Callable[[], Batch],
    held_out: Batch,
    score: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    lr: float,
) -> Trained:
    """Fit all models at once, and score them on what was held out; seeds meet in no number but the sum of losses."""
    start, s = time.perf_counter(), len(model.readout)
    with one_thread():
        before = mean_evenness(model, held_out[0])
        optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.95), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.2)
        for _ in range(steps):
            x, targets = read()
            loss = s * F.cross_entropy(model(x).flatten(0, -2), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        scores, after = mean_score(model, held_out, score), mean_evenness(model, held_out[0])
    parameters = sum(p[0].numel() for p in model.parameters())
    return Trained(scores, after, before, parameters, time.perf_counter() - start, model, held_out[0])


@torch.no_grad()
def mean_score(
    model: PixelReader | CharacterReader, held_out: Batch, score: Callable[[Tensor, Tensor], Tensor]
) -> list[float]:
    """score(logits, targets), for each model its mean over all that was held out."""
    parts = []
    for part in zip(*(x.split(100) for x in held_out), strict=True):
        x, targets = (y.expand(len(model.readout), *y.shape) for y in part)
        parts.append(score(model(x).flatten(0, 1), targets.flatten(0, 1)).unflatten(0, x.shape[:2]))
    return torch.cat(parts, 1).flatten(1).mean(1).tolist()


@torch.no_grad()
def mean_evenness(model: PixelReader | CharacterReader, held_out: Tensor) -> list[float]:
    """The evenness of each model's attention, over the first of the sequences that were held out."""
    x = held_out[:LOOKED_AT].expand(len(model.readout), -1, -1)
    return evenness(model.attention.weights(model.embed(x)), model.sources).flatten(1).mean(1).tolist()


# ------------------------------------------------------------------ data
@cache
def split_pictures() -> tuple[Batch, Batch]:
    """(4,000 pictures (n t), their digits), (1,000 others): the middle 20 × 20 pixels, halved, in rows of SIDE."""
    pixels, labels = pictures()
    x = F.avg_pool2d(pixels[:, None, 4:24, 4:24].float(), 20 // SIDE).flatten(1)
    x = (x - x.mean()) / x.std()
    order = torch.randperm(len(x), generator=Generator().manual_seed(0))
    return (x[order[1000:]], labels[order[1000:]]), (x[order[:1000]], labels[order[:1000]])


@cache
def split_text(n: int = 1000, length: int = CONTEXT) -> tuple[Int[Tensor, " n"], Batch]:
    """The first nine tenths of the Bible as ids, and n texts from all over the last tenth, with what comes next."""
    code = torch.frombuffer(bytearray(texts.bible().encode("utf-32-le")), dtype=torch.int32)
    ids = (torch.bincount(code).clamp(max=1).cumsum(0) - 1)[code]
    text, rest = ids.tensor_split([len(ids) * 9 // 10])
    start = torch.arange(n) * ((len(rest) - length) // n)
    windows = rest[start[:, None] + torch.arange(length + 1)]
    return text, (windows[:, :-1], windows[:, 1:])


@cache
def letters() -> str:
    """The different characters of the Bible: an id is a place in this string."""
    return "".join(sorted(set(texts.bible())))
