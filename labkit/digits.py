"""Real pictures for the lessons: 5,000 handwritten digits (MNIST), read once and kept as two tensors."""

import gzip
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor

from labkit import assets


@cache
def digits() -> tuple[UInt8[Tensor, "5000 28 28"], Int[Tensor, " 5000"]]:
    """(pictures, the digit that each shows), 500 of each digit in a row; 0 is paper and 255 is ink."""
    file = assets.derived("mnist", "uint8-v1.safetensors", lambda out: convert(assets.path("mnist"), out))
    tensors = load_file(file)
    return tensors["pictures"], tensors["labels"].long()


def convert(table: Path, out: Path) -> None:
    """Read the table of numbers, a line a picture, and write it as bytes."""
    with gzip.open(table, "rt") as lines:
        numbers = np.array([np.fromstring(line, np.uint8, sep=",") for line in lines])
    rows = torch.from_numpy(numbers)
    save_file({"pictures": rows[:, :-1].reshape(-1, 28, 28).contiguous(), "labels": rows[:, -1].contiguous()}, out)
