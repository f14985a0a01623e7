"""Exercises on the network: the flows of its nodes, and the conserved ones."""

import torch
from einops import reduce

from labkit.course import Exercise, Mistake

from .draw import capacities


def flows(capacity):
    return capacity.sum(1), capacity.sum(0)


def flows_by_name(capacity):
    return reduce(capacity, "L S -> L", "sum"), reduce(capacity, "L S -> S", "sum")


def flows_swapped(capacity):
    return capacity.sum(0), capacity.sum(1)


def flows_of_mean(capacity):
    return capacity.mean(1), capacity.mean(0)


def flows_as_shares(capacity):
    return capacity.sum(1) / capacity.sum(), capacity.sum(0) / capacity.sum()


def flows_with_their_axis(capacity):
    return capacity.sum(1, keepdim=True), capacity.sum(0, keepdim=True)


def flows_of_the_whole(capacity):
    return capacity.sum(), capacity.sum()


def flows_of_the_widest(capacity):
    return capacity.amax(1), capacity.amax(0)


def capacity_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, torch.float64), (5, 4, torch.float32), (3, 7, torch.float64)]
    return [(capacities(g, *shape),) for shape in shapes]


FLOWS = Exercise(
    id="flow_attention.flows",
    reference=flows,
    alternatives=[flows_by_name],
    probes=capacity_probes,
    mistakes=[
        Mistake(
            "the pair the other way round",
            flows_swapped,
            "a row belongs to a sink; what does the sum over a row count?",
        ),
        Mistake("the mean flow", flows_of_mean, "a flow is all that passes through a node, however many pipes it has"),
        Mistake(
            "the flow as a share of the whole",
            flows_as_shares,
            "nothing is normalised yet, so one more source must add to a sink's flow",
        ),
        Mistake("the flow that kept its axis", flows_with_their_axis, "asked for are (L) and (S), one axis each"),
        Mistake(
            "the flow of the whole network", flows_of_the_whole, "each sink has its own flow, and so has each source"
        ),
        Mistake("the widest pipe alone", flows_of_the_widest, "all pipes into a sink count, not only the largest"),
    ],
    hints=[
        "Sink i drinks from S pipes, one from each source. In which row or column of the matrix do their capacities stand?",
        "I_i = Σ_j A_ij  and  O_j = Σ_i A_ij",
        "the sum over the axis of sources (columns); the sum over the axis of sinks (rows)",
    ],
    minutes=4,
    difficulty=1,
    lines=1,
)


def conserve(capacity):
    incoming, outgoing = capacity.sum(1, keepdim=True), capacity.sum(0)
    return (capacity / outgoing).sum(1), (capacity / incoming).sum(0)


def conserve_by_products(capacity):
    return capacity @ (1 / capacity.sum(0)), (1 / capacity.sum(1)) @ capacity


def conserve_by_own_flow(capacity):
    incoming, outgoing = capacity.sum(1, keepdim=True), capacity.sum(0)
    return (capacity / incoming).sum(1), (capacity / outgoing).sum(0)


def conserve_swapped(capacity):
    conserved_incoming, conserved_outgoing = conserve(capacity)
    return conserved_outgoing, conserved_incoming


def conserve_after_the_sum(capacity):
    incoming, outgoing = capacity.sum(1), capacity.sum(0)
    return incoming / outgoing.sum(), outgoing / incoming.sum()


def conserve_by_softmax(capacity):
    return capacity.softmax(0).sum(1), capacity.softmax(1).sum(0)


def conserve_by_means(capacity):
    return (capacity / capacity.mean(0)).sum(1), (capacity / capacity.mean(1, keepdim=True)).sum(0)


def conserve_one_after_the_other(capacity):
    given = capacity / capacity.sum(0)
    return given.sum(1), (given / given.sum(1, keepdim=True)).sum(0)


def conserve_in_place(capacity):
    incoming, outgoing = capacity.sum(1, keepdim=True), capacity.sum(0)
    capacity /= outgoing
    conserved_incoming = capacity.sum(1)
    capacity /= incoming
    return conserved_incoming, capacity.sum(0)


CONSERVE = Exercise(
    id="flow_attention.conserve",
    reference=conserve,
    alternatives=[conserve_by_products],
    probes=capacity_probes,
    mistakes=[
        Mistake(
            "the node divided by its own flow",
            conserve_by_own_flow,
            "every number is 1 and says nothing: whose flow must be 1 so that this node's can differ?",
        ),
        Mistake("the pair the other way round", conserve_swapped, "the first of the two has a number for each sink"),
        Mistake(
            "the division after the sum",
            conserve_after_the_sum,
            "each source has its own flow, so A_ij must be divided before the sources are added up",
        ),
        Mistake(
            "the softmax in place of a share",
            conserve_by_softmax,
            "a capacity is a positive amount already, and its share of a flow takes no exponential",
        ),
        Mistake(
            "the division by a mean",
            conserve_by_means,
            "a source shall give out 1 in all; how much does each of yours give out?",
        ),
        Mistake(
            "the second side normalised after the first",
            conserve_one_after_the_other,
            "both start from the same A: what is divided for one side is not there for the other",
        ),
        Mistake(
            "the capacities divided in place",
            conserve_in_place,
            "`/=` writes into the matrix that you were given, and the second division finds it changed",
        ),
    ],
    hints=[
        "A source that gives out 1 in all splits it among the sinks. Which part of it does sink i get?",
        "Î_i = Σ_j A_ij / O_j  and  Ô_j = Σ_i A_ij / I_i",
        "the two flows as in `flows`; A with each column divided by its source's flow, summed over sources; A with each row divided by its sink's flow, summed over sinks",
    ],
    minutes=8,
    difficulty=2,
    lines=2,
)
