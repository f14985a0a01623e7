"""labkit.lm against transformers' Llama: the same weights, the same threads, in one run."""

from collections.abc import Iterator

import torch
import transformers

import labkit
from bench.peers import llama
from labkit.lm import Cache
from labkit.rounds import Row, ratios, rounds, row


@torch.no_grad()
def main() -> Iterator[Row]:
    lm, peer = labkit.lm.load(), llama()
    ids = torch.randint(0, 49152, (1, 1024), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(lm(ids[:, :64]), peer(ids[:, :64]).logits, rtol=1e-3, atol=1e-3)
    for t, n in ((64, 9), (1024, 3)):
        forms = {"labkit": lambda t=t: lm(ids[:, :t]), "transformers": lambda t=t: peer(ids[:, :t], use_cache=False)}
        yield from ratios(f"forward of {t} tokens", rounds(forms, n), "labkit")

    def ours() -> None:
        cache = Cache()
        for i in range(64):
            lm(ids[:, i : i + 1], cache=cache)

    def theirs() -> None:
        cache = transformers.DynamicCache()
        for i in range(64):
            peer(ids[:, i : i + 1], past_key_values=cache, use_cache=True)

    yield from ratios(
        "decoding of 64 tokens, one by one", rounds({"labkit": ours, "transformers": theirs}, 3), "labkit"
    )
    took = rounds({"labkit": labkit.lm.load, "transformers": llama}, 2)
    yield row("a warm load", "labkit", took["labkit"], "s")
    yield from ratios("a warm load, ours of weights converted before", took, "labkit")
