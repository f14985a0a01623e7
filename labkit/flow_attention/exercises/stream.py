"""The exercise on reading: one token of the causal form, from a state that does not grow."""

import torch
from einops import einsum

from labkit.course import Exercise, Mistake

from .draw import features


def stream(Q, K, V, state):
    n, queries, keys, conserved_queries, conserved_keys, competition, memory = state
    n, queries, keys = n + 1, queries + Q, keys + K
    incoming, outgoing = Q @ keys, K @ queries
    conserved_queries = conserved_queries + Q * n / incoming
    conserved_keys = conserved_keys + K * n / outgoing
    conserved_incoming, conserved_outgoing = Q @ conserved_keys / n, K @ conserved_queries / n
    competition = torch.logaddexp(competition, conserved_outgoing)
    memory = memory + torch.outer(K, n * torch.exp(conserved_outgoing - competition) * V)
    out = torch.sigmoid(conserved_incoming) / incoming * (Q @ memory)
    return out, (n, queries, keys, conserved_queries, conserved_keys, competition, memory)


def grown(Q, K, state):
    """The state but for its last two parts, and I, O."""
    n, queries, keys = state[0] + 1, state[1] + Q, state[2] + K
    incoming, outgoing = einsum(Q, keys, "d, d ->"), einsum(K, queries, "d, d ->")
    return (n, queries, keys, state[3] + n / incoming * Q, state[4] + n / outgoing * K), incoming, outgoing


def poured(Q, K, V, sums, incoming, competition, c, memory):
    """Write c times V, read, and hand the state on."""
    memory = memory + einsum(K, c, V, "dk, , dv -> dk dv")
    allocation = torch.sigmoid(einsum(Q, sums[4], "d, d ->") / sums[0])
    return allocation * einsum(Q / incoming, memory, "dk, dk dv -> dv"), (*sums, competition, memory)


def competed(Q, K, V, sums, incoming, state, conserved_outgoing):
    """`poured` with the c of this conserved outgoing flow."""
    both = torch.stack([state[5], conserved_outgoing])
    return poured(Q, K, V, sums, incoming, both.logsumexp(0), sums[0] * both.softmax(0)[1], state[6])


def stream_by_parts(Q, K, V, state):
    sums, incoming, _ = grown(Q, K, state)
    return competed(Q, K, V, sums, incoming, state, K @ sums[3] / sums[0])


def stream_before_it_is_there(Q, K, V, state):
    n, queries, keys = state[0] + 1, state[1], state[2]
    incoming, outgoing = Q @ keys, K @ queries
    sums = n, queries + Q, keys + K, state[3] + Q * n / incoming, state[4] + K * n / outgoing
    return competed(Q, K, V, sums, incoming, state, K @ sums[3] / n)


def stream_reads_before_it_writes(Q, K, V, state):
    _, new = stream(Q, K, V, state)
    return torch.sigmoid(Q @ new[4] / new[0]) / (Q @ new[2]) * (Q @ state[6]), new


def stream_without_allocation(Q, K, V, state):
    _, new = stream(Q, K, V, state)
    return Q @ new[6] / (Q @ new[2]), new


def stream_without_share(Q, K, V, state):
    _, new = stream(Q, K, V, state)
    return torch.sigmoid(Q @ new[4] / new[0]) * (Q @ new[6]), new


def stream_for_one(Q, K, V, state):
    sums, incoming, _ = grown(Q, K, state)
    both = torch.stack([state[5], K @ sums[3] / sums[0]])
    return poured(Q, K, V, sums, incoming, both.logsumexp(0), both.softmax(0)[1], state[6])


def stream_of_sums(Q, K, V, state):
    sums, incoming, _ = grown(Q, K, state)
    out, new = competed(Q, K, V, sums, incoming, state, K @ sums[3])
    return out / torch.sigmoid(Q @ sums[4] / sums[0]) * torch.sigmoid(Q @ sums[4]), new


def stream_of_small_sums(Q, K, V, state):
    sums, incoming, outgoing = grown(Q, K, state)
    sums = *sums[:3], state[3] + Q / incoming, state[4] + K / outgoing
    return competed(Q, K, V, sums, incoming, state, K @ sums[3] / sums[0])


def stream_by_the_others_flow(Q, K, V, state):
    sums, incoming, outgoing = grown(Q, K, state)
    sums = *sums[:3], state[3] + Q * sums[0] / outgoing, state[4] + K * sums[0] / incoming
    return competed(Q, K, V, sums, incoming, state, K @ sums[3] / sums[0])


def stream_without_logarithm(Q, K, V, state):
    sums, incoming, _ = grown(Q, K, state)
    strength = torch.exp(K @ sums[3] / sums[0])
    total = state[5] + strength
    return poured(Q, K, V, sums, incoming, total, sums[0] * strength / total, state[6])


def stream_overflows(Q, K, V, state):
    sums, incoming, _ = grown(Q, K, state)
    conserved_outgoing = K @ sums[3] / sums[0]
    total = torch.log(torch.exp(state[5]) + torch.exp(conserved_outgoing))
    return poured(Q, K, V, sums, incoming, total, sums[0] * torch.exp(conserved_outgoing - total), state[6])


def stream_does_not_count(Q, K, V, state):
    out, new = stream(Q, K, V, state)
    return out, (state[0], *new[1:])


def stream_in_place(Q, K, V, state):
    out, new = stream(Q, K, V, state)
    for old, part in zip(state[1:], new[1:], strict=True):
        old.copy_(part)
    return out, (new[0], *state[1:])


def stream_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    # tokens before this one, d_k, d_v, how large their keys are beside this one's: a new key that is large has a large Ô
    for t, d_k, d_v, size, dtype in [
        (2, 3, 2, 1.0, torch.float64),
        (5, 2, 4, 1.0, torch.float32),
        (0, 3, 5, 1.0, torch.float64),
        (7, 4, 3, 1.0, torch.float64),
        (3, 3, 2, 1e-4, torch.float64),
    ]:
        state = (
            0,
            *torch.zeros(4, d_k, dtype=dtype),
            torch.tensor(-torch.inf, dtype=dtype),
            torch.zeros(d_k, d_v, dtype=dtype),
        )
        Q, K = features(g, t + 1, d_k, dtype), features(g, t + 1, d_k, dtype)
        V = torch.randn(t + 1, d_v, generator=g, dtype=dtype)
        for i in range(t):
            _, state = stream(Q[i], size * K[i], V[i], state)
        drawn.append((Q[t], K[t], V[t], state))
    return drawn


STREAM = Exercise(
    id="flow_attention.stream",
    reference=stream,
    alternatives=[stream_by_parts],
    probes=stream_probes,
    mistakes=[
        Mistake(
            "the flow before the token is there",
            stream_before_it_is_there,
            "i, j ≤ n: the token is a sink and a source of its own flows; what is I for the first token of a text?",
        ),
        Mistake(
            "the token that reads before it writes",
            stream_reads_before_it_writes,
            "j ≤ n: a sink draws on its own source too",
        ),
        Mistake(
            "the token without allocation", stream_without_allocation, "what arrives is multiplied by a_n = σ(Î_n)"
        ),
        Mistake(
            "the token that takes all that comes",
            stream_without_share,
            "a token takes a mean of what was written, φ(q_n) / I_n",
        ),
        Mistake(
            "the competition for one unit",
            stream_for_one,
            "n tokens bring n units; with a plain share of 1, later tokens hardly write at all",
        ),
        Mistake(
            "the conserved flows that grow with the text",
            stream_of_sums,
            "over a text they are means over n tokens and not sums",
        ),
        Mistake(
            "the conserved flows that fade with the text",
            stream_of_small_sums,
            "I_i grows with the number of tokens i that it was summed over, and this is made good in the sum, i / I_i",
        ),
        Mistake(
            "the token divided by its other flow",
            stream_by_the_others_flow,
            "a query is a sink and takes in I; a key is a source and gives out O",
        ),
        Mistake(
            "the competition added without its logarithm",
            stream_without_logarithm,
            "the state holds log Σ exp(Ô); in what form is something added to a sum of which you have the logarithm?",
        ),
        Mistake(
            "the exponentials that overflow",
            stream_overflows,
            "exp(Ô) can be inf where the share is an ordinary number; torch adds two such sums without leaving the logarithm",
        ),
        Mistake("the count that stands still", stream_does_not_count, "the new state has seen one token more"),
        Mistake(
            "the state that is written into",
            stream_in_place,
            "who gave you the state may want to go on from it twice: `+=` and `copy_` change it, `x = x + …` does not",
        ),
    ],
    hints=[
        "Every Σ of the four flows runs to n. Which parts of the state must have this token in them before which flow can be computed?",
        "I = q·Σk, O = k·Σq;  add q n / I and k n / O;  Î = q·Σ(k j / O) / n, Ô = k·Σ(q i / I) / n;  M += kᵀ n exp(Ô − log Σ exp Ô) v;  out = σ(Î) q M / I",
        "n, queries, keys with the token; I and O; the conserved sums with the token; Î and Ô; competition = logaddexp(competition, Ô); memory with the outer product of K and c V; read it with Q",
    ],
    minutes=20,
    difficulty=4,
    lines=10,
)
