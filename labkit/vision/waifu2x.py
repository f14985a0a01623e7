"""waifu2x's upconv_7: seven convolutions that double a picture's size, read from ncnn's two files into plain torch."""

import struct

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from labkit import assets

from .shapes import expect_rgb

MAGIC = "7767517"  # the first line of ncnn's list of layers
FLOAT16 = 0x01306B47  # ncnn's mark of weights in half precision
REACH = 7  # pixels that the seven layers use up on each side


class Upscaler(nn.Module):
    """Twice the rows and columns. Beyond the border its pixels are repeated; the result is not clamped to [0, 1]."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 2h 2w"]:
        expect_rgb(x, "did you mean picture(name)[None] / 255?")
        return self.layers(F.pad(x, (REACH,) * 4, mode="replicate"))


def load() -> Upscaler:
    """The network trained on photographs, in float32 on the CPU, for reading only; the first call fetches it."""
    weights, line_end, layers = assets.path("waifu2x").read_bytes().rpartition(f"\n{MAGIC}\n".encode())
    return Upscaler(parse((line_end + layers).decode().lstrip(), weights)).eval().requires_grad_(False)


def parse(layers: str, weights: bytes) -> nn.Sequential:
    """A chain of convolutions as ncnn writes it: a line a layer in `layers`, all the numbers in `weights`.

    Raises ValueError where a layer is of another kind, and where the bytes are too few, too many or of another type.
    """
    magic, _, *lines = layers.splitlines()
    if magic != MAGIC:
        raise ValueError(f"the list of layers begins with {magic!r}, not with {MAGIC}: not a file of ncnn")
    net, at = nn.Sequential(), 0
    for kind, name, _, _, *rest in map(str.split, lines):
        options = dict(word.split("=") for word in rest if "=" in word)
        match kind:
            case "Input":
                continue
            case "Convolution" | "Deconvolution":
                conv, at = convolution(kind, name, options, weights, at)
                net.append(conv)
            case _:
                raise ValueError(f"{name}: expected Convolution or Deconvolution, got {kind}")
        if options.get("9") == "2":  # its activation, with one slope
            net.append(nn.LeakyReLU(float(options["-23310"].split(",")[1])))
    if at != len(weights):
        raise ValueError(f"the layers take {at} bytes of weights, and there are {len(weights)}: not the file of these")
    return net


def convolution(
    kind: str, name: str, options: dict[str, str], weights: bytes, at: int
) -> tuple[nn.Conv2d | nn.ConvTranspose2d, int]:
    """The layer whose numbers begin at byte `at`, and where they end: mark, weights (float16), bias (float32)."""
    d_out, kernel, stride, padding, n = (
        int(options.get(key, default)) for key, default in zip("01346", "00100", strict=True)
    )
    padded = -(-2 * n // 4) * 4
    end = at + 4 + padded + 4 * d_out
    if end > len(weights):
        raise ValueError(f"{name}: its weights end at byte {end}, and there are {len(weights)}: the file was cut short")
    (mark,) = struct.unpack_from("<I", weights, at)
    if mark != FLOAT16:
        raise ValueError(f"{name}: expected the mark {FLOAT16:#010x} of float16 weights, got {mark:#010x}")
    W = torch.from_numpy(np.frombuffer(weights, "<f2", n, at + 4).astype(np.float32))
    W = W.reshape(d_out, -1, kernel, kernel)
    bias = torch.from_numpy(np.frombuffer(weights, "<f4", d_out, at + 4 + padded).astype(np.float32))
    if kind == "Deconvolution":
        conv: nn.Conv2d | nn.ConvTranspose2d = nn.ConvTranspose2d(W.shape[1], d_out, kernel, stride, padding)
        W = W.transpose(0, 1)  # torch keeps the channels that come in first
    else:
        conv = nn.Conv2d(W.shape[1], d_out, kernel, stride, padding)
    conv.load_state_dict({"weight": W.contiguous(), "bias": bias})
    return conv, end
