"""The delta rule: a matrix memory that reads before it writes and stores only the difference; against linear_attention.

Paper: Yang, Wang, Zhang, Shen, Kim 2024, "Parallelizing Linear Transformers with the Delta Rule over Sequence Length"
(arXiv 2406.06484).
Forms: `recurrent` (the definition), `parallel`, `chunkwise`, `kernel`. A layer: `DeltaNet`. Pictures: `explore`,
`draw_memories`. A peer's kernel to compile and look at: `peer_case`.
"""

from typing import Any

from .forms import chunkwise, kernel, parallel, recurrent
from .layer import DeltaNet, additive

__all__ = ["DeltaNet", "additive", "chunkwise", "kernel", "parallel", "recurrent"]


def __getattr__(name: str) -> Any:
    """What draws loads plotly, and what compiles loads Triton, so they load only when asked for."""
    if name == "explore":
        from .explorer import explore

        return explore
    if name == "draw_memories":
        from .figures import memories_figure

        return memories_figure
    if name == "peer_case":
        from .peer import peer_case

        return peer_case
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
