"""The exercise on a layer that is used again and again: it decides once at each use."""

import torch

from labkit.course import Exercise, Mistake


def used_twice(W, b, times, x, u):
    for _ in range(times):
        x, u = x @ W.T + b, u @ W.T + b
        x, u = x.relu(), (x > 0) * u
    return u


def masks(W, b, times, x):
    """What each use decides at x, in the order of the calls."""
    found = []
    for _ in range(times):
        z = W @ x + b
        found.append(z > 0)
        x = z.relu()
    return found


def replayed(W, b, decided, u):
    for mask in decided:
        u = mask * (u @ W.T + b)
    return u


def used_twice_from_a_queue(W, b, times, x, u):
    return replayed(W, b, masks(W, b, times, x), u)


def used_twice_as_matrix(W, b, times, x, u):
    matrix, r = torch.eye(len(x)).to(x), torch.zeros_like(x)
    for mask in masks(W, b, times, x):
        matrix, r = mask[:, None] * (W @ matrix), mask * (W @ r + b)
    return u @ matrix.mT + r


def used_twice_by_last_mask(W, b, times, x, u):
    return replayed(W, b, masks(W, b, times, x)[-1:] * times, u)


def used_twice_by_first_mask(W, b, times, x, u):
    return replayed(W, b, masks(W, b, times, x)[:1] * times, u)


def used_twice_backwards(W, b, times, x, u):
    return replayed(W, b, masks(W, b, times, x)[::-1], u)


def used_twice_free(W, b, times, x, u):
    for _ in range(times):
        u = (u @ W.T + b).relu()
    return u


def used_twice_last_use_only(W, b, times, x, u):
    for _ in range(times - 1):
        u = (u @ W.T + b).relu()
    return masks(W, b, times, x)[-1] * (u @ W.T + b)


def used_twice_first_use_only(W, b, times, x, u):
    u = masks(W, b, times, x)[0] * (u @ W.T + b)
    for _ in range(times - 1):
        u = (u @ W.T + b).relu()
    return u


def used_twice_without_bias(W, b, times, x, u):
    return replayed(W, 0, masks(W, b, times, x), u)


def used_twice_masks_without_bias(W, b, times, x, u):
    return replayed(W, b, masks(W, 0, times, x), u)


def used_twice_once(W, b, times, x, u):
    return used_twice(W, b, 1, x, u)


def used_twice_x_without_relu(W, b, times, x, u):
    decided = []
    for _ in range(times):
        x = W @ x + b
        decided.append(x > 0)
    return replayed(W, b, decided, u)


def used_twice_masks_too_early(W, b, times, x, u):
    return replayed(W, b, [x > 0, *masks(W, b, times, x)[:-1]], u)


def used_twice_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for d, n, times, dtype in [(5, 2, 2, torch.float64), (7, 3, 3, torch.float32), (9, 4, 4, torch.float64)]:
        W = 2 * d**-0.5 * torch.randn(d, d, generator=g, dtype=dtype)
        b, x = torch.randn(2, d, generator=g, dtype=dtype)
        drawn.append((W, b, times, x, torch.randn(n, d, generator=g, dtype=dtype)))
    return drawn


USED_TWICE = Exercise(
    id="linear_interpreters.used_twice",
    reference=used_twice,
    alternatives=[used_twice_from_a_queue, used_twice_as_matrix],
    probes=used_twice_probes,
    mistakes=[
        Mistake(
            "the layer that remembers its last use only",
            used_twice_by_last_mask,
            "one ReLU module, but it saw another z at each use: one memory for each call, not for each module",
        ),
        Mistake(
            "the layer that remembers its first use only",
            used_twice_by_first_mask,
            "one ReLU module, but it saw another z at each use: one memory for each call, not for each module",
        ),
        Mistake(
            "the decisions taken from the wrong end",
            used_twice_backwards,
            "the first call of the replay wants what the first call at x decided: a queue, not a stack",
        ),
        Mistake(
            "the replay that decides anew",
            used_twice_free,
            "this is the network at u: a ReLU that nobody froze still looks at its own input",
        ),
        Mistake(
            "the layer frozen at its last use only", used_twice_last_use_only, "the uses before it still decide by u"
        ),
        Mistake(
            "the layer frozen at its first use only", used_twice_first_use_only, "the uses after it still decide by u"
        ),
        Mistake(
            "the replay without biases",
            used_twice_without_bias,
            "this is F u; asked for is A(u) = F u + r, and the biases pass through the gates",
        ),
        Mistake(
            "the gates decided without the bias",
            used_twice_masks_without_bias,
            "the ReLU sees W h + b, and decides by that",
        ),
        Mistake("the layer used once", used_twice_once, "how often does `times` say?"),
        Mistake(
            "the run at x without its ReLUs",
            used_twice_x_without_relu,
            "the second use at x sees what the ReLU of the first one let pass",
        ),
        Mistake(
            "the decisions taken one use too early",
            used_twice_masks_too_early,
            "a use decides by what comes out of W h + b, not by what goes in",
        ),
    ],
    hints=[
        "If x and u go through the layers side by side, what does each use of the layer need to know of x?",
        "x_{i+1} = relu(W x_i + b),  u_{i+1} = (W x_i + b > 0) ⊙ (W u_i + b)",
        "times times: z and u through W and b; u by the mask of z, x the relu of z; return u",
    ],
    minutes=10,
    difficulty=3,
    lines=4,
)
