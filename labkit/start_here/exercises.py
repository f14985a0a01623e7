"""The first exercise, in one line: which token comes next."""

import torch

from labkit.course import Exercise, Mistake


def next_token(logits):
    return int(logits[-1].argmax())


def next_token_by_sorting(logits):
    return logits[-1].argsort(descending=True)[0].item()


def next_token_of_the_first(logits):
    return int(logits[0].argmax())


def next_token_of_all(logits):
    return int(logits.argmax())


def next_token_least_likely(logits):
    return int(logits[-1].argmin())


def next_token_value(logits):
    return float(logits[-1].max())


def next_token_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(2, 5, torch.float32), (4, 3, torch.float64), (6, 9, torch.float32)]
    return [
        (
            torch.randn(t, v, generator=g, dtype=dtype)
            .index_fill(0, torch.tensor([0]), 0)
            .add(torch.randn(v, generator=g, dtype=dtype)),
        )
        for t, v, dtype in shapes
    ]


EXERCISES = (
    Exercise(
        id="start_here.next_token",
        reference=next_token,
        alternatives=[next_token_by_sorting],
        probes=next_token_probes,
        mistakes=[
            Mistake(
                "what follows the first token",
                next_token_of_the_first,
                "the last row of the logits speaks about what comes next",
            ),
            Mistake(
                "the largest logit of all rows together",
                next_token_of_all,
                "look at one row only, and return its column",
            ),
            Mistake("the least likely token", next_token_least_likely, "argmax, not argmin"),
            Mistake(
                "the logit itself, not the token's id", next_token_value, "the place of the largest logit, not its size"
            ),
        ],
        hints=[
            "Row i of the logits rates every candidate for place i + 1. Which row speaks about what comes next?",
            "next = argmax over v of logits[t − 1, v]",
            "take the last row, find the place of its largest entry, make it an int",
        ],
        minutes=2,
        difficulty=1,
        lines=1,
    ),
)
