"""A small network that doubles a picture's size, trained in view: its whole matrix F can be written out and read.

    net = upscaling.trained()
    low, high = upscaling.pair("camera")      # a real picture's brightness, halved and whole
    A = interpret(net, low[..., :24, :24])

Brightness only, and nothing goes around the network: all that F does, the network does.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from labkit import pictures, vision
from labkit.threads import one_thread

from .interpreter import Net

LEARNED_FROM = ["astronaut", "brick", "chelsea", "color", "grass", "gravel", "horse", "ihc", "logo", "page"]
HELD_OUT = ["camera", "coffee", "coins", "moon", "motorcycle_left", "text"]
REACH = 4  # pixels that the three convolutions use up on each side
CROP = 20  # pixels of a side that are doubled in training, with REACH more around them


class SmallUpscaler(nn.Module):
    """Brightness in [0, 1] (b 1 h w) -> (b 1 2h 2w), not clamped: three convolutions, whose four maps are interleaved.

    Beyond the border its pixels are repeated. The only non-linear units are two ReLUs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 48, 5),
            nn.ReLU(),
            nn.Conv2d(48, 24, 3),
            nn.ReLU(),
            nn.Conv2d(24, 4, 3),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 2h 2w"]:
        return self.layers(F.pad(x, (REACH,) * 4, mode="replicate"))


def untrained(seed: int = 0) -> SmallUpscaler:
    """The network before its first step: the control for what training has made of it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmallUpscaler().eval().requires_grad_(False)


def train(steps: int = 1600, seed: int = 0, *, batch: int = 4, lr: float = 5e-3) -> SmallUpscaler:
    """`untrained(seed)` after `steps` steps on pieces of the pictures LEARNED_FROM; mean squared error, one thread."""
    chance = Generator().manual_seed(seed)
    learned_from = [pair(name) for name in LEARNED_FROM]
    # the order in which a CPU's convolutions are faster
    net = untrained(seed).requires_grad_(True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with one_thread():
        optimizer = torch.optim.AdamW(net.parameters(), lr, betas=(0.9, 0.99), weight_decay=0, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.2)
        for _ in range(steps):
            low, high = map(torch.cat, zip(*(piece(learned_from, chance) for _ in range(batch)), strict=True))
            loss = F.mse_loss(net.layers(low), high)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@cache
def trained() -> SmallUpscaler:
    """The network of the lesson, trained once a process."""
    return train()


@cache
def pair(name: str) -> tuple[Float[Tensor, "1 1 h w"], Float[Tensor, "1 1 2h 2w"]]:
    """A picture's brightness at half its size, the input, and at its own, which is wanted (an odd row is left out)."""
    picture = pictures.picture(name)[None] / 255
    whole = picture[..., : picture.shape[-2] // 2 * 2, : picture.shape[-1] // 2 * 2]
    return vision.luma(vision.halve(whole))[:, None], vision.luma(whole)[:, None]


def piece(pairs: list[tuple[Tensor, Tensor]], chance: Generator) -> tuple[Tensor, Tensor]:
    """A random (1 1 CROP + 2 REACH …) of a random picture, and what its middle should become (1 1 2 CROP 2 CROP)."""
    low, high = pairs[int(torch.randint(len(pairs), (), generator=chance))]
    wide = CROP + 2 * REACH
    top, left = (int(torch.randint(n - wide + 1, (), generator=chance)) for n in low.shape[-2:])
    down, across = (slice(2 * (start + REACH), 2 * (start + REACH + CROP)) for start in (top, left))
    return low[..., top : top + wide, left : left + wide], high[..., down, across]


# ------------------------------------------------------------------ what it is measured against
def bicubic(x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 2h 2w"]:
    """Twice the size by cubics through the pixels: one F for every picture, and r = 0. `interpret` reads it too."""
    return F.interpolate(x, scale_factor=2, mode="bicubic")


def within(net: Net, picture: Float[Tensor, "b 1 h w"], margin: int) -> Net:
    """The network as a function of the middle of a picture alone, `margin` pixels from its border, to the same middle.

    What is around stays as it is, so that the patch has no border of its own for singular vectors to sit on.
    """
    inside, doubled = slice(margin, -margin), slice(2 * margin, -2 * margin)
    around = picture.clone()
    around[..., inside, inside] = 0

    def middle(u: Float[Tensor, "nb 1 h w"]) -> Float[Tensor, "nb 1 2h 2w"]:
        whole = F.pad(u, (margin,) * 4) + around.repeat(len(u) // len(around), 1, 1, 1)
        return net(whole)[..., doubled, doubled]

    return middle


def in_grey(net: Net) -> Net:
    """A network of colours (b 3 h w) as one from brightness to brightness, (b 1 h w) -> (b 1 2h 2w)."""
    return lambda x: vision.luma(net(x.expand(-1, 3, -1, -1)))[:, None]


@torch.no_grad()
def gains(net: nn.Module) -> dict[str, float]:
    """By how many decibels of PSNR the network beats bicubic, on each picture HELD_OUT of its training."""
    return {
        name: likeness(net(low), high) - likeness(bicubic(low), high) for name in HELD_OUT for low, high in [pair(name)]
    }


def likeness(a: Float[Tensor, "b 1 h w"], b: Float[Tensor, "b 1 h w"]) -> float:
    """The PSNR of `vision.psnr`, in decibels, for brightness alone."""
    return vision.psnr(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
