"""How good an enlarged picture is: shrink a real one to half, enlarge it, and compare the brightness of the two."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .shapes import expect_rgb


def luma(rgb: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b h w"]:
    """The brightness of red, green, blue in [0, 1]: 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, full range).

    Papers on super-resolution keep luma in 16/255 … 235/255, which adds 1.3 dB to every `psnr`, and to no difference.
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3 or not rgb.is_floating_point():
        raise ValueError(f"rgb: expected floats in [0, 1], (… 3 h w), got {rgb.dtype} {tuple(rgb.shape)}")
    return torch.einsum("...chw,c->...hw", rgb, rgb.new_tensor([0.299, 0.587, 0.114]))


def psnr(a: Float[Tensor, "*b 3 h w"], b: Float[Tensor, "*b 3 h w"], border: int = 4) -> float:
    """Likeness of two pictures in [0, 1] in decibels, their border left out: −10 log₁₀ mean (luma a − luma b)²."""
    if a.shape != b.shape or min(a.shape[-2:]) <= 2 * border:
        shapes = f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise ValueError(f"a, b: expected one shape, wider than two borders of {border}, got {shapes}")
    inner = slice(border, -border or None)
    return -10 * (luma(a) - luma(b))[..., inner, inner].square().mean().log10().item()


def halve(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h/2 w/2"]:
    """Half the rows and columns, each new pixel a bicubic mean of those around it; clamped to [0, 1]."""
    expect_rgb(x)
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        raise ValueError(f"x: expected an even number of rows and of columns, got {tuple(x.shape)}")
    return F.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True).clamp(0, 1)


def bicubic(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 2h 2w"]:
    """Twice the rows and columns by cubics through the pixels, not clamped: what the upscaler has to beat."""
    expect_rgb(x)
    return F.interpolate(x, scale_factor=2, mode="bicubic")
