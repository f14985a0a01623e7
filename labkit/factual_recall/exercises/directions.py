"""The exercise on directions: what the unembedding of an answer has and that of all tokens has not."""

import torch
import torch.nn.functional as F

from labkit.course import Exercise, Mistake


def direction(W_U, answer):
    return W_U[answer] - W_U.mean(0)


def direction_by_matrix(W_U, answer):
    weights = torch.full_like(W_U[:, 0], -1 / len(W_U))
    weights[answer] += 1
    return weights @ W_U


def direction_centred_first(W_U, answer):
    centred = W_U - W_U.mean(0, keepdim=True)
    return centred[answer].clone()


def direction_uncentred(W_U, answer):
    return W_U[answer].clone()


def direction_centred_by_row(W_U, answer):
    return W_U[answer] - W_U[answer].mean()


def direction_less_one_number(W_U, answer):
    return W_U[answer] - W_U.mean()


def direction_from_its_neighbour(W_U, answer):
    return W_U[answer] - W_U[answer - 1]


def direction_from_the_others(W_U, answer):
    return W_U[answer] - (W_U.sum(0) - W_U[answer]) / (len(W_U) - 1)


def direction_backwards(W_U, answer):
    return W_U.mean(0) - W_U[answer]


def direction_less_the_sum(W_U, answer):
    return W_U[answer] - W_U.sum(0)


def direction_of_unit_length(W_U, answer):
    return F.normalize(direction(W_U, answer), dim=0)


def direction_scored(W_U, answer):
    return direction(W_U, answer) / W_U.std(0)


def direction_by_median(W_U, answer):
    return W_U[answer] - W_U.median(0).values


def direction_of_the_mean(W_U, answer):
    return W_U.mean(0)


def direction_of_the_token_before(W_U, answer):
    return direction(W_U, answer - 1)


def direction_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for vocab, d, dtype in [(5, 3, torch.float64), (8, 6, torch.float32), (7, 11, torch.float64)]:
        W_U = 0.5 + torch.randn(vocab, d, generator=g, dtype=dtype)
        drawn.append((W_U, int(torch.randint(vocab, (), generator=g))))
    return drawn


DIRECTION = Exercise(
    id="factual_recall.direction",
    reference=direction,
    alternatives=[direction_by_matrix, direction_centred_first],
    probes=direction_probes,
    mistakes=[
        Mistake(
            "the direction that is not centred",
            direction_uncentred,
            "a push that raises all tokens alike changes no probability, and an RMSNorm lets it pass; what do all tokens share?",
        ),
        Mistake(
            "the centre taken over the coordinates",
            direction_centred_by_row,
            "what is shared is a vector: the mean over the tokens, for each coordinate",
        ),
        Mistake(
            "the centre that is one number",
            direction_less_one_number,
            "what is shared is a vector: the mean over the tokens, for each coordinate",
        ),
        Mistake(
            "the answer held against one other token",
            direction_from_its_neighbour,
            "the mean is over the whole vocabulary",
        ),
        Mistake(
            "the mean of the other tokens",
            direction_from_the_others,
            "the mean is over the whole vocabulary, and the answer is in it",
        ),
        Mistake("the direction away from the answer", direction_backwards, "which way does the answer's logit rise?"),
        Mistake("the sum taken for the mean", direction_less_the_sum, "the directions of all tokens must sum to zero"),
        Mistake(
            "the direction made of length one",
            direction_of_unit_length,
            "its length belongs to the logit: the product with it must be the logit less the mean logit",
        ),
        Mistake(
            "the direction in units of spread",
            direction_scored,
            "the product with it must be the logit less the mean logit; nothing is divided",
        ),
        Mistake(
            "the median taken for the mean",
            direction_by_median,
            "the product with it must be the logit less the mean logit, and a median is not linear",
        ),
        Mistake("what all tokens share", direction_of_the_mean, "asked for is what the answer has and they do not"),
        Mistake(
            "the direction of the token before", direction_of_the_token_before, "token ids count from 0, as rows do"
        ),
    ],
    hints=[
        "Which vector raises all tokens alike, and what is left of the answer's unembedding without it?",
        "w = W_U[answer] − (1 / vocab) Σ_v W_U[v]",
        "the row of W_U that answer names, less the mean of W_U over its rows",
    ],
    minutes=3,
    difficulty=1,
    lines=1,
)
