"""Non-linear units, frozen at what they see: unit(z) is the linear map, and the offset, that the unit has become at z.

What a unit decided at z (the mask of a ReLU, what a max-pooling selects, the statistics of an instance norm) it then
does to any other u. The paper calls this a LinearScope (arXiv 1908.05168, figures 1 and 2).

z: (b …). What is frozen acts on u: (n b …) for any n, each of the b decisions on every b-th example.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Frozen(NamedTuple):
    """A frozen unit: linear(u), and affine(u) = linear(u) + offset, which at the z of its freezing is the unit."""

    linear: Callable[[Tensor], Tensor]
    affine: Callable[[Tensor], Tensor]


Unit = Callable[..., Frozen]


def piecewise(
    z: Float[Tensor, "b *shape"], below: Tensor | float = 0.0, low: float = 0.0, high: float = math.inf
) -> Frozen:
    """Slope 1 between low and high, slope `below` under low, level above high; a kink belongs to its outer side.

    ReLU: below 0, low 0. Leaky ReLU: below its slope. PReLU: below a (c) tensor of slopes for z (b c …), or one number.
    ReLU6: high 6. Hardtanh: low -1, high 1.
    """
    below, one = per_channel(below, z), torch.ones_like(z)
    slope = torch.where(z <= low, below, torch.where(z >= high, 0, one))
    if not low and math.isinf(high):
        return scaled(slope)
    level = torch.where(z <= low, low - below * low, torch.where(z >= high, high * one, 0))
    return scaled(slope, level)


def packed(
    z: Float[Tensor, "b *shape"], below: Tensor | float = 0.0, low: float = 0.0, high: float = math.inf
) -> Frozen:
    """`piecewise` in Triton, which keeps two bits for a unit in place of a slope and an offset; see `kernels`."""
    from kernels.linear_interpreters import record, replay  # late: Triton does not exist everywhere

    slopes, pieces = per_channel(below, z).reshape(-1), record(z, low, high)
    return Frozen(
        lambda u: replay(u, pieces, slopes, low, high, offset=False),
        lambda u: replay(u, pieces, slopes, low, high, offset=True),
    )


def tangent(f: Callable[[Tensor], Tensor], z: Float[Tensor, "b *shape"]) -> Frozen:
    """A smooth elementwise f as its tangent at z: slope f'(z), offset f(z) − f'(z) z. F is then f's own derivative."""
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        y = f(at)
        (slope,) = torch.autograd.grad(y, at, torch.ones_like(y))
    return scaled(slope, y.detach() - slope * z)


def gate(f: Callable[[Tensor], Tensor], z: Float[Tensor, "b *shape"]) -> Frozen:
    """A smooth elementwise f as a gate: slope (f(z) − f(0)) / z, offset f(0), the line through (0, f(0)) and (z, f(z)).

    For SiLU the slope is σ(z), for GELU Φ(z), and the offset 0: the mask that multiplies z.
    """
    start, near = f(torch.zeros_like(z)), z.abs() < torch.finfo(z.dtype).eps ** (1 / 3)
    middle = tangent(f, z / 2).linear(torch.ones_like(z))  # where a difference of f is rounding, nearly the same slope
    slope = torch.where(near, middle, (f(z) - start) / z)
    return scaled(slope, start if start.any() else None)


def softmax_tangent(z: Float[Tensor, "b *shape"], dim: int) -> Frozen:
    """softmax as its tangent at z: u -> p ⊙ (u − Σ p u), p = softmax(z)."""
    p = z.softmax(dim)

    def linear(u: Tensor) -> Tensor:
        p_u = for_each(p, u) * u
        return p_u - for_each(p, u) * p_u.sum(dim, keepdim=True)

    return affine(linear, p - linear(z))


def softmax_gate(z: Float[Tensor, "b *shape"], dim: int) -> Frozen:
    """softmax as the weights that it gave: they stay as they were, whatever u. All of it is offset."""
    return affine(lambda u: u * 0, z.softmax(dim))


def max_pool(z: Float[Tensor, "b c *size"], indices: Tensor) -> Frozen:
    """Max-pooling as the selection that it made. indices: (b c *out), each a place in z's *size, flattened."""

    def linear(u: Tensor) -> Tensor:
        chosen = for_each(indices, u).expand(len(u), *indices.shape[1:])
        return u.flatten(2).gather(2, chosen.flatten(2)).view(chosen.shape)

    return Frozen(linear, linear)


def instance_norm(
    z: Float[Tensor, "b c *size"], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Frozen:
    """Instance normalisation by the means and variances of z, whatever those of u. (Its derivative is another map.)"""
    axes = tuple(range(2, z.ndim))
    mean = z.mean(axes, keepdim=True)
    slope = (z.var(axes, keepdim=True, correction=0) + eps).rsqrt()
    slope = slope if weight is None else slope * per_channel(weight, z)
    offset = -slope * mean if bias is None else per_channel(bias, z) - slope * mean
    return scaled(slope, offset)


def scaled(slope: Tensor, offset: Tensor | None = None) -> Frozen:
    """u -> slope · u + offset, element by element."""
    return affine(lambda u: u * for_each(slope, u), offset)


def affine(linear: Callable[[Tensor], Tensor], offset: Tensor | None) -> Frozen:
    """linear with an offset of z's own, or without."""
    return Frozen(linear, linear if offset is None else lambda u: linear(u) + for_each(offset, u))


def for_each(kept: Float[Tensor, "b *shape"], u: Float[Tensor, "nb *shape"]) -> Float[Tensor, "nb *shape"]:
    """What was kept of b examples, for n times b of them; that of one is broadcast."""
    b, n = len(kept), len(u)
    return kept if b in (1, n) else kept.repeat(n // b, *[1] * (kept.ndim - 1))


def per_channel(x: Tensor | float, z: Float[Tensor, "b c *size"]) -> Tensor:
    """x as a tensor that broadcasts with z: a number, or a (c) tensor along z's second axis."""
    x = torch.as_tensor(x, dtype=z.dtype, device=z.device)
    return x.view(-1, *[1] * (z.ndim - 2)) if x.numel() > 1 else x.reshape(())
