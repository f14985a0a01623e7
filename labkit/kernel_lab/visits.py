"""Which tiles of each tensor each of eight programs reads and writes, for some kernels of the house, kept in a file.

The file lets the picture move at once, and be there where kernels cannot be watched; a test traces the kernels again.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kernels

FILE = Path(__file__).with_name("visits.json")
BLOCK = 32  # rows and columns of a tile
PROGRAMS = 8
STORED = "s"  # of a tile; else how often a load reaches into it, at most 9
ABOUT = {
    "sinks_forward": "attention to 4 sinks and a window of 96 keys: a program a block of 64 queries",
    "sinks_backward_kv": "its gradients of k and v: a program a block of 64 keys",
    "delta_states": "the delta rule from chunk to chunk: a program 32 columns of the state",
    "delta_outputs": "the delta rule's outputs: a program a chunk of 64 tokens",
    "causal_read": "flow attention of text: a program a chunk of 64 tokens",
}


@functools.cache
def visits() -> dict[str, Any]:
    """{kernel: {tensors: [[name, rows of tiles, columns]], programs: [{loaded, stored, tiles}]}}, bytes and tiles."""
    return json.loads(FILE.read_text(encoding="utf8"))


def traced() -> dict[str, Any]:
    """The same, by running the kernels on 512 tokens in the interpreter."""
    from labkit.kernel_lab.tiles import trace

    def some(*shape: int) -> torch.Tensor:
        return torch.full((1, 1, *shape), 0.01, requires_grad=True)

    def qkv(d_k: int, d_v: int) -> list[torch.Tensor]:
        return [some(512, d) for d in (d_k, d_k, d_v)]

    with trace() as log:
        kernels.attention_sinks.sink_attention(*qkv(64, 64), n_sink=4, window=96).sum().backward()
        kernels.delta_rule.delta_rule(*qkv(32, 256), some(512))
        kernels.flow_attention.causal_flow_attention(*qkv(64, 64))
    found = {}
    for name in ABOUT:
        own = [access for access in log if access.kernel == name]
        tensors: dict[str, tuple[int, int]] = {}
        for access in own:
            wide = access.shape[-1] if len(access.shape) > 3 else 1  # what has a number a token stands upright
            tensors[access.name] = (int(np.prod(access.shape)) // wide, wide)
        programs = []
        for n in range(PROGRAMS):
            tiles = {tensor: np.zeros([-(-size // BLOCK) for size in shape], int) for tensor, shape in tensors.items()}
            moved = {"load": 0, "store": 0}
            for access in own:
                if access.program[0] == n:
                    row, col = np.divmod(access.elements, tensors[access.name][1])
                    at = np.unique(np.stack([row // BLOCK, col // BLOCK]), axis=1)
                    tiles[access.name][tuple(at)] += 100 if access.kind == "store" else 1
                    moved[access.kind] += access.bytes
            drawn = ["".join(STORED if c >= 100 else str(min(c, 9)) for c in tile.flat) for tile in tiles.values()]
            programs.append({"loaded": moved["load"], "stored": moved["store"], "tiles": drawn})
        shapes = [[tensor, *(-(-size // BLOCK) for size in shape)] for tensor, shape in tensors.items()]
        found[name] = {"tensors": shapes, "programs": programs}
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(traced(), indent=0) + "\n", encoding="utf8")
