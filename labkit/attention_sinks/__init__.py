"""Attention sinks: why a language model leans on its first token, and how that lets it read without end.

Paper: Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks" (arXiv 2309.17453).
Forms: `masked` (the definition), `banded`, `kernel`. On a real model: `SinkCache`, `streaming_nll`. Pictures:
`explore_cache`, `explore_map`, `explore_perplexity`.
"""

from typing import Any

from .cache import SinkCache
from .forms import banded, kernel, masked, visible
from .streaming import SinkAttention, dense_nll, nll, recompute_nll, streaming_nll, token_by_token_nll

__all__ = [
    "SinkAttention",
    "SinkCache",
    "banded",
    "dense_nll",
    "kernel",
    "masked",
    "nll",
    "recompute_nll",
    "streaming_nll",
    "token_by_token_nll",
    "visible",
]


def __getattr__(name: str) -> Any:
    """Pictures load plotly, so they load only when asked for."""
    if name.startswith("explore_"):
        from . import explorer

        return getattr(explorer, name)
    if name == "draw_visits":
        from .figures import draw_visits

        return draw_visits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
