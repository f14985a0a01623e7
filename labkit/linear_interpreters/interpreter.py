"""`interpret(net, x)`: the affine map u -> F u + r that a network is around x, never written out unless asked for."""

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from . import forms
from .calls import Refused, Smooth, freeze, writes
from .follow import follow
from .forms import Frozen, Unit
from .krylov import largest_singular

Net = Callable[[Tensor], Tensor]


class Step(NamedTuple):
    """A unit that was met: its name, the shape of an example of its input, and what it has become."""

    name: str
    shape: torch.Size
    frozen: Frozen


class Singular(NamedTuple):
    """F ≈ Σ S U Vᵀ: left (b k *out) and right (b k *in) vectors of length 1, values (b k) from the largest down."""

    U: Tensor
    S: Tensor
    V: Tensor


class Verified(NamedTuple):
    """The largest relative error of each property, by `Interpreter.verify`."""

    exact: float  # net(x) = F x + r, with F x by the linear part and r by a replay of zero
    affine: float  # A(u + v) − A(u) − A(v) + A(0) = 0
    linear: float  # F u = A(u) − A(0)
    transposed: float  # <g, F u> = <Fᵀ g, u>
    apart: float  # A of u and v in one batch is A(u) and A(v)


def interpret(net: Net, x: Float[Tensor, "b *in"], *, smooth: Smooth | None = None, piecewise: Unit = forms.piecewise):
    """Run the network on x and freeze what its non-linear units decide (arXiv 1908.05168, figures 1 and 2).

    net: a module in eval mode, or any function made of torch calls, from x (b *in) to one tensor (b *out) that treats
    the examples of a batch alike and apart. smooth: what a unit without corners (SiLU, sigmoid, softmax, …) becomes:
    "gate", the slope (f(z) − f(0)) / z, or "tangent", the slope f'(z); None refuses such units. piecewise:
    `forms.piecewise`, or `forms.packed`, its Triton kernel. Instance norms keep their statistics.

    Raises Refused, which names the call, where the network is not made of what is known here.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 2 or not x.numel():
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x: expected floats (b …) with at least one example, got {got}")
    if smooth not in (None, "gate", "tangent"):
        raise ValueError(f"smooth: expected 'gate', 'tangent' or None, got {smooth!r}")
    return Interpreter(net, x.detach(), smooth, piecewise)


class Interpreter:
    """A(u) = F u + r, which is net(u) where no unit decides otherwise than at x. Built by `interpret`.

    It keeps the units' decisions, and runs the network itself again for each answer: leave its weights as they are.

    Everywhere u: (n b *in) and g: (n b *out), for any n: b examples are interpreted at once, each by itself, and those
    of u and g go round them. x: (b *in) and y = net(x): (b *out).
    """

    def __init__(self, net: Net, x: Tensor, smooth: Smooth | None, piecewise: Unit):
        self.net, self.x, self.steps = net, x, list[Step]()
        self._transposed: tuple[Tensor, Tensor] | None = None

        def note(name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
            z = args[0]
            self.steps.append(Step(name, z.shape[1:], freeze(name, func, args, kwargs, smooth, piecewise)))
            return func(*args, **kwargs)

        with torch.enable_grad():
            self.y = follow(net, x, note).detach()

    # ------------------------------------------------------------------ the map
    def __call__(self, u: Float[Tensor, "nb *in"]) -> Float[Tensor, "nb *out"]:
        """F u + r, by running the network with every unit as it was at x."""
        return self._replay(u, linear=False)

    def linear(self, u: Float[Tensor, "nb *in"]) -> Float[Tensor, "nb *out"]:
        """F u: the same without biases and offsets, so that nothing large cancels."""
        return self._replay(u, linear=True)

    def transpose(self, g: Float[Tensor, "nb *out"]) -> Float[Tensor, "nb *in"]:
        """Fᵀ g: backwards through a replay, which is kept for the next g of as many examples."""
        self._check("g", g, self.y)
        if self._transposed is None or len(self._transposed[0]) != len(g):
            u = self.x.new_zeros(len(g), *self.x.shape[1:]).requires_grad_()
            with torch.enable_grad():
                self._transposed = u, self.linear(u)
        u, y = self._transposed
        if not y.requires_grad:
            return torch.zeros_like(u)
        (found,) = torch.autograd.grad(y, u, g, retain_graph=True, allow_unused=True, materialize_grads=True)
        return found

    @cached_property
    def residual(self) -> Float[Tensor, "b *out"]:
        """r: what the interpreter says of an input of zeros."""
        with torch.no_grad():
            return self(torch.zeros_like(self.x))

    def row(self, output_index: int | tuple[int, ...]) -> Float[Tensor, "b *in"]:
        """What one output looks at: its weight for each input. The index is flat, or one along each axis of *out."""
        return self.transpose(_one_hot(self.y, output_index, "output_index"))

    @torch.no_grad()
    def column(self, input_index: int | tuple[int, ...]) -> Float[Tensor, "b *out"]:
        """What one input paints: its weight in each output. The index is flat, or one along each axis of *in."""
        return self.linear(_one_hot(self.x, input_index, "input_index"))

    @torch.no_grad()
    def matrix(self, chunk: int = 64) -> Float[Tensor, "b outs ins"]:
        """F in full, outputs and inputs flattened, made `chunk` columns or rows at a time, whichever are fewer."""
        wide = self.x[0].numel() > self.y[0].numel()
        of, to = (self.y, self.transpose) if wide else (self.x, self.linear)
        made = []
        for units in torch.eye(of[0].numel(), dtype=of.dtype, device=of.device).split(chunk):
            batch = units.view(-1, 1, *of.shape[1:]).expand(-1, len(of), *of.shape[1:])
            made.append(rearrange(to(batch.flatten(0, 1)).flatten(1), "(n b) d -> n b d", b=len(of)))
        self._transposed = None
        return rearrange(torch.cat(made), "o b i -> b o i" if wide else "i b o -> b o i")

    @torch.no_grad()
    def singular(self, k: int, *, tolerance: float | None = None, seed: int = 0) -> Singular:
        """The k largest singular values of F and their vectors, by products with F and Fᵀ alone (block Krylov).

        tolerance: how large |F Fᵀ u − s² u| may be left, as a share of the largest s²; None: what the dtype can give.
        Vectors of equal values are any basis of what they span; signs are such that V's largest entry is positive.
        """
        outs, ins = self.y[0].numel(), self.x[0].numel()
        if not 1 <= k <= min(outs, ins):
            raise ValueError(f"k: expected 1 to {min(outs, ins)}, the smaller side of F, got {k}")
        noise = torch.Generator().manual_seed(seed)
        start = torch.randn(len(self.x), min(k + 4, outs, ins), ins, generator=noise, dtype=self.x.dtype)

        def many(to: Callable[[Tensor], Tensor], like: Tensor) -> Callable[[Tensor], Tensor]:
            def flat(vectors: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d2"]:
                batch = rearrange(vectors, "b n d -> (n b) d").view(-1, *like.shape[1:])
                return rearrange(to(batch).flatten(1), "(n b) d -> b n d", b=len(self.x))

            return flat

        F, Ft = many(self.linear, self.x), many(self.transpose, self.y)
        tolerance = torch.finfo(self.x.dtype).eps ** (2 / 3) if tolerance is None else tolerance
        U, S, V = largest_singular(F, Ft, start.to(self.x.device), k, min(outs, ins), tolerance)
        self._transposed = None
        return Singular(U.view(-1, k, *self.y.shape[1:]), S, V.view(-1, k, *self.x.shape[1:]))

    @torch.no_grad()
    def verify(self, *, seed: int = 0) -> Verified:
        """Try out, at random u, v and g, that this is an affine map, its transpose is one, and it is the network at x.

        Returns relative errors. Raises ArithmeticError for one above 1e-9 in float64, 1e-4 in float32.
        """
        noise = torch.Generator().manual_seed(seed)
        u, v, g = (
            torch.randn(like.shape, generator=noise, dtype=like.dtype).to(like.device)
            for like in (self.x, self.x, self.y)
        )
        A_u, A_v, A_uv, r = self(u), self(v), self(u + v), self.residual
        F_u, F_x, y = self.linear(u), self.linear(self.x), self.net(self.x.clone())
        there, back = (g * F_u).flatten(1).sum(1), (self.transpose(g) * u).flatten(1).sum(1)
        found = Verified(
            exact=_relative(y, F_x + r),
            affine=_relative(A_uv + r, A_u + A_v),
            linear=_relative(F_u, A_u - r),
            transposed=float(((there - back).abs() / (g * F_u).flatten(1).norm(dim=1).clamp(min=1e-30)).max()),
            apart=_relative(self(torch.cat([u, v])), torch.cat([A_u, A_v])),
        )
        limit = 1e-9 if self.x.dtype == torch.float64 else 1e-4
        for name, error in found._asdict().items():
            if not error <= limit:
                raise ArithmeticError(
                    f"verify: {name} is off by {error:.1e} (limit {limit:.0e}): the network changes from run to run, "
                    "or looks across the examples of a batch, or hides a call from torch"
                )
        return found

    # ------------------------------------------------------------------ runs
    def _replay(self, u: Tensor, linear: bool) -> Tensor:
        self._check("u", u, self.x)
        left = iter(self.steps)

        def repeat(name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
            step, z = next(left, None), args[0]
            if step is None or (step.name, step.shape) != (name, z.shape[1:]):
                raise Refused(
                    f"{name}: the network did not call this when it ran on x: its course depends on its input"
                )
            frozen = step.frozen.linear if linear else step.frozen.affine
            y = frozen(z)
            return z.copy_(y) if writes(name, func, args, kwargs) else y

        y = follow(self.net, u, repeat, linear=linear)
        if next(left, None) is not None:
            raise Refused("the network made fewer calls than when it ran on x: its course depends on its input")
        return y

    def _check(self, name: str, given: Tensor, like: Tensor) -> None:
        """given: (n b …) of like's dtype and device. Raises ValueError."""
        if not isinstance(given, Tensor) or given.dtype != like.dtype or given.device != like.device:
            got = f"{given.dtype} on {given.device}" if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(f"{name}: expected {like.dtype} on {like.device}, got {got}")
        if given.shape[1:] != like.shape[1:] or not len(given) or len(given) % len(like):
            wanted = ("n" if len(like) == 1 else f"{len(like)} n", *map(str, like.shape[1:]))
            raise ValueError(f"{name}: expected ({', '.join(wanted)}), got {tuple(given.shape)}")


def _one_hot(like: Tensor, index: int | tuple[int, ...], name: str) -> Tensor:
    shape = like.shape[1:]
    place = (index,) if isinstance(index, int) else tuple(index)
    sizes = (math.prod(shape),) if isinstance(index, int) else tuple(shape)
    if len(place) != len(sizes) or not all(
        isinstance(i, int) and 0 <= i < n for i, n in zip(place, sizes, strict=False)
    ):
        raise ValueError(
            f"{name}: expected one flat index below {math.prod(shape)} or one for each of {tuple(shape)}, got {index!r}"
        )
    hot = torch.zeros_like(like, memory_format=torch.contiguous_format)
    (hot.flatten(1) if isinstance(index, int) else hot)[(slice(None), *place)] = 1  # type: ignore[index]
    return hot


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / torch.maximum(a.norm(), b.norm()).clamp(min=1e-30))
