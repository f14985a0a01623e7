"""The exercise on max-pooling: frozen, it is a choice of one entry out of each window."""

import torch
import torch.nn.functional as F
from einops import rearrange

from labkit.course import Exercise, Mistake


def pool_as(z, u, size):
    z, u = (rearrange(t, "c (h i) (w j) -> c h w (i j)", i=size, j=size) for t in (z, u))
    return u.gather(-1, z.argmax(-1, keepdim=True)).squeeze(-1)


def pool_as_by_indices(z, u, size):
    _, places = F.max_pool2d(z, size, return_indices=True)
    return u.flatten(1).gather(1, places.flatten(1)).view(places.shape)


def pool_as_by_mask(z, u, size):
    z, u = windows(z, size), windows(u, size)
    return torch.where(z == z.amax(-1, keepdim=True), u, 0).sum(-1)


def windows(t, size):
    return rearrange(t, "c (h i) (w j) -> c h w (i j)", i=size, j=size)


def chosen(places, u):
    return u.gather(-1, places.expand(*u.shape[:-1], 1))[..., 0]


def pool_as_free(z, u, size):
    return windows(u, size).amax(-1)


def pool_as_mean(z, u, size):
    return windows(u, size).mean(-1)


def pool_as_run(z, u, size):
    return windows(z, size).amax(-1)


def pool_as_the_other_way_round(z, u, size):
    return pool_as(u, z, size)


def pool_as_by_size(z, u, size):
    return pool_as(z.abs(), u, size)


def pool_as_min(z, u, size):
    return pool_as(-z, u, size)


def pool_as_on_its_side(z, u, size):
    turned = rearrange(u, "c (h i) (w j) -> c h w (j i)", i=size, j=size)
    return chosen(windows(z, size).argmax(-1, keepdim=True), turned)


def pool_as_one_for_all_channels(z, u, size):
    return chosen(windows(z, size).sum(0, keepdim=True).argmax(-1, keepdim=True), windows(u, size))


def pool_as_first_channel(z, u, size):
    return chosen(windows(z, size)[:1].argmax(-1, keepdim=True), windows(u, size))


def pool_as_one_for_all_windows(z, u, size):
    return chosen(windows(z, size).sum((1, 2), keepdim=True).argmax(-1, keepdim=True), windows(u, size))


def pool_as_strided(z, u, size):
    z, u = (rearrange(t, "c (i h) (j w) -> c h w (i j)", i=size, j=size) for t in (z, u))
    return chosen(z.argmax(-1, keepdim=True), u)


def pool_as_weighed(z, u, size):
    return (windows(z, size).softmax(-1) * windows(u, size)).sum(-1)


def pool_as_of_products(z, u, size):
    return windows(z * u, size).amax(-1)


def pool_as_mask(z, u, size):
    most = windows(z, size).amax(-1)
    return (z == most.repeat_interleave(size, 1).repeat_interleave(size, 2)) * u


def pool_as_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 4, 2, 2, torch.float64), (3, 6, 9, 3, torch.float32), (2, 4, 10, 2, torch.float64)]
    drawn = []
    for c, h, w, size, dtype in shapes:
        z, u = torch.randn(2, c, h, w, generator=g, dtype=dtype)
        drawn.append((z, u, size))
    return drawn


POOL_AS = Exercise(
    id="linear_interpreters.pool_as",
    reference=pool_as,
    alternatives=[pool_as_by_indices, pool_as_by_mask],
    probes=pool_as_probes,
    mistakes=[
        Mistake("the max-pooling that is not frozen", pool_as_free, "who decides which entry passes here, z or u?"),
        Mistake(
            "the mean of each window", pool_as_mean, "a frozen max-pooling passes one entry of a window and no other"
        ),
        Mistake("the plain run at z", pool_as_run, "z only decides; what comes out are entries of u"),
        Mistake(
            "the max-pooling frozen at the wrong input",
            pool_as_the_other_way_round,
            "the first argument decides and the second one passes",
        ),
        Mistake(
            "the entry that is farthest from zero",
            pool_as_by_size,
            "a maximum is a maximum with its sign: a large negative z is not chosen",
        ),
        Mistake("the min-pooling", pool_as_min, "which entry of z does a max-pooling choose?"),
        Mistake(
            "the place read along the wrong axis",
            pool_as_on_its_side,
            "the window of u must be flattened in the order in which that of z was: row by row in both",
        ),
        Mistake(
            "the choice that all channels share",
            pool_as_one_for_all_channels,
            "each channel has its own maximum, so it chooses for itself",
        ),
        Mistake(
            "the choice of the first channel",
            pool_as_first_channel,
            "each channel has its own maximum, so it chooses for itself",
        ),
        Mistake(
            "the choice that all windows share",
            pool_as_one_for_all_windows,
            "each window has its own maximum; over which axes does your argmax run?",
        ),
        Mistake(
            "the windows made of entries from all over the map",
            pool_as_strided,
            "a window is a square of neighbours; which factor of (a b) runs fast in einops?",
        ),
        Mistake(
            "the window weighed by softmax", pool_as_weighed, "the choice is hard: one entry passes, the others do not"
        ),
        Mistake(
            "the largest product",
            pool_as_of_products,
            "z says where, and u says what; they are not multiplied",
        ),
        Mistake(
            "the mask without the pooling",
            pool_as_mask,
            "asked for is one entry for each window, (c h/size w/size)",
        ),
    ],
    hints=[
        "A window of z has its maximum at some place. If that place is all you keep, what do you take from the same window of u?",
        "A(u)[c, a, b] = u[c, i*, j*],  (i*, j*) = argmax of z[c, i, j] over window (a, b)",
        "z and u as (c h w places), the windows flattened; argmax of z over the places; gather u there; away with the axis",
    ],
    minutes=12,
    difficulty=3,
    lines=2,
)
