"""Real pictures for the lessons: the photographs, textures and drawings that scikit-image carries."""

import io

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from . import assets

SIGNATURE = b"\x89PNG\r\n\x1a\n"  # every PNG file begins so
NAMES = [  # of the PNG files in sorted order: the order in which they are joined
    "astronaut", "brick", "camera", "cell", "chelsea", "chessboard_GRAY", "chessboard_RGB", "clock_motion", "coffee",
    "coins", "color", "grass", "gravel", "horse", "ihc", "logo", "microaneurysms", "moon", "motorcycle_left",
    "motorcycle_right", "page", "phantom", "text",
]  # fmt: skip


def names() -> list[str]:
    """The pictures that there are."""
    return list(NAMES)


def picture(name: str) -> UInt8[Tensor, "3 h w"]:
    """One picture ("chelsea", "coffee", …), red, green and blue; a grey one has three equal channels.

    What is transparent shows white paper. Raises LookupError for a name that is not one of `names()`.
    """
    if name not in NAMES:
        raise LookupError(f"no picture is called {name!r}; there are {', '.join(NAMES)}")
    with Image.open(io.BytesIO(split(assets.path("pictures").read_bytes())[name])) as file:
        seen = file.convert("RGBA")
    on_paper = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return torch.from_numpy(np.array(on_paper)).permute(2, 0, 1).contiguous()


def split(joined: bytes) -> dict[str, bytes]:
    """The PNG file of each name, out of all of them one after another."""
    before, *files = joined.split(SIGNATURE)
    if before or len(files) != len(NAMES):
        raise ValueError(f"expected {len(NAMES)} PNG files, one for each name, and nothing before: got {len(files)}")
    return {name: SIGNATURE + rest for name, rest in zip(NAMES, files, strict=True)}
