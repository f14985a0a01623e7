"""Flow attention: a flow network whose conserved flows make sources compete and sinks share, at linear cost.

Paper: Wu, Wu, Xu, Wang, Long 2022, "Flowformer: Linearizing Transformers with Conservation Flows" (arXiv 2202.06258).
Forms, bidirectional: `pairwise` (the definition), `linear`, `kernel`; `causal` has `recurrent`, `chunkwise`, `kernel`.
`flows` and `weights` look inside; `without_competition`, `without_allocation` and `without_both` take parts out.
"""

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
