"""What is said of an interpreter in words, as numbers: is it made of wavelets, how far does it hold, does it adapt?

Images are (… h w) and may have any sign; each is measured by itself, and its scale does not count. A wavelet is
`oriented`, `band_pass` and `localised` all at once, which is what `wavelet` asks: waves are the first two, points the
third, and white noise is none of them.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from .interpreter import Interpreter, Net

ANGLES = 16  # directions that are tried, over half a turn
FREQUENCIES = [2 ** (-n / 2) for n in range(2, 11)]  # of wavelets, in cycles a pixel: half an octave apart
WIDTHS = [0.35, 0.6]  # of their hills along the direction of the wave: standard deviations, in wavelengths
LENGTHS = [1.0, 2.0]  # of their hills across it, in widths


# ------------------------------------------------------------------ images
def spectrum(v: Float[Tensor, "*b h w"]) -> tuple[Float[Tensor, "*b n"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """(energy, radius, angle) at every frequency: radius in cycles a pixel, angle in radians in [0, π).

    The image is set into zeros of twice its size, so that what leaves at one side does not come in at the other.
    """
    size = [2 * n for n in v.shape[-2:]]
    down, across = (torch.fft.fftfreq(n, dtype=v.dtype, device=v.device) for n in size)
    radius, angle = torch.hypot(down[:, None], across), torch.atan2(down[:, None], across) % math.pi
    return torch.fft.fft2(v, size).abs().square().flatten(-2), radius.flatten(), angle.flatten()


def oriented(v: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b"]:
    """The share of the spectral energy within 22.5° of the best of ANGLES directions, the image's mean removed.

    1 for a wave; 0.3 for a point, since there are more frequencies along the diagonals; about that for white noise;
    1/2 for a chessboard, which is two waves.
    """
    energy, _, angle = spectrum(v - v.mean((-2, -1), keepdim=True))
    tried = torch.arange(ANGLES, dtype=v.dtype, device=v.device)[:, None] * math.pi / ANGLES
    away = (angle - tried + math.pi / 2) % math.pi - math.pi / 2
    return share(energy, away.abs() <= math.pi / 8)


def band_pass(v: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b"]:
    """The share of the spectral energy in the best octave f … 2 f of radii, f at least one cycle in the shorter side.

    1 for a wave; 0.7 for a point and for white noise, since most frequencies are high; the mean counts, so that an
    image of one sign has little.
    """
    energy, radius, _ = spectrum(v)
    first, last = math.log2(1 / min(v.shape[-2:])), math.log2(0.5)
    start = torch.logspace(first, last, 32, base=2, dtype=v.dtype, device=v.device)[:, None]
    return share(energy, (radius >= start) & (radius <= 2 * start))


def share(energy: Float[Tensor, "*b n"], tried: Float[Tensor, "m n"]) -> Float[Tensor, "*b"]:
    """The largest share of the energy that one of m sets of frequencies holds."""
    return (energy @ tried.to(energy.dtype).T).amax(-1) / energy.sum(-1)


def localised(v: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b"]:
    """The participation ratio (Σ v²)² / (h w Σ v⁴): the share of the pixels that the image is on.

    1 / (h w) for a point, 1/3 for white noise, 2/3 for a wave, 1 where |v| is the same everywhere.
    """
    energy = v.square()
    return energy.mean((-2, -1)).square() / energy.square().mean((-2, -1))


def wavelet(v: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b"]:
    """The share of the image's energy that the one best wavelet holds, at any place and of any phase.

    A wavelet is a wave under a Gaussian hill, of a standard deviation from a pixel to a sixth of the shorter side, in
    ANGLES directions, of FREQUENCIES, WIDTHS and LENGTHS. Above 0.85 for any such wave, 0.6 for a point; of 24 × 24
    pixels 0.2 for a wave all over them and below 0.05 for white noise, and the larger the image, the less for both.
    """
    size = [2 * n for n in v.shape[-2:]]
    V = torch.fft.fft2(v, size)[..., None, :, :]
    best = v.new_zeros(v.shape[:-2])
    for g in wavelets(size, v):
        found = torch.fft.ifft2(V * torch.fft.fft2(g).conj())
        re, im = found.real, found.imag  # <v, Re g> and −<v, Im g>, at every place
        a, b = (part.square().sum((-2, -1), keepdim=True) for part in (g.real, g.imag))
        b = torch.maximum(b, 1e-6 * a)  # for Im g = 0: the wave of two pixels, which has one phase
        best = torch.maximum(best, (re.square() / a + im.square() / b).amax((-3, -2, -1)))
    return best / v.square().sum((-2, -1))


def wavelets(size: Sequence[int], like: Tensor) -> Iterator[Tensor]:
    """Complex wavelets (ANGLES h w) of one frequency and one shape after another, their middle at (0, 0).

    Re g is even and Im g is odd, so that the two are orthogonal; neither has a mean.
    """
    y, x = (torch.fft.fftfreq(n, 1 / n, dtype=like.dtype, device=like.device) for n in size)
    turn = torch.arange(ANGLES, dtype=like.dtype, device=like.device)[:, None, None] * math.pi / ANGLES
    along, across = turn.cos() * x + turn.sin() * y[:, None], turn.cos() * y[:, None] - turn.sin() * x
    for frequency, width, length in itertools.product(FREQUENCIES, WIDTHS, LENGTHS):
        sigma = width / frequency
        if sigma < 0.98 or length * sigma > min(size) / 12:
            continue
        hill = torch.exp(-(along**2 + (across / length) ** 2) / (2 * sigma**2))
        wave = torch.polar(torch.ones_like(along), 2 * math.pi * frequency * along)
        yield hill * (wave - (hill * wave).sum((-2, -1), keepdim=True) / hill.sum((-2, -1), keepdim=True))


def shuffled(v: Float[Tensor, "*b h w"], *, seed: int = 0) -> Float[Tensor, "*b h w"]:
    """An image with v's spectrum and random phases: the control that is as oriented and as band-pass, but nowhere."""
    noise = torch.randn(v.shape[-2:], generator=Generator().manual_seed(seed), dtype=v.dtype).to(v.device)
    phase = torch.fft.rfft2(noise)
    return torch.fft.irfft2(torch.fft.rfft2(v) * phase / phase.abs(), v.shape[-2:])


# ------------------------------------------------------------------ interpreters
@torch.no_grad()
def radius(
    interpreter: Interpreter, sizes: Sequence[float], *, draws: int = 8, seed: int = 0
) -> Float[Tensor, "sizes b"]:
    """‖net(x + d) − A(x + d)‖ / ‖net(x + d) − net(x)‖ for white noise d with ‖d‖ = size ‖x‖, over all draws together.

    0 while no unit decides otherwise than at x; 1 where A says no more of the change than that there was none. Of small
    sizes float32 shows its own rounding: take float64.
    """
    x, y = interpreter.x, interpreter.y
    noise = torch.randn(draws, *x.shape, generator=Generator().manual_seed(seed), dtype=x.dtype).to(x.device)
    found = []
    for size in sizes:
        errors, changes = x.new_zeros(2, len(x))
        for d in noise:
            scale = size * x.flatten(1).norm(dim=1) / d.flatten(1).norm(dim=1)
            u = x + scale.view(-1, *[1] * (x.ndim - 1)) * d
            moved = interpreter.net(u)
            errors += (moved - interpreter(u)).flatten(1).square().sum(1)
            changes += (moved - y).flatten(1).square().sum(1)
        found.append((errors / changes).sqrt())
    return torch.stack(found)


@torch.no_grad()
def flipped(a: Interpreter, b: Interpreter) -> Float[Tensor, "steps b"]:
    """The share of gates that are not alike in two interpreters of one network, for each of its units in their order.

    A gate is alike where it does the same to a number: where its slope is equal, or, in a pooling, what it selects.
    """
    if [step[:2] for step in a.steps] != [step[:2] for step in b.steps] or len(a.x) != len(b.x):
        raise ValueError("b: expected an interpreter of a's network, at inputs of the same shape")
    found = []
    for one, other in zip(a.steps, b.steps, strict=True):
        numbers = torch.arange(1, one.shape.numel() + 1, dtype=a.x.dtype, device=a.x.device)  # each another one
        probe = numbers.view(one.shape).expand(len(a.x), *one.shape)
        unlike = one.frozen.linear(probe) != other.frozen.linear(probe)
        found.append(unlike.flatten(1).to(a.x.dtype).mean(1))
    return torch.stack(found) if found else a.x.new_zeros(0, len(a.x))


@torch.no_grad()
def exchanged(interpreter: Interpreter) -> Float[Tensor, "b b *out"]:
    """A_j(x_i) at [i, j]: what the interpreter at each of b inputs says of each. On the diagonal stands net(x)."""
    x = interpreter.x
    return interpreter(x.repeat_interleave(len(x), 0)).unflatten(0, (len(x), len(x)))


class Adapts(NamedTuple):
    """Likeness to what is wanted of each of b images, in decibels: −10 log₁₀ of the mean squared error."""

    own: Tensor  # (b), of A_i(x_i) = net(x_i)
    another: Tensor  # (b), of A_j(x_i): the error is the mean over all j ≠ i
    fixed: Tensor  # (b), of a map that is the same for all images


@torch.no_grad()
def adapts(interpreter: Interpreter, wanted: Float[Tensor, "b *out"], fixed: Net, border: int = 4) -> Adapts:
    """Does each of b ≥ 2 images need the F and r that the network has there, or would those of another do?

    wanted: the true images, or the network's own (then `own` is infinite). The border is left out, as in `vision.psnr`.
    """
    b, inner = len(interpreter.x), (..., slice(border, -border or None), slice(border, -border or None))
    if b < 2 or wanted.shape != interpreter.y.shape:
        raise ValueError(f"wanted: expected (b …) of at least 2 as net(x), got {tuple(wanted.shape)}")

    def error(y: Tensor) -> Tensor:
        return (y - wanted)[inner].square().flatten(1).mean(1)

    said = torch.stack([error(y) for y in exchanged(interpreter).unbind(1)])  # [j, i]
    errors = said.diagonal(), (said.sum(0) - said.diagonal()) / (b - 1), error(fixed(interpreter.x))
    return Adapts(*(-10 * e.log10() for e in errors))
