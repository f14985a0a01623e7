"""The exercise on the causal coefficient: what an MLP adds to a head's vector, found by taking the head away."""

import torch
import torch.nn.functional as F

from labkit.course import Exercise, Mistake


def kappa(W_gate, W_up, W_down, x, a):
    def m(x):
        return (F.silu(x @ W_gate.T) * (x @ W_up.T)) @ W_down.T

    return ((m(x) - m(x - a)) * a).sum(-1) / a.square().sum(-1)


def kappa_in_one_batch(W_gate, W_up, W_down, x, a):
    both = torch.stack([x, x - a])
    gate, up = both @ W_gate.mT, both @ W_up.mT
    whole, without = (gate * gate.sigmoid() * up) @ W_down.mT
    return torch.einsum("nd,nd->n", whole - without, a) / torch.einsum("nd,nd->n", a, a)


def kappa_row_by_row(W_gate, W_up, W_down, x, a):
    def m(u):
        return W_down @ (F.silu(W_gate @ u) * (W_up @ u))

    return torch.stack([(m(u) - m(u - v)) @ v / (v @ v) for u, v in zip(x, a, strict=True)])


def unit(W_gate, W_up, W_down, act=F.silu):
    """x ↦ m(x)"""
    return lambda x: (act(x @ W_gate.T) * (x @ W_up.T)) @ W_down.T


def along(change, a):
    return (change * a).sum(-1) / a.square().sum(-1)


def kappa_with_act(act, W_gate, W_up, W_down, x, a):
    m = unit(W_gate, W_up, W_down, act)
    return along(m(x) - m(x - a), a)


def kappa_by_adding(W_gate, W_up, W_down, x, a):
    m = unit(W_gate, W_up, W_down)
    return along(m(x + a) - m(x), a)


def kappa_of_the_head_alone(W_gate, W_up, W_down, x, a):
    return along(unit(W_gate, W_up, W_down)(a), a)


def kappa_of_the_whole(W_gate, W_up, W_down, x, a):
    return along(unit(W_gate, W_up, W_down)(x), a)


def kappa_of_the_rest(W_gate, W_up, W_down, x, a):
    return along(unit(W_gate, W_up, W_down)(x - a), a)


def kappa_backwards(W_gate, W_up, W_down, x, a):
    return -kappa(W_gate, W_up, W_down, x, a)


def kappa_divided_once(W_gate, W_up, W_down, x, a):
    return kappa(W_gate, W_up, W_down, x, a) * a.norm(dim=-1)


def kappa_undivided(W_gate, W_up, W_down, x, a):
    return kappa(W_gate, W_up, W_down, x, a) * a.square().sum(-1)


def kappa_on_the_stream(W_gate, W_up, W_down, x, a):
    m = unit(W_gate, W_up, W_down)
    return along(m(x) - m(x - a), x)


def kappa_as_cosine(W_gate, W_up, W_down, x, a):
    m = unit(W_gate, W_up, W_down)
    return F.cosine_similarity(m(x) - m(x - a), a)


def kappa_of_lengths(W_gate, W_up, W_down, x, a):
    m = unit(W_gate, W_up, W_down)
    return (m(x) - m(x - a)).norm(dim=-1) / a.norm(dim=-1)


def kappa_by_derivative(W_gate, W_up, W_down, x, a):
    return along(torch.func.jvp(unit(W_gate, W_up, W_down), (x,), (a,))[1], a)


def kappa_with_frozen_gate(W_gate, W_up, W_down, x, a):
    return along((F.silu(x @ W_gate.T) * (a @ W_up.T)) @ W_down.T, a)


def kappa_gate_and_up_swapped(W_gate, W_up, W_down, x, a):
    return kappa(W_up, W_gate, W_down, x, a)


def kappa_by_relu(W_gate, W_up, W_down, x, a):
    return kappa_with_act(F.relu, W_gate, W_up, W_down, x, a)


def kappa_by_sigmoid(W_gate, W_up, W_down, x, a):
    return kappa_with_act(torch.sigmoid, W_gate, W_up, W_down, x, a)


def kappa_by_gelu(W_gate, W_up, W_down, x, a):
    return kappa_with_act(F.gelu, W_gate, W_up, W_down, x, a)


def kappa_with_stream(W_gate, W_up, W_down, x, a):
    return 1 + kappa(W_gate, W_up, W_down, x, a)


def kappa_over_prompts(W_gate, W_up, W_down, x, a):
    m = unit(W_gate, W_up, W_down)
    return ((m(x) - m(x - a)) * a).sum(0) / a.square().sum(0)


def kappa_of_all(W_gate, W_up, W_down, x, a):
    m = unit(W_gate, W_up, W_down)
    return ((m(x) - m(x - a)) * a).sum() / a.square().sum()


def kappa_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, d, f, dtype in [(2, 3, 5, torch.float64), (3, 5, 9, torch.float32), (4, 7, 6, torch.float64)]:
        shapes = [(f, d), (f, d), (d, f), (n, d), (n, d)]
        W_gate, W_up, W_down, rest, a = (torch.randn(shape, generator=g, dtype=dtype) for shape in shapes)
        drawn.append((W_gate, W_up, W_down, rest + a, a))
    return drawn


KAPPA = Exercise(
    id="factual_recall.kappa",
    reference=kappa,
    alternatives=[kappa_in_one_batch, kappa_row_by_row],
    probes=kappa_probes,
    mistakes=[
        Mistake(
            "the head put in a second time",
            kappa_by_adding,
            "x has a in it already: what does the MLP do without it?",
        ),
        Mistake(
            "the MLP on the head alone",
            kappa_of_the_head_alone,
            "an MLP is not linear: what it makes of a depends on what else is in x",
        ),
        Mistake(
            "all that the MLP says along a",
            kappa_of_the_whole,
            "it may say that without the head too; what does it say less once a is gone?",
        ),
        Mistake(
            "what the MLP says without the head", kappa_of_the_rest, "asked for is what it says more with the head"
        ),
        Mistake("the coefficient with the wrong sign", kappa_backwards, "with the head, less without it"),
        Mistake(
            "the division by the length of a",
            kappa_divided_once,
            "an MLP that gives back c a must have κ = c, however long a is",
        ),
        Mistake(
            "the product that is not divided",
            kappa_undivided,
            "an MLP that gives back c a must have κ = c, however long a is",
        ),
        Mistake(
            "the projection on the stream",
            kappa_on_the_stream,
            "how much of the head comes back? so the change is held against a, not against x",
        ),
        Mistake(
            "the angle between change and head",
            kappa_as_cosine,
            "a cosine is 1 for any c a with c > 0; κ is to be that c",
        ),
        Mistake(
            "the ratio of lengths",
            kappa_of_lengths,
            "a change across a is long too, and one against a is negative; how much of it lies along a?",
        ),
        Mistake(
            "the derivative in place of the ablation",
            kappa_by_derivative,
            "the tangent at x says what a small step does; the head is taken away whole",
        ),
        Mistake(
            "the MLP with its gate frozen",
            kappa_with_frozen_gate,
            "the head is in what the gate reads as well: both factors change when it goes",
        ),
        Mistake("gate and up swapped", kappa_gate_and_up_swapped, "which of the two products goes through the SiLU?"),
        Mistake("the gate of a ReLU", kappa_by_relu, "silu(z) = z σ(z)"),
        Mistake("the gate of a sigmoid", kappa_by_sigmoid, "silu(z) = z σ(z): the sigmoid times z itself"),
        Mistake("the gate of a GELU", kappa_by_gelu, "silu(z) = z σ(z)"),
        Mistake(
            "the coefficient of the whole stream",
            kappa_with_stream,
            "the head's own vector is in the stream anyway; κ is what the MLP adds to it",
        ),
        Mistake("the sum over the wrong axis", kappa_over_prompts, "asked for is one number for each row"),
        Mistake("one coefficient for all rows", kappa_of_all, "asked for is one number for each row"),
    ],
    hints=[
        "What does the MLP say with the head and what without it, and how much of the change lies along the head's own vector?",
        "κ = ⟨m(x) − m(x − a), a⟩ / ‖a‖²,  m(x) = W_down (silu(W_gate x) ⊙ W_up x)",
        "m as a function of rows: silu of x W_gateᵀ, times x W_upᵀ, times W_downᵀ; m(x) less m(x − a), times a, summed over d; divided by the sum of the squares of a",
    ],
    minutes=8,
    difficulty=3,
    lines=4,
)
