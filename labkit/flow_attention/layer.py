"""Attention as a layer, for several models at once, and any mechanism in it: what the lesson's two experiments train.

    x ← x + W_o attend(q, k, v)      q, k, v = W_qkv LayerNorm(x)

Every parameter has a first axis s, one model each, so that three seeds cost one loop in Python and not three; no model
sees another's numbers. A mechanism is two functions, one to train with and one to look at, in two tuples of the same
four: `BIDIRECTIONAL`, where every token is a source for every token, and `CAUSAL`, for text.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from labkit import linear_attention

from . import causal, forms

Queries = Float[Tensor, "b h L dk"]
Keys = Float[Tensor, "b h S dk"]
Values = Float[Tensor, "b h S dv"]
Out = Float[Tensor, "b h L dv"]
Weights = Float[Tensor, "b h L S"]


@dataclass(frozen=True)
class Mechanism:
    """attend(q, k, v) is weights(q, k) @ v, and makes no matrix of weights where the mechanism needs none."""

    name: str
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    weights: Callable[[Tensor, Tensor], Tensor]


# ------------------------------------------------------------------ softmax attention
def causal_softmax(q: Queries, k: Queries, v: Values) -> Out:
    """torch's own, from each token to those up to it."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def softmax_weights(q: Queries, k: Keys) -> Weights:
    """softmax(q·k / √d_k)"""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)


def causal_softmax_weights(q: Queries, k: Queries) -> Weights:
    """The same over the tokens up to each."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1)


# ------------------------------------------------------------------ linear attention
def elu1(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """elu(x) + 1, the features of linear attention (Katharopoulos et al. 2020, arXiv 2006.16236, eq. 7)."""
    return F.elu(x) + 1


def linear(q: Queries, k: Keys, v: Values) -> Out:
    """Linear attention with its denominator: a mean of v with weights elu1(q_i)·elu1(k_j) (arXiv 2006.16236, eq. 5)."""
    Q, K = elu1(q), elu1(k)
    return Q @ (K.mT @ v) / (Q @ K.sum(2)[..., None])


def causal_linear(q: Queries, k: Queries, v: Values) -> Out:
    """The same over the tokens up to each (eq. 9): a column of ones beside v comes out as the denominator."""
    out, _ = linear_attention.chunkwise(elu1(q), elu1(k), F.pad(v, (0, 1), value=1.0), scale=1.0, chunk=32)
    return out[..., :-1] / out[..., -1:]


def linear_weights(q: Queries, k: Keys) -> Weights:
    """The weights of `linear`, as a matrix."""
    return F.normalize(elu1(q) @ elu1(k).mT, p=1, dim=-1)


def causal_linear_weights(q: Queries, k: Queries) -> Weights:
    """The weights of `causal_linear`, as a matrix."""
    return F.normalize((elu1(q) @ elu1(k).mT).tril(), p=1, dim=-1)


# ------------------------------------------------------------------ flow attention without competition
def without_competition_weights(q: Queries, k: Keys) -> Weights:
    """The weights of `forms.without_competition`, a_i A_ij / I_i."""
    flow, capacity = forms.flows(q, k), forms.phi(q) @ forms.phi(k).mT
    return capacity * (forms.allocation(flow) / flow.incoming)[..., None]


def causal_without_competition_weights(q: Queries, k: Queries) -> Weights:
    """The weights of `causal.without_competition`, a_n A_nj / I_n."""
    flow, capacity = causal.flows(q, k), (forms.phi(q) @ forms.phi(k).mT).tril()
    return capacity * (flow.conserved_incoming.sigmoid() / flow.incoming)[..., None]


BIDIRECTIONAL = (
    Mechanism("softmax", F.scaled_dot_product_attention, softmax_weights),
    Mechanism("linear", linear, linear_weights),
    Mechanism("flow", forms.linear, forms.weights),
    Mechanism("flow without competition", forms.without_competition, without_competition_weights),
)
CAUSAL = (
    Mechanism("softmax", causal_softmax, causal_softmax_weights),
    Mechanism("linear", causal_linear, causal_linear_weights),
    Mechanism("flow", lambda q, k, v: causal.chunkwise(q, k, v)[0], causal.weights),
    Mechanism(
        "flow without competition",
        lambda q, k, v: causal.without_competition(q, k, v)[0],
        causal_without_competition_weights,
    ),
)


# ------------------------------------------------------------------ how flat a mechanism's attention is
def evenness(weights: Float[Tensor, "*n L S"], sources: Int[Tensor, " L"]) -> Float[Tensor, "*n rows"]:
    """The entropy of each row of weights, over log(sources), its largest: 1 where all are equal, 0 where one has all.

    sources: how many each row may draw on, by which a row of a text is told from a peak; rows of one are left out.
    Rows are first divided by their sums, which need not be 1 in flow attention.
    """
    rows = weights[..., sources > 1, :]
    rows = rows / rows.sum(-1, keepdim=True)
    return torch.special.entr(rows).sum(-1) / sources[sources > 1].log()


# ------------------------------------------------------------------ layers, s side by side
class Attention(nn.Module):
    """x (s b t d) -> what is added to it, (s b t d)."""

    def __init__(self, d: int, heads: int, mechanism: Mechanism, generators: Sequence[Generator]) -> None:
        super().__init__()
        self.heads, self.mechanism = heads, mechanism
        self.W_qkv = drawn(generators, d, 3 * d, std=d**-0.5)
        self.W_o = drawn(generators, d, d, std=d**-0.5)

    def forward(self, x: Float[Tensor, "s b t d"]) -> Float[Tensor, "s b t d"]:
        out = self.mechanism.attend(*self.qkv(x))
        return each(rearrange(out, "(s b) h t d -> s b t (h d)", s=len(x)), self.W_o)

    def weights(self, x: Float[Tensor, "s b t d"]) -> Float[Tensor, "s b h t t"]:
        """What each token takes from each, in each head."""
        q, k, _ = self.qkv(x)
        return self.mechanism.weights(q, k).unflatten(0, (len(x), -1))

    def qkv(self, x: Float[Tensor, "s b t d"]) -> Float[Tensor, "n=3 sb h t dk"]:
        """The models are one more batch for a mechanism."""
        qkv = each(norm(x), self.W_qkv)
        return rearrange(qkv, "s b t (n h d) -> n (s b) h t d", n=3, h=self.heads).contiguous()


class MLP(nn.Module):
    """x (s b t d) -> what is added to it, W_2 GELU(W_1 LayerNorm(x))."""

    def __init__(self, d: int, hidden: int, generators: Sequence[Generator]) -> None:
        super().__init__()
        self.W_1 = drawn(generators, d, hidden, std=d**-0.5)
        self.W_2 = drawn(generators, hidden, d, std=hidden**-0.5)

    def forward(self, x: Float[Tensor, "s b t d"]) -> Float[Tensor, "s b t d"]:
        return each(F.gelu(each(norm(x), self.W_1)), self.W_2)


def drawn(generators: Sequence[Generator], *shape: int, std: float) -> nn.Parameter:
    """Normal numbers (s *shape), for each model from its own generator."""
    return nn.Parameter(torch.stack([std * torch.randn(shape, generator=g) for g in generators]))


def each(x: Float[Tensor, "s b t d"], W: Float[Tensor, "s d e"]) -> Float[Tensor, "s b t e"]:
    """Each model's matrix times its own tokens."""
    return torch.bmm(x.flatten(1, 2), W).unflatten(1, x.shape[1:3])


def norm(x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """LayerNorm without gain and bias: the matrix that comes next has its own gain."""
    return F.layer_norm(x, x.shape[-1:])
