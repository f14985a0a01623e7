"""SmolLM2-135M as a short, readable transformer: weights, tokenizer, cache, and taps to record and edit.

    lm = labkit.lm.load()
    ids = lm.encode("The capital of France is")                 # (t,)
    logits = lm(ids[None])                                      # (1 t vocab)
    run = lm.run(ids[None], record="*.pattern", edit={"3.mlp_out": torch.zeros_like})
    run["12.pattern"]                                           # (1 h t t)

Model card: Allal et al. 2025, "SmolLM2: When Smol Goes Big" (arXiv 2502.02737); Apache-2.0.
"""

from .cache import Cache
from .model import LanguageModel, Run
from .tap import names
from .weights import load

__all__ = ["Cache", "LanguageModel", "Run", "load", "names"]
