"""Three explorers: the cache as tokens arrive, the sink map of the model's heads, and the perplexity of a cut cache."""

from functools import lru_cache

import numpy as np
import torch

from labkit.explorer import Explorer, choice, slider, steps, switch, text
from labkit.lm import LanguageModel
from labkit.theme import Figure

from . import excerpts
from .cache import Positions
from .figures import cache_figure, map_figure, perplexity_figure
from .streaming import dense_nll, streaming_nll

POSITIONS = [("in the cache", "cache"), ("in the text", "original"), ("frozen at insertion", "frozen")]
OWN = "your own"
QUOTE = "To be, or not to be, that is the question: Whether"


def explore_cache(lm: LanguageModel, quote: str = QUOTE) -> Explorer:
    """Tokens arrive one by one: which slots are kept, which are evicted, and what position each is given."""
    words = lm.tokens(lm.encode(quote))
    controls = dict(
        arrived=slider("arrived", len(words) - 3, 1, len(words)),
        n_sink=slider("n_sink", 1, 0, 4),
        window=slider("window", 5, 0, len(words)),
        positions=choice("positions", "cache", POSITIONS),
    )
    return Explorer(lambda **values: cache_figure(words, **values), controls)


def explore_map(lm: LanguageModel, prompt: str | None = None, t: int = 64) -> Explorer:
    """Mean attention on token 0 for every head of the model, and any one head's pattern with or without column 0."""
    ids = excerpts.hamlet(lm, t) if prompt is None else lm.encode(prompt)[:t]
    run = lm.run(ids[None], record="*.pattern")
    patterns = torch.stack([run[f"{i}.pattern"][0] for i in range(lm.config.n_layers)]).numpy()  # (layer head t t)
    words = lm.tokens(ids)
    controls = dict(
        layer=slider("layer", 17, 0, lm.config.n_layers - 1),
        head=slider("head", 3, 0, lm.config.n_heads - 1),
        without=switch("take column 0 away"),
    )
    return Explorer(lambda **values: map_figure(patterns, words, **values), controls)


def explore_perplexity(lm: LanguageModel) -> Explorer:
    """Loss along a text as the cache is cut: sinks, window, positions; Hamlet, Exodus or the learner's own text."""
    source = choice("text", "Hamlet", [*excerpts.EXCERPTS, OWN])
    own = text(OWN, "", f"paste a text, press Enter: a second or two a setting, {excerpts.EXCERPT} tokens")
    own.observe(lambda change: setattr(source, "value", OWN if change.new.strip() else "Hamlet"), "value")
    controls = dict(
        n_sink=steps("n_sink", 1, excerpts.N_SINK),
        window=steps("window", 64, excerpts.WINDOW),
        positions=choice("positions", "cache", POSITIONS),
        source=source,
        own=own,
    )

    @lru_cache(maxsize=64)
    def measured(own: str, n_sink: int, window: int, positions: Positions) -> tuple[np.ndarray, np.ndarray]:
        ids = lm.encode(own)
        if not 2 <= len(ids) <= excerpts.EXCERPT:
            raise ValueError(f"your text is {len(ids)} tokens long; 2 to {excerpts.EXCERPT} can be shown")
        cut = streaming_nll(lm, ids, n_sink=n_sink, window=window, positions=positions)
        return dense_nll(lm, ids).numpy(), cut.numpy()

    def figure(n_sink: int, window: int, positions: Positions, source: str, own: str) -> Figure:
        if source == OWN:
            if not own.strip():
                raise ValueError("there is no text of yours yet: paste one below and press Enter")
            dense, cut = measured(own, n_sink, window, positions)
        else:
            table = excerpts.table()
            dense = table[f"{source} dense"].numpy()
            cut = table[excerpts.key(source, n_sink, window, positions)].numpy()
        return perplexity_figure(dense, cut, n_sink=n_sink, window=window, positions=positions, source=source)

    return Explorer(figure, controls)
