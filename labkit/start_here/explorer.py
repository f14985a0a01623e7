"""The taste: a prompt of the learner's, a slider over the model's depth, and the answer forming."""

from functools import lru_cache

import torch
from torch import Tensor

from labkit.explorer import Explorer, slider, text
from labkit.lm import LanguageModel
from labkit.theme import BLUE, FAINT, Figure, token

from .lens import lens

TOP = 8  # tokens shown
PROMPT_LIMIT = 256  # tokens of a learner's prompt: a second of waiting


def explore(lm: LanguageModel, prompt: str = "The capital of France is") -> Explorer:
    """The likeliest next tokens after each block of the model, for any prompt."""
    controls = dict(
        depth=slider("blocks read", lm.config.n_layers, 0, lm.config.n_layers), prompt=text("prompt", prompt)
    )

    @lru_cache(maxsize=32)
    def probabilities(prompt: str) -> Tensor:
        n = len(lm.encode(prompt))
        if n > PROMPT_LIMIT:
            raise ValueError(f"the prompt has {n} tokens; this picture reads at most {PROMPT_LIMIT}")
        return lens(lm, prompt)

    def figure(depth: int, prompt: str) -> Figure:
        return lens_figure(lm, probabilities(prompt.rstrip()), prompt.rstrip(), depth)

    return Explorer(figure, controls)


def lens_figure(lm: LanguageModel, p: Tensor, prompt: str, depth: int) -> Figure:
    """Bars of the TOP likeliest tokens after `depth` blocks, and the final answer's probability along the depth."""
    best = p[depth].topk(TOP)
    words = [token(w) for w in lm.tokens(best.indices)]
    answer = int(p[-1].argmax())
    name = token(lm.decode(torch.tensor(answer)))
    line = p[:, answer].tolist()
    bars = dict(
        type="bar",
        orientation="h",
        x=best.values.tolist(),
        y=list(range(TOP)),
        text=words,
        textposition="outside",
        cliponaxis=False,
        marker_color=[BLUE if i == answer else FAINT for i in best.indices.tolist()],
        hovertemplate="%{text}: %{x:.3f}<extra></extra>",
    )
    along = dict(
        type="scatter",
        mode="lines",
        x=list(range(len(line))),
        y=line,
        xaxis="x2",
        yaxis="y2",
        line_color=BLUE,
        hovertemplate="after block %{x}: %{y:.3f}<extra></extra>",
    )
    here = dict(
        type="scatter",
        mode="markers",
        x=[depth],
        y=[line[depth]],
        xaxis="x2",
        yaxis="y2",
        marker=dict(size=10, color=BLUE),
        hoverinfo="skip",
    )
    layout = dict(
        margin=dict(l=20, r=10, t=34, b=40),
        xaxis=dict(domain=[0, 0.5], range=[0, 1], title_text=f"probability after block {depth}"),
        yaxis=dict(autorange="reversed", showticklabels=False, ticks="", showgrid=False),
        xaxis2=dict(domain=[0.62, 1], anchor="y2", title_text="blocks read"),
        yaxis2=dict(
            anchor="x2",
            type="log",
            range=[-20, 0.6],
            dtick=5,
            exponentformat="power",
            title_text=f"probability of {name}",
        ),
    )
    return Figure(
        [bars, along, here],
        layout,
        title="What would the model say if it stopped reading here?",
        alt="bars of the likeliest next tokens at one depth; a line of the final answer's probability over all depths",
        summary=f"{prompt!r} after {depth} of {len(line) - 1} blocks: {words[0]} {float(best.values[0]):.2f}; "
        f"the final answer {name} has {line[depth]:.2f} here",
        cards={
            "likeliest here": words[0].replace("·", " ").strip() or words[0],
            "final answer": name.replace("·", " ").strip() or name,
        },
    )
