"""The MLPs of the last blocks, each regressed on the heads of its block: once a process, for explorer and notebook."""

from functools import lru_cache
from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from labkit.lm import LanguageModel, Run

from .batch import Prompts
from .decompose import R2, Decomposition, causal_coefficient, decompose_mlp, mlp, r2
from .facts import TEMPLATES, answers, ask, countries
from .forms import direction, lens_of

STUDIED = ("plain", "geography", "2 shots")  # names of TEMPLATES; the topic is token 0 in none
DEEP = 10  # blocks, from the last


class Studied(NamedTuple):
    """A block's fit, how good it is on the n prompts that it was fitted to, and those prompts."""

    fit: Decomposition
    r2: R2
    head_outs: Float[Tensor, "n h d"]
    mlp_out: Float[Tensor, "n d"]
    country: Int[Tensor, " n"]  # a row of `countries()`: groups for held_out_r2, as is the next
    template: Int[Tensor, " n"]  # a place in STUDIED


def last_blocks(lm: LanguageModel) -> range:
    return range(max(lm.config.n_layers - DEEP, 0), lm.config.n_layers)


@lru_cache(maxsize=2)
def decompositions(lm: LanguageModel) -> dict[int, Studied]:
    """`decompose_mlp` for each of the last blocks, over the countries that the model knows after each template."""
    table = countries()
    wanted = answers(lm, [c.capital for c in table])
    record = tuple(f"{i}.{what}" for i in last_blocks(lm) for what in ("head_out", "mlp_out"))
    country, template, values = [], [], []
    for n, name in enumerate(STUDIED):
        run = ask(lm, TEMPLATES[name], [c.country for c in table]).run(record=record)
        known = (run.logits.argmax(-1) == wanted).nonzero()[:, 0]
        country.append(known)
        template.append(torch.full_like(known, n))
        values.append({name: run[name][known] for name in record})
    who, how = torch.cat(country), torch.cat(template)
    found = {}
    for i in last_blocks(lm):
        a, m = (torch.cat([v[f"{i}.{what}"] for v in values]) for what in ("head_out", "mlp_out"))
        fit = decompose_mlp(m, a)
        found[i] = Studied(fit, r2(fit, m, a), a, m, who, how)
    return found


class Shares(NamedTuple):
    """What the parts of an MLP's output, as a fit has them, add to the centred logit of an answer in one prompt."""

    heads: Float[Tensor, " h"]  # c_h a_h
    intercept: float
    remainder: float  # what the fit leaves out
    whole: float  # the MLP itself: the sum of the above


@lru_cache(maxsize=8)
def recorded(lm: LanguageModel, prompt: str) -> Run:
    what = ("residual", "attn_out", "head_out", "mlp_out")
    record = (*(f"{i}.{name}" for i in last_blocks(lm) for name in what), "final")
    return Prompts(lm, [prompt]).run(record=record)


@lru_cache(maxsize=32)
def toward(lm: LanguageModel, answer: int) -> Float[Tensor, " d"]:
    return direction(lm, torch.tensor([answer]))[0].double()


def shares(lm: LanguageModel, prompt: str, block: int, answer: int) -> Shares:
    """This prompt's MLP output by the block's fit to many others, seen along the answer's direction."""
    run, fit = recorded(lm, prompt), decompositions(lm)[block].fit
    along = toward(lm, answer) * (run["final"][0].double().square().mean() + lm.config.norm_eps).rsqrt()
    heads = fit.coefficients * einsum(run[f"{block}.head_out"][0].double(), along, "h d, d -> h")
    intercept, whole = float(fit.intercept @ along), float(run[f"{block}.mlp_out"][0].double() @ along)
    return Shares(heads, intercept, whole - intercept - float(heads.sum()), whole)


@lru_cache(maxsize=32)
def intercept_says(lm: LanguageModel, block: int) -> list[str]:
    """The tokens that the block's intercept raises most."""
    return [word for word, _ in lens_of(lm, decompositions(lm)[block].fit.intercept.float(), 3)]


def kappa(lm: LanguageModel, prompt: str, block: int) -> Float[Tensor, " h"]:
    """The causal coefficient of each head of the block in this prompt."""
    run = recorded(lm, prompt)
    x = run[f"{block}.residual"] + run[f"{block}.attn_out"]
    return causal_coefficient(mlp(lm, block), x, run[f"{block}.head_out"])[0]
