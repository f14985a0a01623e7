"""The exercise on columns: the matrix F of a network that one can only run, from replays of deltas and of zeros."""

import torch
import torch.nn.functional as F

from labkit.course import Exercise, Mistake


def columns(w1, b1, w2, b2, x):
    def hidden(u):
        return F.conv1d(u[:, None], w1[:, None], b1, padding="same")

    def replay(u):
        return F.conv1d(mask * hidden(u), w2[None], b2[None], padding="same").squeeze(1)

    mask = hidden(x[None]) > 0
    deltas, zeros = torch.eye(len(x)).to(x), torch.zeros_like(x)[None]
    return (replay(deltas) - replay(zeros)).T


def first(u, w1, b1):
    """(m n) -> (m c n), before the ReLU."""
    return F.conv1d(u[:, None], w1[:, None], b1, padding="same")


def second(h, w2, b2):
    """(m c n) -> (m n)"""
    return F.conv1d(h, w2[None], b2 if b2 is None else b2[None], padding="same")[:, 0]


def network(w1, b1, w2, b2, u):
    return second(first(u, w1, b1).relu(), w2, b2)


def replayed(w1, b1, w2, b2, mask, u):
    return second(mask * first(u, w1, b1), w2, b2)


def deltas_and_zeros(x):
    return torch.eye(len(x), dtype=x.dtype), torch.zeros(1, len(x), dtype=x.dtype)


def with_mask(w1, b1, w2, b2, mask, x):
    deltas, zeros = deltas_and_zeros(x)
    return (replayed(w1, b1, w2, b2, mask, deltas) - replayed(w1, b1, w2, b2, mask, zeros)).T


def columns_without_biases(w1, b1, w2, b2, x):
    """Without a bias in it, the replay of zeros is zero."""
    return replayed(w1, None, w2, None, first(x[None], w1, b1) > 0, deltas_and_zeros(x)[0]).T


def columns_one_by_one(w1, b1, w2, b2, x):
    mask, made = first(x[None], w1, b1) > 0, []
    r = replayed(w1, b1, w2, b2, mask, torch.zeros_like(x)[None])
    for i in range(len(x)):
        delta = torch.zeros_like(x)
        delta[i] = 1
        made.append(replayed(w1, b1, w2, b2, mask, delta[None]) - r)
    return torch.cat(made).T.contiguous()


def columns_by_derivative(w1, b1, w2, b2, x):
    return torch.autograd.functional.jacobian(lambda u: network(w1, b1, w2, b2, u[None])[0], x)


def columns_with_r(w1, b1, w2, b2, x):
    return replayed(w1, b1, w2, b2, first(x[None], w1, b1) > 0, deltas_and_zeros(x)[0]).T


def columns_of_the_network(w1, b1, w2, b2, x):
    deltas, zeros = deltas_and_zeros(x)
    return (network(w1, b1, w2, b2, deltas) - network(w1, b1, w2, b2, zeros)).T


def columns_less_the_networks_zero(w1, b1, w2, b2, x):
    return columns_with_r(w1, b1, w2, b2, x) - network(w1, b1, w2, b2, torch.zeros_like(x)[None]).T


def columns_of_the_networks_change(w1, b1, w2, b2, x):
    return (network(w1, b1, w2, b2, x + deltas_and_zeros(x)[0]) - network(w1, b1, w2, b2, x[None])).T


def columns_less_the_output(w1, b1, w2, b2, x):
    return columns_with_r(w1, b1, w2, b2, x) - network(w1, b1, w2, b2, x[None]).T


def columns_as_rows(w1, b1, w2, b2, x):
    return columns(w1, b1, w2, b2, x).T


def columns_of_flipped_kernels(w1, b1, w2, b2, x):
    return columns(w1.flip(-1), b1, w2.flip(-1), b2, x)


def columns_frozen_at_zeros(w1, b1, w2, b2, x):
    return columns(w1, b1, w2, b2, torch.zeros_like(x))


def columns_all_gates_open(w1, b1, w2, b2, x):
    return with_mask(w1, b1, w2, b2, 1, x)


def columns_mask_without_bias(w1, b1, w2, b2, x):
    return with_mask(w1, b1, w2, b2, first(x[None], w1, None) > 0, x)


def columns_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, c, k, dtype in [(4, 2, 3, torch.float64), (9, 3, 5, torch.float32), (12, 5, 3, torch.float64)]:
        shapes = [(c, k), (c,), (c, k), (), (n,)]
        drawn.append(tuple(torch.randn(shape, generator=g, dtype=dtype) for shape in shapes))
    return drawn


COLUMNS = Exercise(
    id="linear_interpreters.columns",
    reference=columns,
    alternatives=[columns_without_biases, columns_one_by_one, columns_by_derivative],
    probes=columns_probes,
    mistakes=[
        Mistake(
            "the columns with r in each of them",
            columns_with_r,
            "a replay gives F u + r; what does it give for zeros, and where does that belong?",
        ),
        Mistake(
            "the network run on the deltas",
            columns_of_the_network,
            "a ReLU that nobody froze decides anew at each delta, so that this is no linear map",
        ),
        Mistake(
            "the columns less the network's answer to zeros",
            columns_less_the_networks_zero,
            "at zeros the network opens other gates than at x; r is the replay of zeros",
        ),
        Mistake(
            "the network's own change by a delta",
            columns_of_the_networks_change,
            "a delta of height 1 beside x can close and open gates, which F keeps as they were at x",
        ),
        Mistake(
            "the columns less the output at x",
            columns_less_the_output,
            "the replay of a delta is F u + r, and the output at x is F x + r",
        ),
        Mistake(
            "the columns laid down as rows",
            columns_as_rows,
            "the answer to delta j is column j of F; along which axis do your answers lie?",
        ),
        Mistake(
            "the kernels flipped",
            columns_of_flipped_kernels,
            "torch's convolution does not flip: w[0] weighs the neighbour on the left",
        ),
        Mistake(
            "the network frozen at zeros",
            columns_frozen_at_zeros,
            "the gates are those of x, for the deltas and for the zeros alike",
        ),
        Mistake(
            "the columns with all gates open", columns_all_gates_open, "between the convolutions stands the mask of x"
        ),
        Mistake(
            "the gates decided without the bias",
            columns_mask_without_bias,
            "the ReLU sees the convolution of x with its bias, and decides by that",
        ),
    ],
    hints=[
        "A(u) = F u + r. What is A(u) for a u that is 1 at place j and 0 elsewhere, and what for a u of zeros?",
        "F[:, j] = A(δ_j) − A(0),  A(u) = w2 ⋆ (m ⊙ (w1 ⋆ u + b1)) + b2,  m = (w1 ⋆ x + b1 > 0)",
        'hidden(u): `F.conv1d(…, padding="same")` of u as a batch (m 1 n); the mask from hidden(x); replay(u): the second convolution of mask times hidden(u); the replay of eye(n) less that of zeros; its rows made columns',
    ],
    minutes=15,
    difficulty=3,
    lines=7,
)
