"""The exercise on the linear form: all four flows from the features, and an answer that makes a matrix is found out."""

import functools

import torch
from einops import einsum, reduce
from torch.overrides import TorchFunctionMode

from labkit.course import Exercise, Mistake

from .draw import features
from .flows import conserve, flows


class WholeMatrix(Exception):
    """Somewhere in an answer all capacities exist at once."""


class NoMatrix(TorchFunctionMode):
    """Within, a call of torch that returns a tensor with an axis of L and one of S ends in a WholeMatrix."""

    def __init__(self, n_sinks, n_sources):
        super().__init__()
        self.sizes = sorted((n_sinks, n_sources))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and sorted(n for n in made.shape if n in self.sizes) == self.sizes:
            raise WholeMatrix(f"a tensor {tuple(made.shape)} was made, with an axis of L and one of S")
        return made


def without_matrix(fn):
    """fn(Q, K) that may not make a matrix of L × S; where two of L, S and d are the same, one cannot tell and does not look."""

    @functools.wraps(fn)
    def answer(Q, K):
        if len({len(Q), len(K), Q.shape[-1]}) < 3:
            return fn(Q, K)
        with NoMatrix(len(Q), len(K)):
            return fn(Q, K)

    return answer


def linear_flows(Q, K):
    incoming, outgoing = Q @ K.sum(0), K @ Q.sum(0)
    conserved_incoming = Q @ (K / outgoing[:, None]).sum(0)
    conserved_outgoing = K @ (Q / incoming[:, None]).sum(0)
    return incoming, outgoing, conserved_incoming, conserved_outgoing


def linear_flows_by_name(Q, K):
    incoming = einsum(Q, reduce(K, "S d -> d", "sum"), "L d, d -> L")
    outgoing = einsum(K, reduce(Q, "L d -> d", "sum"), "S d, d -> S")
    given, taken = einsum(K, 1 / outgoing, "S d, S -> d"), einsum(Q, 1 / incoming, "L d, L -> d")
    return incoming, outgoing, einsum(Q, given, "L d, d -> L"), einsum(K, taken, "S d, d -> S")


def linear_flows_by_the_matrix(Q, K):
    capacity = Q @ K.T
    return *flows(capacity), *conserve(capacity)


def linear_flows_of_means(Q, K):
    incoming, outgoing = Q @ K.mean(0), K @ Q.mean(0)
    return incoming, outgoing, Q @ (K / outgoing[:, None]).mean(0), K @ (Q / incoming[:, None]).mean(0)


def linear_flows_multiplied(Q, K):
    incoming, outgoing = Q @ K.sum(0), K @ Q.sum(0)
    return incoming, outgoing, Q @ (K * outgoing[:, None]).sum(0), K @ (Q * incoming[:, None]).sum(0)


def linear_flows_over_features(Q, K):
    incoming, outgoing = Q.sum(1) * K.sum(), K.sum(1) * Q.sum()
    return incoming, outgoing, Q.sum(1) * (K.sum(1) / outgoing).sum(), K.sum(1) * (Q.sum(1) / incoming).sum()


def linear_flows_by_own_flow(Q, K):
    incoming, outgoing = Q @ K.sum(0), K @ Q.sum(0)
    return incoming, outgoing, (Q / incoming[:, None]) @ K.sum(0), (K / outgoing[:, None]) @ Q.sum(0)


def linear_flows_divided_late(Q, K):
    incoming, outgoing = Q @ K.sum(0), K @ Q.sum(0)
    return incoming, outgoing, Q @ (K.sum(0) / outgoing.sum()), K @ (Q.sum(0) / incoming.sum())


def linear_flows_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(4, 3, 2, torch.float64), (5, 7, 3, torch.float32), (8, 6, 5, torch.float64), (31, 47, 4, torch.float64)]
    return [
        (features(g, n_sinks, d, dtype), features(g, n_sources, d, dtype)) for n_sinks, n_sources, d, dtype in shapes
    ]


LINEAR_FLOWS = Exercise(
    id="flow_attention.linear_flows",
    reference=linear_flows,
    through=without_matrix,
    alternatives=[linear_flows_by_name],
    probes=linear_flows_probes,
    mistakes=[
        Mistake(
            "the matrix after all",
            linear_flows_by_the_matrix,
            "L × S numbers are what we want to be rid of, so the features of one side must be summed first",
        ),
        Mistake("the means in place of sums", linear_flows_of_means, "I_i = Σ_j A_ij has no number of tokens in it"),
        Mistake(
            "the flow multiplied in",
            linear_flows_multiplied,
            "a source that gives out 1 in all is one that was divided by its flow",
        ),
        Mistake(
            "the features added up",
            linear_flows_over_features,
            "the axis of tokens can be summed before the product, and the axis d only in it: Σ_d q_d k_d is no product of sums",
        ),
        Mistake(
            "the node divided by its own flow",
            linear_flows_by_own_flow,
            "every conserved flow is 1; it is the other side's features that are divided",
        ),
        Mistake(
            "the division after the sum",
            linear_flows_divided_late,
            "each token is divided by its own flow before it goes into the sum",
        ),
    ],
    hints=[
        "Σ_j q_i · k_j has one q_i in it. What can be taken out of the sum?",
        "I_i = q_i · Σ_j k_j,  Î_i = q_i · Σ_j k_j / O_j,  and the same for O and Ô with the roles swapped",
        "Q times the sum of the rows of K, and K times that of Q; then the same two products with every row divided by its own flow before it is summed",
    ],
    minutes=10,
    difficulty=3,
    lines=4,
)
