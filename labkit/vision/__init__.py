"""Two small trained vision networks, as plain torch modules to be looked into: a classifier and an upscaler.

`classifier()`: EfficientNet-Lite0 (Apache-2.0; M. Tan, Q. V. Le, arXiv 1905.11946), 4,652,008 parameters, ImageNet's
1,000 classes. `upscaler()`: waifu2x's upconv_7 for photographs (MIT; nagadomi), 552,483 parameters, twice the size.
Both are in eval mode, in float32 and without gradients of the weights; each call gives a module of its own, so
`classifier().double()` disturbs nobody. Their weights are fetched once (`labkit.assets`).
"""

import json

import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from labkit import assets

from . import efficientnet, waifu2x
from .compare import bicubic, halve, luma, psnr

__all__ = ["bicubic", "class_names", "classifier", "classifier_input", "halve", "luma", "psnr", "upscaler"]

TOLD_APART = {134: "crane (bird)", 517: "crane (machine)", 639: "tank suit"}  # elsewhere the first name is enough


def classifier() -> nn.Module:
    """EfficientNet-Lite0: from `classifier_input(picture)` (b 3 224 224) to logits (b 1000)."""
    return efficientnet.load()


def class_names() -> list[str]:
    """The names of the classifier's 1,000 classes, each another one."""
    synonyms = json.loads(assets.path("imagenet_names").read_text(encoding="utf8"))
    return [TOLD_APART.get(i, synonyms[str(i)].split(",")[0]) for i in range(1000)]


def classifier_input(picture: UInt8[Tensor, "3 h w"]) -> Float[Tensor, "1 3 224 224"]:
    """The middle square of a picture at the size and in the range (about -1 … 1) that the classifier was trained on."""
    if picture.ndim != 3 or picture.shape[0] != 3 or picture.is_floating_point():
        raise ValueError(f"picture: expected bytes (3 h w), got {picture.dtype} {tuple(picture.shape)}")
    side = min(picture.shape[1:])
    top, left = ((n - side) // 2 for n in picture.shape[1:])
    square = picture[None, :, top : top + side, left : left + side].float()
    x = F.interpolate(square, (224, 224), mode="bicubic", antialias=True).clamp(0, 255)
    return (x / 255 - 0.498) / 0.502


def upscaler() -> nn.Module:
    """waifu2x's upconv_7: from red, green, blue in [0, 1] (b 3 h w) to twice the size (b 3 2h 2w), not clamped."""
    return waifu2x.load()
