"""The delta rule: a matrix memory that reads before it writes and stores only the difference; against linear_attention.

Paper: Yang, Wang, Zhang, Shen, Kim 2024, "Parallelizing Linear Transformers with the Delta Rule over Sequence Length"
(arXiv 2406.06484).
Forms: `recurrent` (the definition), `parallel`, `chunkwise`, `kernel`. A layer: `DeltaNet`. Pictures: `explore`.
"""

from .forms import chunkwise, kernel, parallel, recurrent

__all__ = ["chunkwise", "kernel", "parallel", "recurrent"]
