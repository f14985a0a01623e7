"""Sink attention: banded against the definition and against torch's dense attention; decoding against recomputing."""

import torch
import torch.nn.functional as F

import labkit
from labkit import attention_sinks as sinks
from labkit.rounds import report, rounds


def main() -> None:
    for t in (1024, 4096, 8192):
        q, k, v = torch.randn(3, 1, 9, t, 64, generator=torch.Generator().manual_seed(0))
        band = dict(n_sink=4, window=256)
        contestants = {
            "banded": lambda q=q, k=k, v=v, band=band: sinks.banded(q, k, v, **band),
            "dense scaled_dot_product_attention": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(
                q, k, v, is_causal=True
            ),
        }
        if t <= 4096:
            contestants["masked"] = lambda q=q, k=k, v=v, band=band: sinks.masked(q, k, v, **band)
        report(f"t = {t}, window 256", rounds(contestants, 3), "banded")

    lm = labkit.lm.load()
    ids = torch.randint(0, 49152, (1, 1100), generator=torch.Generator().manual_seed(0))
    for window in (64, 256, 1024):
        cache = sinks.SinkCache(1, window)
        lm.run(ids[:, : window + 1], cache=cache, logits_at=slice(-1, None))
        contestants = {
            "a step with the cache": lambda cache=cache: lm(ids[:, :1], cache=cache),
            "recomputing": lambda window=window: lm.run(ids[:, : window + 2], logits_at=slice(-1, None)),
        }
        report(f"1 sink + window {window}", rounds(contestants, 3), "a step with the cache")


if __name__ == "__main__":
    main()
