"""The texts the lesson reads, and losses computed beforehand so that an explorer's sliders need not wait for the model.

`python -m labkit.attention_sinks.excerpts` computes data/attention_sinks.safetensors anew (a few minutes on two cores).
"""

from functools import cache
from itertools import product
from pathlib import Path
from typing import get_args

from safetensors import safe_open
from safetensors.torch import save_file

from labkit import texts
from labkit.lm import LanguageModel

from .cache import Positions
from .streaming import Ids, Nll, dense_nll, streaming_nll

TABLE = Path(__file__).resolve().parents[2] / "data" / "attention_sinks.safetensors"
N_SINK, WINDOW, POSITIONS = (0, 1, 2, 4), (32, 64, 128, 256), get_args(Positions)
EXCERPT = 512  # tokens of each text in the table


def hamlet(lm: LanguageModel, t: int) -> Ids:
    """The first t tokens of Hamlet, act I (stage directions and speakers' names included)."""
    return lm.encode(texts.play("Hamlet")[: 8 * t])[:t]


def exodus(lm: LanguageModel, t: int) -> Ids:
    """The first t tokens of the Book of Exodus in the King James Bible."""
    text = texts.bible()
    start = text.index("Now these are the names of the children of Israel")
    return lm.encode(text[start : start + 8 * t])[:t]


EXCERPTS = {"Hamlet": hamlet, "Exodus": exodus}


@cache
def table() -> dict[str, Nll]:
    """Losses (EXCERPT − 1,) by name: "Hamlet dense", "Hamlet 4 128 cache", …"""
    with safe_open(TABLE, framework="pt") as f:
        return {key: f.get_tensor(key).float() for key in f.keys()}  # noqa: SIM118 (not a dict)


def key(text: str, n_sink: int, window: int, positions: str) -> str:
    """The table's name of one setting."""
    return f"{text} {n_sink} {window} {positions}"


def compute(lm: LanguageModel) -> dict[str, Nll]:
    """Every entry of the table, from the model."""
    losses = {}
    for text, read in EXCERPTS.items():
        ids = read(lm, EXCERPT)
        losses[f"{text} dense"] = dense_nll(lm, ids)
        for n_sink, window, positions in product(N_SINK, WINDOW, POSITIONS):
            one = streaming_nll(lm, ids, n_sink=n_sink, window=window, positions=positions)
            losses[key(text, n_sink, window, positions)] = one
    return losses


if __name__ == "__main__":
    from labkit.lm import load

    save_file({name: loss.half() for name, loss in compute(load()).items()}, TABLE)
    print(f"{TABLE.name}: {TABLE.stat().st_size:,} bytes")
