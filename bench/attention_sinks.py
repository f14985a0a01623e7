"""Sink attention: banded against the definition and torch's attention; the kernel; decoding against recomputing."""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
import labkit
from bench.peers import DENSE, dense, qkv
from labkit import attention_sinks as sinks
from labkit.rounds import PASSES, Row, growth, memory, race, ratios, rounds

BAND = dict(n_sink=4, window=256)
banded, masked, kernel = (functools.partial(form, **BAND) for form in (sinks.banded, sinks.masked, sinks.kernel))
SAME = f"{DENSE} with the mask"


def with_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's attention, told which keys each query sees."""
    return F.scaled_dot_product_attention(q, k, v, sinks.visible(q.shape[2], **BAND).to(q.device))


def main() -> Iterator[Row]:
    make = functools.partial(qkv, h=9)
    torch.testing.assert_close(banded(*make(600)), with_mask(*make(600)))
    everyone = {"banded": banded, "masked": masked, SAME: with_mask, f"causal {DENSE}": dense}
    few = {name: form for name, form in everyone.items() if name != "masked"}
    for t, forms, n in ((1024, everyone, 7), (4096, everyone, 3), (8192, few, 3)):
        yield from race("window 256", forms, make, t, n)
    yield from race("window 256", few, make, 4096, 3, "forward and backward")
    for way in PASSES:
        yield from memory("window 256", {"banded": banded, "masked": masked, SAME: with_mask}, qkv, 4096, way)
        yield from growth("window 256", "banded", banded, make, (1024, 2048, 4096, 8192, 16384), 3, way)
    if kernels.WHERE == "compiled":
        yield from compiled(functools.partial(qkv, h=9, device="cuda", dtype=torch.float16), 8192, 20)
    yield from decoding()


def compiled(make, t: int, n: int) -> Iterator[Row]:
    """The kernel on the GPU."""
    forms = {"kernel": kernel, "banded": banded, f"causal {DENSE}": dense}
    for way in PASSES:
        yield from race("window 256, GPU", forms, make, t, n, way)


def decoding() -> Iterator[Row]:
    """A token with SmolLM2 at the cache's full length, against reading the sink and the window again."""
    lm = labkit.lm.load()
    ids = torch.randint(0, 49152, (1, 1100), generator=torch.Generator().manual_seed(0))
    for window in (64, 256, 1024):
        cache = sinks.SinkCache(1, window)
        lm.run(ids[:, : window + 1], cache=cache, logits_at=slice(-1, None))
        contestants = {
            "SinkCache": lambda cache=cache: lm(ids[:, :1], cache=cache),
            "recomputing": lambda window=window: lm.run(ids[:, : window + 2], logits_at=slice(-1, None)),
        }
        yield from ratios(f"a token, 1 sink + window {window}", rounds(contestants, 5), "SinkCache")
