"""The exercise on instance normalisation: frozen, it keeps the statistics of z."""

import torch
import torch.nn.functional as F
from einops import reduce

from labkit.course import Exercise, Mistake


def norm_as(z, u, eps):
    mean = z.mean((1, 2), keepdim=True)
    var = z.var((1, 2), keepdim=True, correction=0)
    return (u - mean) / torch.sqrt(var + eps)


def norm_as_by_moments(z, u, eps):
    mean = reduce(z, "c h w -> c 1 1", "mean")
    return (u - mean) * (reduce(z**2, "c h w -> c 1 1", "mean") - mean**2 + eps) ** -0.5


def norm_as_by_batch_norm(z, u, eps):
    flat = z.flatten(1)
    return F.batch_norm(u[None], flat.mean(1), flat.var(1, correction=0), eps=eps)[0]


def moments(z, axes=(1, 2), correction=0):
    return z.mean(axes, keepdim=True), z.var(axes, keepdim=True, correction=correction)


def norm_as_free(z, u, eps):
    return norm_as(u, u, eps)


def norm_as_run(z, u, eps):
    return norm_as(z, z, eps)


def norm_as_tangent(z, u, eps):
    y, change = norm_as(z, z, eps), u - z
    moved = change - moments(change)[0] - y * moments(y * change)[0]
    return y + moved / torch.sqrt(moments(z)[1] + eps)


def norm_as_without_mean(z, u, eps):
    return u / torch.sqrt(moments(z)[1] + eps)


def norm_as_own_mean(z, u, eps):
    return (u - moments(u)[0]) / torch.sqrt(moments(z)[1] + eps)


def norm_as_own_variance(z, u, eps):
    return (u - moments(z)[0]) / torch.sqrt(moments(u)[1] + eps)


def norm_as_unbiased(z, u, eps):
    mean, var = moments(z, correction=1)
    return (u - mean) / torch.sqrt(var + eps)


def norm_as_late_eps(z, u, eps):
    mean, var = moments(z)
    return (u - mean) / (torch.sqrt(var) + eps)


def norm_as_by_variance(z, u, eps):
    mean, var = moments(z)
    return (u - mean) / (var + eps)


def norm_as_one_for_all_channels(z, u, eps):
    mean, var = moments(z, (0, 1, 2))
    return (u - mean) / torch.sqrt(var + eps)


def norm_as_at_each_pixel(z, u, eps):
    mean, var = moments(z, (0,))
    return (u - mean) / torch.sqrt(var + eps)


def norm_as_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for c, h, w, eps, dtype in [
        (2, 2, 3, 0.2, torch.float64),
        (3, 5, 4, 0.1, torch.float32),
        (4, 3, 7, 0.3, torch.float64),
    ]:
        z, u = torch.randn(2, c, h, w, generator=g, dtype=dtype)
        size = torch.linspace(0.5, 2, c, dtype=dtype)[:, None, None]
        drawn.append((size * (z + 1.5), u - 0.5, eps))
    return drawn


NORM_AS = Exercise(
    id="linear_interpreters.norm_as",
    reference=norm_as,
    alternatives=[norm_as_by_moments, norm_as_by_batch_norm],
    probes=norm_as_probes,
    mistakes=[
        Mistake(
            "the norm that is not frozen",
            norm_as_free,
            "whose mean and variance are they here, those of z or of u?",
        ),
        Mistake("the plain run at z", norm_as_run, "z only gives the statistics; what is normalised is u"),
        Mistake(
            "the norm's derivative",
            norm_as_tangent,
            "it is right at z, but it lets the statistics move with u; the interpreter holds them still",
        ),
        Mistake(
            "the norm without its offset",
            norm_as_without_mean,
            "this is the linear part; the mean of z goes into r, and A(u) has it",
        ),
        Mistake(
            "the mean of the wrong input", norm_as_own_mean, "both statistics were taken at z, and the mean is one"
        ),
        Mistake(
            "the variance of the wrong input",
            norm_as_own_variance,
            "both statistics were taken at z, and the variance is one",
        ),
        Mistake(
            "the variance that divides by one less",
            norm_as_unbiased,
            "a norm divides by the number of pixels; by what does torch's `var` divide unless told?",
        ),
        Mistake("the eps outside the root", norm_as_late_eps, "eps is added to the variance, before the root"),
        Mistake("the norm without the root", norm_as_by_variance, "it is divided by the standard deviation"),
        Mistake(
            "the statistics that all channels share",
            norm_as_one_for_all_channels,
            "an instance norm has a mean and a variance for each channel",
        ),
        Mistake(
            "the statistics of each pixel",
            norm_as_at_each_pixel,
            "the mean is over the pixels of a channel, and not over the channels of a pixel",
        ),
    ],
    hints=[
        "An instance norm divides what it sees by numbers that it computes from what it sees. Which of the two is frozen?",
        "A(u) = (u − mean(z)) / √(var(z) + eps), mean and variance over the pixels of each channel",
        "mean of z over h and w, axes kept; variance of z over h and w, divided by their number (`correction=0`); u less the mean, over the root of variance plus eps",
    ],
    minutes=6,
    difficulty=2,
    lines=3,
)
