"""The exercise on ranks: how many tokens a model would rather say."""

import torch

from labkit.course import Exercise, Mistake


def rank_of(logits, ids):
    chosen = logits.gather(1, ids[:, None])
    return (logits > chosen).sum(1)


def rank_of_by_rows(logits, ids):
    return torch.stack([(row > row[i]).sum() for row, i in zip(logits, ids, strict=True)])


def rank_of_by_bisection(logits, ids):
    chosen = logits[torch.arange(len(ids)), ids]
    upwards = logits.sort(1).values
    return logits.shape[1] - torch.searchsorted(upwards, chosen[:, None], right=True)[:, 0]


def rank_of_with_itself(logits, ids):
    return (logits >= logits.gather(1, ids[:, None])).sum(1)


def rank_of_from_one(logits, ids):
    return rank_of(logits, ids) + 1


def rank_of_ties_against(logits, ids):
    return rank_of_with_itself(logits, ids) - 1


def rank_of_from_below(logits, ids):
    return (logits < logits.gather(1, ids[:, None])).sum(1)


def rank_of_by_the_order(logits, ids):
    return logits.argsort(dim=1, descending=True, stable=True).gather(1, ids[:, None])[:, 0]


def rank_of_by_the_place(logits, ids):
    return logits.argsort(dim=1, descending=True, stable=True).argsort(1).gather(1, ids[:, None])[:, 0]


def rank_of_by_probabilities(logits, ids):
    return rank_of(logits.softmax(1), ids)


def rank_of_for_each_token(logits, ids):
    return (logits > logits.gather(1, ids[:, None])).sum(0)


def rank_of_among_prompts(logits, ids):
    return (logits[:, ids] > logits.gather(1, ids[:, None]).T).sum(0)


def rank_of_as_share(logits, ids):
    return (logits > logits.gather(1, ids[:, None])).to(logits).mean(1)


def rank_of_sizes(logits, ids):
    return rank_of(logits.abs(), ids)


def rank_of_the_id(logits, ids):
    return (logits > ids[:, None]).sum(1)


def rank_of_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, vocab, dtype in [(3, 7, torch.float64), (4, 9, torch.float32), (5, 12, torch.float64)]:
        logits = 3 * torch.randn(n, vocab, generator=g, dtype=dtype)
        ids = torch.randint(2, vocab - 1, (n,), generator=g)
        row = torch.arange(n)
        for tied in (ids - 2, ids + 1):
            logits[row, tied] = logits[row, ids]
        logits[-1] *= 1000  # so far apart that most probabilities are 0 to every digit
        ids[-1] = logits[-1].argmin()
        drawn.append((logits, ids))
    return drawn


RANK_OF = Exercise(
    id="factual_recall.rank_of",
    reference=rank_of,
    alternatives=[rank_of_by_rows, rank_of_by_bisection],
    probes=rank_of_probes,
    mistakes=[
        Mistake(
            "the rank that counts the token itself",
            rank_of_with_itself,
            "a token is as large as itself, and as its equals; only those strictly larger stand above it",
        ),
        Mistake("the rank counted from one", rank_of_from_one, "how many tokens are larger than the largest one?"),
        Mistake(
            "the rank with ties counted against the token",
            rank_of_ties_against,
            "tokens with the very same logit do not stand above it",
        ),
        Mistake(
            "the rank from the bottom",
            rank_of_from_below,
            "0 is the top: count the larger tokens, not the smaller ones",
        ),
        Mistake(
            "the token at that place of the order",
            rank_of_by_the_order,
            "argsort says which token stands at place i; asked for is the place at which token i stands",
        ),
        Mistake(
            "the place in a sorted list",
            rank_of_by_the_place,
            "a sort has to put equal logits one behind the other; tokens with the very same logit do not stand above it",
        ),
        Mistake(
            "the rank among rounded probabilities",
            rank_of_by_probabilities,
            "the softmax makes every very unlikely token exactly 0, and then they are all equal; compare the logits",
        ),
        Mistake(
            "the count over the wrong axis",
            rank_of_for_each_token,
            "asked for is one number for each row, so which axis is summed over?",
        ),
        Mistake(
            "the rank among the prompts",
            rank_of_among_prompts,
            "a token is compared with the other tokens of its own row, not with itself in other rows",
        ),
        Mistake("the share of tokens above", rank_of_as_share, "asked for is how many tokens, a whole number"),
        Mistake("the rank by size", rank_of_sizes, "a logit far below zero is a low one; its sign counts"),
        Mistake(
            "the logits compared with the token's number",
            rank_of_the_id,
            "ids says where the chosen logit is; what is the logit there?",
        ),
    ],
    hints=[
        "How can you say of each logit of a row whether it is larger than the chosen one of that row?",
        "rank_i = #{j : logits[i, j] > logits[i, ids_i]}",
        "gather the chosen logit of each row as a column (n 1); compare with >; sum over the vocabulary",
    ],
    minutes=4,
    difficulty=1,
    lines=2,
)
