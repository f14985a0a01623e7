"""Exercises on one token: write it, see the gradient in that, and how far a step may go."""

import torch

from labkit.course import Exercise, Mistake

from .draw import tokens


def step(state, k, v, beta):
    error = v - state.T @ k
    return state + beta * torch.outer(k, error)


def step_by_reflection(state, k, v, beta):
    eye = torch.eye(len(k), dtype=k.dtype)
    return (eye - beta * torch.outer(k, k)) @ state + beta * torch.outer(k, v)


def step_that_only_adds(state, k, v, beta):
    return state + beta * torch.outer(k, v)


def step_from_the_wrong_side(state, k, v, beta):
    return state + beta * torch.outer(k, v - state @ k)


def step_erases_all(state, k, v, beta):
    return state - torch.outer(k, state.T @ k) + beta * torch.outer(k, v)


def step_writes_all(state, k, v, beta):
    return state - beta * torch.outer(k, state.T @ k) + torch.outer(k, v)


def step_on_its_side(state, k, v, beta):
    return state + beta * torch.outer(v - state.T @ k, k)


def step_with_beta_twice(state, k, v, beta):
    error = beta * (v - state.T @ k)
    return state + beta * torch.outer(k, error)


def step_uphill(state, k, v, beta):
    return state - beta * torch.outer(k, v - state.T @ k)


def step_in_place(state, k, v, beta):
    state += beta * torch.outer(k, v - state.T @ k)
    return state


def step_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 3, torch.float64), (2, 4, torch.float32), (5, 3, torch.float64)]
    drawn = [
        (*tokens(g, 1, d_k, d_v, dtype), torch.randn(d_k, d_v, generator=g, dtype=dtype)) for d_k, d_v, dtype in shapes
    ]
    return [(state, k[0], v[0], beta[0]) for _, k, v, beta, state in drawn]


STEP = Exercise(
    id="delta_rule.step",
    reference=step,
    alternatives=[step_by_reflection],
    probes=step_probes,
    mistakes=[
        Mistake(
            "the memory that only adds",
            step_that_only_adds,
            "it never erases; write the difference to what the memory holds under k, v − Sᵀk, and not v",
        ),
        Mistake(
            "the memory read from the wrong side",
            step_from_the_wrong_side,
            "rows of S belong to k and columns to v, so that what it holds under k is Sᵀk",
        ),
        Mistake(
            "the update that erases all and writes a part",
            step_erases_all,
            "beta scales the whole error, what is erased as well as what is written",
        ),
        Mistake(
            "the update that erases a part and writes all",
            step_writes_all,
            "beta scales the whole error, what is written as well as what is erased",
        ),
        Mistake(
            "the state lying on its side", step_on_its_side, "S is (d_k d_v), so the key comes first in the product"
        ),
        Mistake("the update with beta in it twice", step_with_beta_twice, "beta scales the error once"),
        Mistake("the step uphill", step_uphill, "after it the error is larger, so look at its sign"),
        Mistake("the update in place", step_in_place, "`+=` writes into the state that you were given"),
    ],
    hints=[
        "What does the memory hold under k already, and by how much is that wrong?",
        "e = v − Sᵀ k;  S ← S + β k eᵀ",
        "read the memory at k; subtract that from v; add beta times the outer product of k and the difference",
    ],
    minutes=6,
    difficulty=1,
    lines=2,
)


def gradient(state, k, v):
    error = v - state.T @ k
    return -torch.outer(k, error)


def gradient_by_autograd(state, k, v):
    return torch.func.grad(lambda S: 0.5 * (S.T @ k - v).square().sum())(state)


def gradient_downhill(state, k, v):
    return torch.outer(k, v - state.T @ k)


def gradient_without_the_half(state, k, v):
    return 2 * torch.outer(k, state.T @ k - v)


def gradient_of_an_empty_memory(state, k, v):
    return -torch.outer(k, v)


def gradient_on_its_side(state, k, v):
    return torch.outer(state.T @ k - v, k)


def gradient_of_what_was_read(state, k, v):
    return state.T @ k - v


def gradient_probes(seed):
    return [(state, k, v) for state, k, v, _ in step_probes(seed)]


GRADIENT = Exercise(
    id="delta_rule.gradient",
    reference=gradient,
    alternatives=[gradient_by_autograd],
    probes=gradient_probes,
    mistakes=[
        Mistake(
            "the way downhill",
            gradient_downhill,
            "the gradient points to where the loss grows, and a step goes against it",
        ),
        Mistake(
            "the gradient of the square without its half",
            gradient_without_the_half,
            "the ½ takes away the 2 of the derivative",
        ),
        Mistake(
            "the gradient of an empty memory",
            gradient_of_an_empty_memory,
            "the error is measured from what the memory holds, Sᵀk, and not from zero",
        ),
        Mistake("the gradient lying on its side", gradient_on_its_side, "it has the shape of S, (d_k d_v)"),
        Mistake(
            "the gradient with respect to what was read",
            gradient_of_what_was_read,
            "the chain rule has one more factor; how does Sᵀk change with S?",
        ),
    ],
    hints=[
        "If one entry S[i, j] grows a little, which entry of Sᵀk changes, and by how much?",
        "∂/∂S[i, j] ½‖Sᵀk − v‖² = k[i] (Sᵀk − v)[j]",
        "the error as in `step`; minus the outer product of k and the error",
    ],
    minutes=6,
    difficulty=2,
    lines=2,
)


def largest_beta(k):
    return 2 / k.square().sum(-1).max()


def largest_beta_of_each(k):
    return torch.stack([2 / (key @ key) for key in k]).amin()


def largest_beta_stops_at_erasing(k):
    return 1 / k.square().sum(-1).max()


def largest_beta_of_the_length(k):
    return 2 / k.norm(dim=-1).max()


def largest_beta_of_the_shortest(k):
    return 2 / k.square().sum(-1).min()


def largest_beta_of_the_mean(k):
    return 2 / k.square().sum(-1).mean()


def largest_beta_of_all_together(k):
    return 2 / k.square().sum()


def largest_beta_of_one_batch(k):
    return 2 / torch.linalg.matrix_norm(k, 2).square()


def largest_beta_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 3, torch.float64), (5, 4, torch.float32), (9, 7, torch.float64)]
    drawn = [tokens(g, t, d, 1, dtype) for t, d, dtype in shapes]
    return [(k * beta[:, None],) for _, k, _, beta in drawn]


LARGEST_BETA = Exercise(
    id="delta_rule.largest_beta",
    reference=largest_beta,
    alternatives=[largest_beta_of_each],
    probes=largest_beta_probes,
    mistakes=[
        Mistake(
            "the beta that erases exactly",
            largest_beta_stops_at_erasing,
            "1 − β‖k‖² = 0 is allowed, and so is all down to −1",
        ),
        Mistake("the length that is not squared", largest_beta_of_the_length, "the factor is 1 − β‖k‖²"),
        Mistake("the beta of the shortest key", largest_beta_of_the_shortest, "which key allows the least?"),
        Mistake("the beta of a mean key", largest_beta_of_the_mean, "one key that is too long is enough to overshoot"),
        Mistake("the beta of all keys as one", largest_beta_of_all_together, "each step has one key and its own sum"),
        Mistake(
            "the beta for all keys in one step",
            largest_beta_of_one_batch,
            "tokens are written one after another, and each step has its own factor",
        ),
    ],
    hints=[
        "After the step, the error under k is what number times the error before?",
        "e ← (1 − β‖k‖²) e,  and −1 ≤ 1 − β‖k‖² ≤ 1 for every key",
        "each key's squared length; the largest of them; 2 divided by it",
    ],
    minutes=5,
    difficulty=2,
    lines=1,
)
