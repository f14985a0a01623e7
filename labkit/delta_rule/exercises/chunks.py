"""Exercises on the chunkwise form: one chunk from the state before it, and a sequence of chunks with a planted bug."""

import torch
import torch.nn.functional as F

from labkit.course import Exercise, Mistake, call

from .draw import tokens


def chunk_step(q, k, v, beta, state):
    w = beta[:, None] * k
    eye = torch.eye(len(k)).to(k)
    errors = torch.linalg.solve_triangular(eye + (k @ w.T).tril(-1), v - k @ state, upper=False)
    out = q @ state + (q @ w.T).tril() @ errors
    return out, state + w.T @ errors


def chunk_step_by_loop(q, k, v, beta, state):
    out = []
    for q_t, k_t, v_t, beta_t in zip(q, k, v, beta, strict=True):
        state = state + beta_t * torch.outer(k_t, v_t - state.T @ k_t)
        out.append(state.T @ q_t)
    return torch.stack(out), state


def chunk_errors(k, v, beta, state):
    overlap = (k @ k.T * beta).tril(-1)
    return torch.linalg.solve_triangular(torch.eye(len(k)).to(k) + overlap, v - k @ state, upper=False)


def chunk_step_out_without_state(q, k, v, beta, state):
    out, new = chunk_step(q, k, v, beta, state)
    return out - q @ state, new


def chunk_step_reads_before_it_writes(q, k, v, beta, state):
    w, e = beta[:, None] * k, chunk_errors(k, v, beta, state)
    return q @ state + (q @ w.T).tril(-1) @ e, state + w.T @ e


def chunk_step_sees_the_future(q, k, v, beta, state):
    w, e = beta[:, None] * k, chunk_errors(k, v, beta, state)
    return q @ state + q @ w.T @ e, state + w.T @ e


def chunk_step_against_nothing(q, k, v, beta, state):
    w, e = beta[:, None] * k, chunk_errors(k, v, beta, torch.zeros_like(state))
    return q @ state + (q @ w.T).tril() @ e, state + w.T @ e


def chunk_step_without_solving(q, k, v, beta, state):
    w, e = beta[:, None] * k, v - k @ state
    return q @ state + (q @ w.T).tril() @ e, state + w.T @ e


def chunk_step_writes_keys(q, k, v, beta, state):
    e = chunk_errors(k, v, beta, state)
    return q @ state + (q @ k.T).tril() @ e, state + k.T @ e


def chunk_step_starts_anew(q, k, v, beta, state):
    out, new = chunk_step(q, k, v, beta, state)
    return out, new - state


def chunk_step_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, 2, torch.float64), (5, 3, 4, torch.float32), (7, 4, 3, torch.float64)]
    return [
        (*tokens(g, t, d_k, d_v, dtype), torch.randn(d_k, d_v, generator=g, dtype=dtype))
        for t, d_k, d_v, dtype in shapes
    ]


CHUNK_STEP = Exercise(
    id="delta_rule.chunk_step",
    reference=chunk_step,
    alternatives=[chunk_step_by_loop],
    probes=chunk_step_probes,
    mistakes=[
        Mistake(
            "the output that does not see the state",
            chunk_step_out_without_state,
            "what came before the chunk is read too, as Q S",
        ),
        Mistake(
            "the token that reads before it writes",
            chunk_step_reads_before_it_writes,
            "a token reads its own write, so that the diagonal of Q Wᵀ stays",
        ),
        Mistake("the output that sees the future", chunk_step_sees_the_future, "token i reads what j ≤ i have written"),
        Mistake(
            "the error against an empty memory",
            chunk_step_against_nothing,
            "the memory holds something when the chunk begins, so that the values to store are V − K S",
        ),
        Mistake(
            "the chunk whose tokens do not see each other",
            chunk_step_without_solving,
            "V − K S is each token's error before the chunk, and the tokens before it in the chunk have written since",
        ),
        Mistake(
            "the chunk that writes whole errors",
            chunk_step_writes_keys,
            "token j writes β_j k_j e_jᵀ, both into what is read and into the new state",
        ),
        Mistake(
            "the state that starts anew", chunk_step_starts_anew, "the chunk adds to what was in it, S′ = S + Wᵀ E"
        ),
    ],
    hints=[
        "In `errors` the memory was empty before the first token. What changes on the right-hand side if it holds S?",
        "E = (I + M)⁻¹ (V − K S),  O = Q S + tril(Q Wᵀ) E,  S′ = S + Wᵀ E,  with W = diag(β) K and M = tril(K Wᵀ, −1)",
        "w = β k; solve for the errors as in `errors`, with v − k @ state on the right; read the state and the chunk; add to the state",
    ],
    minutes=15,
    difficulty=4,
    lines=5,
)


def continued(q, k, v, beta, chunk):
    state, out = k.new_zeros(k.shape[1], v.shape[1]), torch.zeros_like(v)
    for start in range(0, len(k), chunk):
        rows = slice(start, start + chunk)
        Q, K, V, B = q[rows], k[rows], v[rows], beta[rows, None]
        system = torch.eye(len(K)).to(K) + (B * K @ K.T).tril(-1)
        u = torch.linalg.solve_triangular(system, B * V, upper=False)
        w = torch.linalg.solve_triangular(system, B * K, upper=False)
        u = u - w @ state
        out[rows] = Q @ state + (Q @ K.T).tril() @ u
        state = state + K.T @ u
    return out


def continued_planted_bug(q, k, v, beta, chunk):
    state, out = k.new_zeros(k.shape[1], v.shape[1]), torch.zeros_like(v)
    for start in range(0, len(k), chunk):
        rows = slice(start, start + chunk)
        Q, K, V, B = q[rows], k[rows], v[rows], beta[rows, None]
        system = torch.eye(len(K)).to(K) + (B * K @ K.T).tril(-1)
        u = torch.linalg.solve_triangular(system, B * V, upper=False)
        w = torch.linalg.solve_triangular(system, K, upper=False)
        u = u - w @ state
        out[rows] = Q @ state + (Q @ K.T).tril() @ u
        state = state + K.T @ u
    return out


def continued_with(step, q, k, v, beta, chunk):
    state, out = k.new_zeros(k.shape[1], v.shape[1]), []
    for Q, K, V, B in zip(*(x.split(chunk) for x in (q, k, v, beta)), strict=True):
        o, state = step(Q, K, V, B, state)
        out.append(o)
    return torch.cat(out)


def continued_by_errors(q, k, v, beta, chunk):
    return continued_with(chunk_step, q, k, v, beta, chunk)


def continued_whole_chunks_only(q, k, v, beta, chunk):
    whole = len(k) // chunk * chunk
    return F.pad(continued(q[:whole], k[:whole], v[:whole], beta[:whole], chunk), (0, 0, 0, len(k) - whole))


def continued_padded(q, k, v, beta, chunk):
    out = continued(q, k, v, beta, chunk)
    return F.pad(out, (0, 0, 0, -len(k) % chunk))


def continued_from_nothing(q, k, v, beta, chunk):
    return continued_with(lambda *args: (chunk_step(*args)[0], torch.zeros_like(args[4])), q, k, v, beta, chunk)


def continued_last_chunk_only(q, k, v, beta, chunk):
    return continued_with(chunk_step_starts_anew, q, k, v, beta, chunk)


def continued_against_nothing(q, k, v, beta, chunk):
    return continued_with(chunk_step_against_nothing, q, k, v, beta, chunk)


def continued_strict(q, k, v, beta, chunk):
    return continued_with(chunk_step_reads_before_it_writes, q, k, v, beta, chunk)


def continued_written_too_early(q, k, v, beta, chunk):
    def step(q, k, v, beta, state):
        out, new = chunk_step(q, k, v, beta, state)
        return out + q @ (new - state), new

    return continued_with(step, q, k, v, beta, chunk)


def continued_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [
        (5, 3, 2, 2, torch.float64),
        (7, 3, 5, 3, torch.float32),
        (3, 4, 2, 5, torch.float64),
        (10, 4, 3, 4, torch.float64),
    ]
    return [call(*tokens(g, *shape, dtype), chunk=chunk) for *shape, chunk, dtype in shapes]


CONTINUED = Exercise(
    id="delta_rule.continued",
    reference=continued,
    alternatives=[continued_by_errors],
    probes=continued_probes,
    mistakes=[
        Mistake(
            "the planted bug, still in it",
            continued_planted_bug,
            "the first chunk is right and those after it are not, so what does nothing while the state is zero?",
        ),
        Mistake(
            "the sequence cut to whole chunks",
            continued_whole_chunks_only,
            "the last chunk may be shorter, and its tokens want an output too",
        ),
        Mistake("the output that is filled up", continued_padded, "t tokens go in and t outputs come out"),
        Mistake("the chunk that forgets those before it", continued_from_nothing, "the state goes from chunk to chunk"),
        Mistake("the state of the last chunk alone", continued_last_chunk_only, "a chunk adds to the state, S + Kᵀ U′"),
        Mistake(
            "the value without its correction",
            continued_against_nothing,
            "what the state holds under the chunk's keys must be taken off, U − W S",
        ),
        Mistake("the token that reads before it writes", continued_strict, "the diagonal of Q Kᵀ stays"),
        Mistake(
            "the state handed over too early",
            continued_written_too_early,
            "Q reads the state from before the chunk, as with the new one the chunk is counted twice",
        ),
    ],
    hints=[
        "The first chunk comes out right. What is computed in it and then multiplied by a state that is still zero?",
        "(I + A)⁻¹ diag(β) (V − K S) = U − W S,  with U = (I + A)⁻¹ diag(β) V and W = (I + A)⁻¹ diag(β) K",
        "two systems with the same matrix: compare what stands on the right of the one for u and of the one for w",
    ],
    minutes=15,
    difficulty=4,
    lines=11,
)
