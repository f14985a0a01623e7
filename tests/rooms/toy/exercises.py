"""Exercises of a made-up room: one with tensors, one with a mask, one that returns a nested result."""

import torch
from einops import einsum
from torch import Tensor

from labkit.course import Exercise, Mistake, call


def step(state: Tensor, k: Tensor, v: Tensor, beta: float) -> Tensor:
    """S + beta k (v - Sᵀk)ᵀ."""
    recalled = einsum(state, k, "dk dv, dk -> dv")
    return state + beta * einsum(k, v - recalled, "dk, dv -> dk dv")


def step_with_outer(state, k, v, beta):
    return state + beta * torch.outer(k, v - state.T @ k)


def step_in_parts(state, k, v, beta):
    erased = state - beta * torch.outer(k, k @ state)
    return erased + torch.outer(k * beta, v)


def never_erases(state, k, v, beta):
    return state + beta * torch.outer(k, v)


def erases_all(state, k, v, beta):
    return state + torch.outer(k, beta * v - state.T @ k)


def overwrites(state, k, v, beta):
    state += beta * torch.outer(k, v - state.T @ k)
    return state


def swaps_axes(state, k, v, beta):
    return step(state, k, v, beta).T


def step_probes(seed):
    g = torch.Generator().manual_seed(seed)
    return [
        call(
            torch.randn(dk, dv, generator=g, dtype=dtype),
            torch.randn(dk, generator=g, dtype=dtype),
            torch.randn(dv, generator=g, dtype=dtype),
            beta=beta,
        )
        for dk, dv, beta, dtype in [(2, 3, 0.5, torch.float64), (3, 2, 0.25, torch.float32), (5, 7, 1.5, torch.float64)]
    ]


def mask(t: int, window: int) -> Tensor:
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return (j <= i) & (i - j <= window)


def mask_from_ones(t, window):
    return torch.ones(t, t, dtype=torch.bool).tril().triu(-window)


def sees_the_future(t, window):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return i - j <= window


def one_short(t, window):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return (j <= i) & (i - j < window)


def no_window(t, window):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return j <= i


def moments(x: Tensor) -> dict:
    mean = x.mean()
    return {"mean": mean, "rest": (x - mean, x.numel())}


def moments_by_sum(x):
    mean = x.sum() / len(x)
    return {"mean": mean, "rest": [x - mean, len(x)]}


def not_centred(x):
    return {"mean": x.mean(), "rest": (x, x.numel())}


def counts_one_less(x):
    return {"mean": x.mean(), "rest": (x - x.mean(), x.numel() - 1)}


def divides_by_one_less(x):
    mean = x.sum() / (x.numel() - 1)
    return {"mean": mean, "rest": (x - mean, x.numel())}


def moments_probes(seed):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(n, generator=g, dtype=dtype),) for n, dtype in [(2, torch.float32), (5, torch.float64)]]


HINTS = ("What does the state hold for k already?", "S ← S + β k (v − Sᵀk)ᵀ", "recalled = ...\nreturn ...")

EXERCISES = (
    Exercise(
        id="toy.step",
        reference=step,
        probes=step_probes,
        mistakes=(
            Mistake("the update that never erases", never_erases, "did you subtract `state.T @ k`?"),
            Mistake("the update that erases all of it", erases_all, "where does beta stand?"),
            Mistake("the update in place", overwrites, "`+=` writes into the state that you were given"),
            Mistake("the state lying on its side", swaps_axes, "which axis is d_k?"),
        ),
        hints=HINTS,
        minutes=10,
        difficulty=2,
        lines=2,
        alternatives=(step_with_outer, step_in_parts),
    ),
    Exercise(
        id="toy.mask",
        reference=mask,
        probes=lambda seed: [call(t + seed % 3, window=window) for t, window in [(3, 1), (4, 0), (7, 3), (9, 2)]],
        mistakes=(
            Mistake("the mask that sees the future", sees_the_future, "may j be larger than i?"),
            Mistake("the window one token short", one_short, "`<` or `<=`?"),
            Mistake("the mask that never forgets", no_window, "where is `window`?"),
        ),
        hints=HINTS,
        minutes=5,
        difficulty=1,
        lines=2,
        alternatives=(mask_from_ones,),
    ),
    Exercise(
        id="toy.moments",
        reference=moments,
        probes=moments_probes,
        mistakes=(
            Mistake("the values as they came", not_centred, "subtract the mean"),
            Mistake("one value too few", counts_one_less, "count all of x"),
            Mistake("the mean of one value less", divides_by_one_less, "divide by how many there are"),
        ),
        hints=HINTS,
        minutes=5,
        difficulty=1,
        lines=2,
        alternatives=(moments_by_sum,),
    ),
)
