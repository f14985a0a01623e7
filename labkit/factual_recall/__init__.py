"""Factual recall: which heads bring the topic, what the MLPs make of it, and where the answer comes from.

Paper: Lv, Chen, Zhang, Liu, Wang, Wen, Yan 2024, "Interpreting Key Mechanisms of Factual Recall in Transformer-Based
Language Models" (arXiv 2403.19521).

    prompts = ask(lm, TEMPLATES["plain"], ["France", "Burkina Faso"])     b prompts, the last token ready to run again
    parts = prompts.components()                                          embedding, heads, MLPs: they sum to the stream
    shares = attribute(parts, direction(lm, answers(lm, ["Paris", "Ouagadougou"])))       and these to the logit
    prompts.logits(swap_heads(prompts, ["L23H4"], donors), zero("M29"))   what comes next, after all that
"""

from typing import Any

from .batch import Edits, Prompts, combine
from .decompose import R2, Decomposition, causal_coefficient, decompose_mlp, held_out_r2, mlp, r2
from .edits import knock_out_attention, nll, scale, swap, swap_heads, zero
from .facts import RELATIONS, TEMPLATES, Country, Relation, answers, ask, countries, known, prompts
from .forms import Components, attribute, by_block, components, direction, lens_of, logit_lens, project, rank

__all__ = [
    "R2",
    "RELATIONS",
    "TEMPLATES",
    "Components",
    "Country",
    "Decomposition",
    "Edits",
    "Prompts",
    "Relation",
    "answers",
    "ask",
    "attribute",
    "by_block",
    "causal_coefficient",
    "combine",
    "components",
    "countries",
    "decompose_mlp",
    "direction",
    "held_out_r2",
    "knock_out_attention",
    "known",
    "lens_of",
    "logit_lens",
    "mlp",
    "nll",
    "project",
    "prompts",
    "r2",
    "rank",
    "scale",
    "swap",
    "swap_heads",
    "zero",
]


def __getattr__(name: str) -> Any:
    """What draws loads plotly, so it loads only when asked for."""
    if name in ("explore", "explore_mlp"):
        from . import explorer

        return getattr(explorer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
