"""EfficientNet-Lite0 (arXiv 1905.11946, the Lite variant): convolutions, normalisations and ReLU6, nothing else.

There is no squeeze-and-excitation and no swish, so the network is piecewise linear in its picture.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from labkit import assets

from .shapes import expect_rgb

STAGES = (  # blocks, kernel, stride of the first block, expansion, channels out
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution without bias to ⌈h / stride⌉ rows, padded as in TensorFlow: an odd one goes below, or right."""

    def __init__(self, d_in: int, d_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(d_in, d_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Float[Tensor, "b d_in h w"]) -> Float[Tensor, "b d_out h2 w2"]:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        down, across = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        return super().forward(F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2)))


class Block(nn.Module):
    """Widen, look around in each channel alone, narrow again; added to its input where the shapes allow it."""

    def __init__(self, d_in: int, d_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = d_in * expansion
        if expansion > 1:
            self.expand, self.expand_norm = SameConv2d(d_in, wide, 1), norm(wide)
        self.depthwise, self.depthwise_norm = SameConv2d(wide, wide, kernel, stride, groups=wide), norm(wide)
        self.project, self.project_norm = SameConv2d(wide, d_out, 1), norm(d_out)
        self.relu6 = nn.ReLU6()  # one module, used twice in a pass
        self.skips = stride == 1 and d_in == d_out
        self.expands = expansion > 1

    def forward(self, x: Float[Tensor, "b d_in h w"]) -> Float[Tensor, "b d_out h2 w2"]:
        y = self.relu6(self.expand_norm(self.expand(x))) if self.expands else x
        y = self.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.skips else y


class EfficientNetLite0(nn.Module):
    """From a picture (b 3 224 224), scaled to about -1 … 1, to the logits of 1,000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = SameConv2d(3, 32, 3, stride=2), norm(32)
        self.blocks, d_in = nn.Sequential(), 32
        for n, kernel, stride, expansion, d_out in STAGES:
            for i in range(n):
                self.blocks.append(Block(d_in, d_out, kernel, 1 if i else stride, expansion))
                d_in = d_out
        self.head, self.head_norm = SameConv2d(d_in, 1280, 1), norm(1280)
        self.relu6 = nn.ReLU6()
        self.classify = nn.Linear(1280, 1000)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1000"]:
        expect_rgb(x, "did you mean classifier_input(picture)?")
        x = self.relu6(self.stem_norm(self.stem(x)))
        x = self.blocks(x)
        x = self.relu6(self.head_norm(self.head(x)))
        return self.classify(x.mean((-2, -1)))


def norm(d: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(d, eps=1e-3)


def load() -> EfficientNetLite0:
    """The trained network in float32 on the CPU, for reading only; the first call fetches and converts the weights."""
    pickled = assets.path("efficientnet_lite0")
    file = assets.derived("efficientnet_lite0", "float32-v1.safetensors", lambda out: convert(pickled, out))
    with torch.device("meta"):
        net = EfficientNetLite0()
    net.load_state_dict(load_file(file), assign=True)
    return net.eval().requires_grad_(False)


RENAMED = {
    "_blocks.": "blocks.",
    "_expand_conv.": "expand.",
    "_depthwise_conv.": "depthwise.",
    "_project_conv.": "project.",
    "_conv_stem.": "stem.",
    "_conv_head.": "head.",
    "_fc.": "classify.",
}
NORMS_OF_A_BLOCK = {"_bn0.": "expand_norm.", "_bn1.": "depthwise_norm.", "_bn2.": "project_norm."}
NORMS_OUTSIDE = {"_bn0.": "stem_norm.", "_bn1.": "head_norm."}


def convert(pickled: Path, out: Path) -> None:
    """Write the tensors under our names. The pickle was verified when it was fetched, and may bring tensors only."""
    tensors = {}
    for key, tensor in torch.load(pickled, map_location="cpu", weights_only=True).items():
        norms = NORMS_OF_A_BLOCK if key.startswith("_blocks.") else NORMS_OUTSIDE
        for theirs, ours in (RENAMED | norms).items():
            key = key.replace(theirs, ours)
        tensors[key] = tensor.contiguous()
    save_file(tensors, out)
