"""Linear attention: a matrix memory that only ever adds, S ← S + k vᵀ, and never takes anything back.

Paper: Katharopoulos et al. 2020, "Transformers are RNNs" (arXiv 2006.16236), causal, without the denominator.
Forms: `recurrent` (the definition), `parallel`, `chunkwise`.
"""

from .forms import chunkwise, parallel, recurrent

__all__ = ["chunkwise", "parallel", "recurrent"]
