"""Two explorers: who writes the answer to a learner's prompt, and an MLP as the sum that a regression says it is."""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from html import escape
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.explorer import Explorer, choice, pick, slider, text
from labkit.lm import LanguageModel
from labkit.theme import BLUE, FAINT, INK, ORANGE, WIDTH, Figure, token

from .batch import Edits, Prompts
from .edits import site, zero
from .facts import answers
from .figures import MAP, attribution_map, lens_map, part_ticks, sum_figure, ticks_of
from .forms import Components, attribute, by_block, direction, logit_lens, rank
from .study import decompositions, intercept_says, kappa, last_blocks
from .study import shares as mlp_shares

MOST = 48  # tokens of a prompt: its lens takes about two seconds then
ROWS = 256  # positions × layers unembedded at once: 50 MB of logits
LEAVE, ZERO, SWAP = "leave it", "zero it", "swap it with the donor's"
PROMPT, DONOR = "The capital of France is", "The capital of Italy is"


def explore(lm: LanguageModel, prompt: str = PROMPT, donor: str = DONOR) -> Explorer:
    """A prompt's lens, who wrote answer − other, and what becomes of both without a component, or with the donor's."""
    controls = dict(
        prompt=text("prompt", prompt),
        donor=text("donor", donor),
        answer=text("answer", "Paris"),
        other=text("other", "Rome"),
        block=slider("block", 23, 0, lm.config.n_layers - 1),
        part=slider(f"head ({lm.config.n_heads}: MLP)", 4, 0, lm.config.n_heads),
        do=choice("do", SWAP, [LEAVE, SWAP, ZERO]),
    )
    explorer = Explorer(partial(recall_figure, lm), controls)
    pick(explorer, 1, x="part", y="block")
    return explorer


def explore_mlp(lm: LanguageModel, prompt: str = PROMPT) -> Explorer:
    """What the regression over many prompts makes of the MLP of one block in one prompt, and κ of each head."""
    blocks = last_blocks(lm)
    controls = dict(
        block=slider("block", blocks[len(blocks) // 2 - 1], blocks[0], blocks[-1]),
        prompt=text("prompt", prompt),
        answer=text("answer", "Paris"),
    )
    return Explorer(lambda **values: mlp_figure(lm, **values), controls)


# ------------------------------------------------------------------ numbers
def cleaned(lm: LanguageModel, what: str, typed: str) -> str:
    """The learner's prompt without spaces at its end; a sentence about what is wrong with it otherwise."""
    if not typed.strip():
        raise ValueError(f"{what}: type at least one word")
    n = len(lm.encode(typed.rstrip()))
    if n > MOST:
        raise ValueError(f"{what}: it has {n} tokens; this picture reads at most {MOST}")
    return typed.rstrip()


def first_token(lm: LanguageModel, what: str, typed: str) -> int:
    """What an answer is scored by."""
    if not typed.strip():
        raise ValueError(f"{what}: type a word that may come next")
    return int(answers(lm, [typed]))


class Lens(NamedTuple):
    ranks: Float[Tensor, "layers t"]
    likeliest: list[list[str]]


@lru_cache(maxsize=8)
def asked(lm: LanguageModel, prompt: str) -> Prompts:
    return Prompts(lm, [prompt])


@lru_cache(maxsize=16)
def lens(lm: LanguageModel, prompt: str, answer: int) -> Lens:
    """The answer's rank at every position, after 0, 1 … blocks."""
    run = lm.run(lm.encode(prompt)[None], record=("*.residual", "final"), logits_at=slice(0, 0))
    n = lm.config.n_layers
    stream = torch.stack([*(run[f"{i}.residual"][0] for i in range(n)), run["final"][0]])  # (layers t d)
    ranks, best = [], []
    for rows in stream.flatten(0, 1).split(ROWS):
        logits = logit_lens(lm, rows)
        ranks.append(rank(logits, torch.full((len(rows),), answer)))
        best.append(logits.argmax(-1))
    words = lm.tokens(torch.cat(best))
    t = stream.shape[1]
    return Lens(torch.cat(ranks).view(-1, t), [words[i : i + t] for i in range(0, len(words), t)])


@lru_cache(maxsize=8)
def parts(lm: LanguageModel, prompt: str) -> Components:
    return asked(lm, prompt).components()


@lru_cache(maxsize=32)
def shares(lm: LanguageModel, prompt: str, answer: int, other: int) -> Float[Tensor, "1 n"]:
    """Of the logit of answer − other, a share a component."""
    return attribute(parts(lm, prompt), direction(lm, torch.tensor([answer]), torch.tensor([other])))


@lru_cache(maxsize=256)
def after(lm: LanguageModel, prompt: str, donor: str, component: str, do: str) -> Float[Tensor, " vocab"]:
    """Logits of what comes next when this is done to a component."""
    edit = {LEAVE: lambda: {}, ZERO: lambda: zero(component), SWAP: lambda: from_donor(lm, donor, component)}[do]()
    return asked(lm, prompt).logits(edit)[0]


def from_donor(lm: LanguageModel, donor: str, component: str) -> Edits:
    """`swap` for one prompt, with the donor's components from the cache: half the work."""
    (name, head), vector = site(component), parts(lm, donor).of(component)

    def give(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, slice(None) if head is None else head] = vector
        return x

    return {name: give}


# ------------------------------------------------------------------ the first picture
LEFT, HEAD, TALL, FOOT = 44, 40, 290, 70  # px
ACROSS = WIDTH - LEFT - 6
LENS, PARTS, NEXT = (0, 214), (296, 470), (510, ACROSS - 14)  # px from the left of the plot
LIKELY = 3  # likeliest other tokens among the bars


def recall_figure(
    lm: LanguageModel, *, prompt: str, donor: str, answer: str, other: str, block: int, part: int, do: str
) -> Figure:
    """Left the lens, in the middle who wrote answer − other, right what comes next, before and after."""
    prompt, donor = cleaned(lm, "prompt", prompt), cleaned(lm, "donor", donor)
    a, o = first_token(lm, "answer", answer), first_token(lm, "other", other)
    component = f"M{block}" if part == lm.config.n_heads else f"L{block}H{part}"
    before = after(lm, prompt, "", "", LEAVE)
    then = after(lm, prompt, donor if do == SWAP else "", "" if do == LEAVE else component, do)
    p, q = before.softmax(-1), then.softmax(-1)
    gap, gap_then = float(before[a] - before[o]), float(then[a] - then[o])
    seen, share = lens(lm, prompt, a), shares(lm, prompt, a, o)[0]
    table = by_block(lm, share[None])[0]
    words = lm.tokens(lm.encode(prompt))
    name, name_o = map(token, lm.tokens(torch.tensor([a, o])))
    best = then.topk(LIKELY + 2).indices.tolist()
    rows = [(_as_typed(lm, answer), a), (_as_typed(lm, other), o)]
    others = [i for i in best if i not in (a, o)][:LIKELY]
    rows += [(token(word), i) for word, i in zip(lm.tokens(torch.tensor(others)), others, strict=True)]
    did = {LEAVE: f"{component} left", ZERO: f"{component} zeroed", SWAP: f"{component} swapped"}[do]
    heads = {
        LENS[0]: f"<b>the lens</b>: rank of {name}<br>after so many blocks",
        PARTS[0]: f"<b>who wrote {name} − {name_o}</b><br>red − to blue +, ±{float(table.abs().max()):.2g}",
        NEXT[0]: f"<b>what comes next</b><br>grey before, blue {did}",
    }
    path = ", ".join(str(int(seen.ranks[i, -1]) + 1) for i in range(0, len(seen.ranks), 10))
    return Figure(
        [
            lens_map(seen.ranks, words, seen.likeliest, colorbar=BAR),
            attribution_map(table, xaxis="x2", yaxis="y2"),
            _outline(part, block),
            *_before_and_after(p, q, rows),
            _heads(heads),
        ],
        _recall_layout(words, lm.config.n_layers, lm.config.n_heads + 1),
        title="Who writes the answer, and what comes next without it?",
        alt="a heat map of the answer's rank by the lens, blocks by tokens; a red and blue map of the shares of answer "
        "− other, blocks by heads and MLP; bars of probabilities before and after",
        summary=f"{prompt!r}, {did}{f' ({donor!r})' if do == SWAP else ''}: its share of {name} − {name_o} "
        f"(first tokens) is {float(table[block, part]):+.2f}, the embedding's {float(share[0]):+.2f}, of all "
        f"components {float(share.sum()):+.2f}; the lens ranks {name} at the last token {path} after every ten blocks",
        cards={
            "P(answer)": f"{float(p[a]):.1%} → {float(q[a]):.1%}",
            "P(other)": f"{float(p[o]):.1%} → {float(q[o]):.1%}",
            "logit answer − other": f"{gap:.2f} → {gap_then:.2f}",
            "likeliest": " → ".join(_spoken(lm.decode(logits.argmax())) for logits in (before, then)),
        },
    )


def _spoken(word: str) -> str:
    return word.strip() or repr(word)


def _as_typed(lm: LanguageModel, typed: str) -> str:
    """The first token, and where it has more, of what."""
    ids, whole = lm.encode(f" {typed.strip()}"), typed.strip()
    short = whole if len(whole) <= 8 else f"{whole[:7]}…"
    return token(lm.tokens(ids[:1])[0]) + (f" of {escape(short)}" if len(ids) > 1 else "")


def _outline(part: int, block: int) -> dict:
    x, y = (
        [at + d for d in ds] for at, ds in ((part, (-0.5, 0.5, 0.5, -0.5, -0.5)), (block, (-0.5, -0.5, 0.5, 0.5, -0.5)))
    )
    return dict(
        type="scatter", mode="lines", x=x, y=y, xaxis="x2", yaxis="y2", line=dict(color=ORANGE, width=2.5),
        cliponaxis=False, hoverinfo="skip",
    )  # fmt: skip


def _before_and_after(p: Tensor, q: Tensor, rows: Sequence[tuple[str, int]]) -> list[dict]:
    """A slot a token: its words, its probability before, and after. The first two are the learner's."""
    slots = [n + 0.4 * (n > 1) for n in range(len(rows))]
    where = dict(xaxis="x3", yaxis="y3")
    bars = dict(type="bar", orientation="h", width=0.22, hovertemplate="%{x:.4f}<extra></extra>", **where)
    words = [f"{word}: {float(p[i]):.0%} → {float(q[i]):.0%}" for word, i in rows]
    return [
        dict(x=[float(p[i]) for _, i in rows], y=[y + 0.3 for y in slots], marker_color=FAINT, **bars),
        dict(x=[float(q[i]) for _, i in rows], y=[y + 0.54 for y in slots], marker_color=BLUE, **bars),
        dict(type="scatter", mode="text", x=[0] * len(rows), y=slots, text=words, hoverinfo="skip", **TEXT, **where),
    ]


TEXT = dict(textposition="middle right", textfont_color=INK, cliponaxis=False)


def _heads(heads: Mapping[int, str]) -> dict:
    """Words above the panels, by where they begin."""
    where = dict(x=list(heads), y=[0] * len(heads), xaxis="x4", yaxis="y4", hoverinfo="skip")
    return dict(
        type="scatter", mode="text", text=list(heads.values()), **where, **TEXT | dict(textposition="bottom right")
    )


BAR = dict(x=LENS[1] / ACROSS, xpad=6, y=0, yanchor="bottom", len=TALL / (HEAD + TALL))


def _recall_layout(words: Sequence[str], layers: int, parts: int) -> dict[str, Any]:
    whole = HEAD + TALL
    below = [0, TALL / whole]

    def side(x: tuple[int, int], to: str) -> dict:
        return dict(domain=[at / ACROSS for at in x], anchor=to, fixedrange=True)

    blocks = dict(domain=below, fixedrange=True, dtick=5, title_standoff=4)
    return dict(
        height=34 + whole + FOOT,
        margin=dict(l=LEFT, r=6, t=34, b=FOOT),
        xaxis=MAP | side(LENS, "y") | ticks_of(words, 16) | dict(range=[-0.5, len(words) - 0.5], tickfont_size=10),
        yaxis=MAP | blocks | dict(title_text="blocks read", range=[-0.5, layers + 0.5]),
        xaxis2=MAP | side(PARTS, "y2") | part_ticks(parts) | dict(range=[-0.5, parts - 0.5], tickfont_size=9),
        yaxis2=MAP | blocks | dict(title_text="block", range=[-0.5, layers - 0.5], anchor="x2"),
        xaxis3=side(NEXT, "y3") | dict(range=[0, 1], tickvals=[0, 0.5, 1], tickformat=".0%", showgrid=False),
        yaxis3=dict(domain=below, anchor="x3", range=[5.3, -0.4], visible=False, fixedrange=True),
        xaxis4=dict(domain=[0, 1], anchor="y4", range=[0, ACROSS], visible=False, fixedrange=True),
        yaxis4=dict(domain=[TALL / whole, 1], anchor="x4", range=[1, 0], visible=False, fixedrange=True),
    )


# ------------------------------------------------------------------ the second picture
def mlp_figure(lm: LanguageModel, *, block: int, prompt: str, answer: str) -> Figure:
    """The MLP of a block along the answer's direction, as the regression over many other prompts has it."""
    prompt, a = cleaned(lm, "prompt", prompt), first_token(lm, "answer", answer)
    studied = decompositions(lm)[block]
    along = mlp_shares(lm, prompt, block, a)
    return sum_figure(
        along.heads.tolist(),
        along.intercept,
        along.remainder,
        studied.fit.coefficients.tolist(),
        kappa(lm, prompt, block).tolist(),
        of=_as_typed(lm, answer),
        title=f"Is the MLP of block {block} a sum of what its heads wrote?",
        cards={
            "R² against the mean": f"{studied.r2.centred:.3f}",
            "R² against zero": f"{studied.r2.uncentred:.3f}",
            "the intercept says": ", ".join(map(_spoken, intercept_says(lm, block))),
            "its prompts": f"{len(studied.country)}",
        },
    )
