"""Flow attention: a flow network in which sources compete and sinks share, at the cost of linear_attention.

Paper: Wu, Wu, Xu, Wang, Long 2022, "Flowformer: Linearizing Transformers with Conservation Flows" (arXiv 2202.06258).
Forms, bidirectional: `pairwise` (the definition), `linear`, `kernel`; `causal` has `recurrent`, `chunkwise`, `kernel`.
`flows` and `weights` look inside; `without_competition`, `without_allocation` and `without_both` take parts out.
"""

from typing import Any

from . import causal
from .forms import (
    Flows,
    flows,
    kernel,
    linear,
    pairwise,
    weights,
    without_allocation,
    without_both,
    without_competition,
)

__all__ = [
    "Flows",
    "causal",
    "flows",
    "kernel",
    "linear",
    "pairwise",
    "weights",
    "without_allocation",
    "without_both",
    "without_competition",
]


def __getattr__(name: str) -> Any:
    """What draws loads plotly, so it loads only when asked for."""
    if name == "explore":
        from .explorer import explore

        return explore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
