"""The exercise on two layers: F and r of their map F u + r, written out."""

import torch

from labkit.course import Exercise, Mistake


def two_layers(W1, b1, W2, b2, x):
    mask = W1 @ x + b1 > 0
    return W2 * mask @ W1, W2 @ (mask * b1) + b2


def two_layers_by_difference(W1, b1, W2, b2, x):
    h = W1 @ x + b1
    matrix = W2 @ torch.diag((h > 0).to(h)) @ W1
    return matrix, W2 @ h.relu() + b2 - matrix @ x


def two_layers_of_units_that_are_on(W1, b1, W2, b2, x):
    on = (W1 @ x > -b1).nonzero().flatten()
    return W2[:, on] @ W1[on], W2[:, on] @ b1[on] + b2


def on(W1, b1, x):
    return W1 @ x + b1 > 0


def two_layers_at_nothing(W1, b1, W2, b2, x):
    return two_layers(W1, b1, W2, b2, x)[0], W2 @ b1.relu() + b2


def two_layers_last_bias(W1, b1, W2, b2, x):
    return two_layers(W1, b1, W2, b2, x)[0], b2.clone()


def two_layers_first_bias(W1, b1, W2, b2, x):
    return two_layers(W1, b1, W2, b2, x)[0], W2 @ (on(W1, b1, x) * b1)


def two_layers_all_biases(W1, b1, W2, b2, x):
    return two_layers(W1, b1, W2, b2, x)[0], W2 @ b1 + b2


def two_layers_mask_without_bias(W1, b1, W2, b2, x):
    mask = on(W1, 0, x)
    return W2 * mask @ W1, W2 @ (mask * b1) + b2


def two_layers_without_mask(W1, b1, W2, b2, x):
    return W2 @ W1, W2 @ (on(W1, b1, x) * b1) + b2


def two_layers_linear(W1, b1, W2, b2, x):
    return W2 @ W1, W2 @ b1 + b2


def two_layers_transposed(W1, b1, W2, b2, x):
    matrix, r = two_layers(W1, b1, W2, b2, x)
    return matrix.T, r


def two_layers_of_values(W1, b1, W2, b2, x):
    return W2 * (W1 @ x + b1).relu() @ W1, two_layers(W1, b1, W2, b2, x)[1]


def two_layers_output(W1, b1, W2, b2, x):
    return two_layers(W1, b1, W2, b2, x)[0], W2 @ (W1 @ x + b1).relu() + b2


def two_layers_swapped(W1, b1, W2, b2, x):
    return two_layers(W1, b1, W2, b2, x)[::-1]


def two_layers_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for ins, hidden, outs, dtype in [(3, 6, 2, torch.float64), (5, 11, 3, torch.float32), (4, 16, 4, torch.float64)]:
        shapes = [(hidden, ins), (hidden,), (outs, hidden), (outs,), (ins,)]
        drawn.append(tuple(torch.randn(shape, generator=g, dtype=dtype) for shape in shapes))
    return drawn


TWO_LAYERS = Exercise(
    id="linear_interpreters.two_layers",
    reference=two_layers,
    alternatives=[two_layers_by_difference, two_layers_of_units_that_are_on],
    probes=two_layers_probes,
    mistakes=[
        Mistake(
            "the network's answer to zeros as r",
            two_layers_at_nothing,
            "an input of zeros opens other gates; which gates does r have to pass through?",
        ),
        Mistake(
            "the last bias alone as r", two_layers_last_bias, "b1 goes through the open gates and W2 to the output too"
        ),
        Mistake("the offset without the last bias", two_layers_first_bias, "which bias is added after all gates?"),
        Mistake(
            "the bias that passes closed gates",
            two_layers_all_biases,
            "a unit that is off passes nothing on, its bias no more than its input",
        ),
        Mistake(
            "the gates decided without the bias",
            two_layers_mask_without_bias,
            "the ReLU sees W1 x + b1, and decides by that",
        ),
        Mistake(
            "the matrix of all gates open",
            two_layers_without_mask,
            "a unit that is off carries nothing from any input to any output",
        ),
        Mistake("the network without its ReLU", two_layers_linear, "between the two matrices stands a mask, from x"),
        Mistake(
            "the matrix lying on its side",
            two_layers_transposed,
            "F u must be an output: a row for each output and a column for each input",
        ),
        Mistake(
            "the mask that keeps how far open a gate was",
            two_layers_of_values,
            "a ReLU has two slopes, 0 and 1; which numbers does your mask hold?",
        ),
        Mistake(
            "the whole output as r",
            two_layers_output,
            "F x + r is the output at x; what is left of it once F x is taken away?",
        ),
        Mistake("the pair the other way round", two_layers_swapped, "asked for is (F, r)"),
    ],
    hints=[
        "With its gates stuck, the ReLU is a diagonal matrix. What is W2 · diagonal · (W1 u + b1) + b2 once you multiply it out?",
        "F = W2 M W1,  r = W2 M b1 + b2,  M = diag(W1 x + b1 > 0)",
        "mask of W1 x + b1, one entry for each hidden unit; W2 with its columns times the mask, times W1; W2 times the masked b1, plus b2",
    ],
    minutes=10,
    difficulty=2,
    lines=2,
)
