"""The exercise on what the flows are for: the weight with which a sink takes from a source."""

import torch
from einops import einsum

from labkit.course import Exercise, Mistake

from .competition import compete
from .draw import capacities


def weigh(capacity, clamp):
    L, S = capacity.shape
    incoming, outgoing = capacity.sum(1, keepdim=True), capacity.sum(0)
    allocation = torch.sigmoid((capacity / outgoing).sum(1, keepdim=True) * L / S)
    competition = S * (capacity / incoming).sum(0).clamp(max=clamp).softmax(0)
    return allocation * capacity / incoming * competition


def parts(capacity, clamp):
    """a, A / I and c."""
    shared, given = capacity / capacity.sum(1, keepdim=True), capacity / capacity.sum(0)
    L, S = capacity.shape
    return torch.sigmoid(L / S * given.sum(1)), shared, compete(shared.sum(0), clamp)


def weigh_by_parts(capacity, clamp):
    return einsum(*parts(capacity, clamp), "L, L S, S -> L S")


def weigh_unscaled(capacity, clamp):
    _, shared, c = parts(capacity, clamp)
    return torch.sigmoid((capacity / capacity.sum(0)).sum(1, keepdim=True)) * shared * c


def weigh_scaled_the_wrong_way(capacity, clamp):
    _, shared, c = parts(capacity, clamp)
    S_L = capacity.shape[1] / capacity.shape[0]
    return torch.sigmoid((capacity / capacity.sum(0)).sum(1, keepdim=True) * S_L) * shared * c


def weigh_of_given(capacity, clamp):
    a, _, c = parts(capacity, clamp)
    return a[:, None] * capacity / capacity.sum(0) * c


def weigh_without_competition(capacity, clamp):
    a, shared, _ = parts(capacity, clamp)
    return a[:, None] * shared


def weigh_without_allocation(capacity, clamp):
    _, shared, c = parts(capacity, clamp)
    return shared * c


def weigh_by_raw_flows(capacity, clamp):
    _, shared, _ = parts(capacity, clamp)
    L, S = capacity.shape
    return torch.sigmoid(capacity.sum(1, keepdim=True) * L / S) * shared * compete(capacity.sum(0), clamp)


def weigh_allocated_by_softmax(capacity, clamp):
    _, shared, c = parts(capacity, clamp)
    return len(capacity) * (capacity / capacity.sum(0)).sum(1, keepdim=True).softmax(0) * shared * c


def weigh_clamped_on_both_sides(capacity, clamp):
    _, shared, c = parts(capacity, clamp)
    L, S = capacity.shape
    return torch.sigmoid((capacity / capacity.sum(0)).sum(1, keepdim=True).clamp(max=clamp) * L / S) * shared * c


def weigh_not_shared(capacity, clamp):
    a, _, c = parts(capacity, clamp)
    return a[:, None] * capacity * c


def weigh_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, torch.float64), (5, 4, torch.float32), (3, 7, torch.float64), (8, 3, torch.float64)]
    # Ô has the mean L / S: with such a clamp some sources are above it and some below
    return [(capacities(g, L, S, dtype), 0.9 * L / S) for L, S, dtype in shapes]


WEIGH = Exercise(
    id="flow_attention.weigh",
    reference=weigh,
    alternatives=[weigh_by_parts],
    probes=weigh_probes,
    mistakes=[
        Mistake(
            "the allocation that depends on how many sources there are",
            weigh_unscaled,
            "the Î of all sinks sum to S, so what is their mean, and with which factor is it 1?",
        ),
        Mistake(
            "the allocation scaled the wrong way",
            weigh_scaled_the_wrong_way,
            "the mean of Î is S/L already; does your factor bring it to 1?",
        ),
        Mistake(
            "the shares of what a source gives",
            weigh_of_given,
            "a sink takes a mean of what reaches it, so whose flow does A_ij go into?",
        ),
        Mistake("the network without competition", weigh_without_competition, "column j wants its c_j"),
        Mistake("the network without allocation", weigh_without_allocation, "row i wants its a_i"),
        Mistake(
            "the network whose flows are not conserved",
            weigh_by_raw_flows,
            "a and c are made of the flows with hats, those of `conserve`",
        ),
        Mistake(
            "the sinks that compete too",
            weigh_allocated_by_softmax,
            "an allocation is each sink's own: one sink can gain here without another one losing",
        ),
        Mistake(
            "the clamp on both sides", weigh_clamped_on_both_sides, "only what the sources compete with is cut off"
        ),
        Mistake("the capacities not shared", weigh_not_shared, "without a and c, what should a row of weights sum to?"),
    ],
    hints=[
        "Three factors make a weight: one for the row, one for the column, one for both. Which of them is which?",
        "W_ij = a_i (A_ij / I_i) c_j,  a = σ(Î L/S),  c = S softmax(min(Ô, clamp))",
        "conserved flows as in `conserve`; a as a column, from those of the sinks; c as a row, as in `compete`; a times A over its row sums times c",
    ],
    minutes=12,
    difficulty=3,
    lines=5,
)
