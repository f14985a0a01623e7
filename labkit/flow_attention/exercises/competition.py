"""Exercises on competition: softmax over the sources of a network, and the same at every token of a text so far."""

import torch

from labkit.course import Exercise, Mistake


def compete(conserved_outgoing, clamp):
    return len(conserved_outgoing) * conserved_outgoing.clamp(max=clamp).softmax(0)


def compete_by_exponentials(conserved_outgoing, clamp):
    strength = torch.where(conserved_outgoing > clamp, clamp, conserved_outgoing).exp()
    return strength / strength.mean()


def compete_for_one(conserved_outgoing, clamp):
    return conserved_outgoing.clamp(max=clamp).softmax(0)


def compete_unclamped(conserved_outgoing, clamp):
    return len(conserved_outgoing) * conserved_outgoing.softmax(0)


def compete_clamped_late(conserved_outgoing, clamp):
    return (len(conserved_outgoing) * conserved_outgoing.softmax(0)).clamp(max=clamp)


def compete_clamped_from_below(conserved_outgoing, clamp):
    return len(conserved_outgoing) * conserved_outgoing.clamp(min=clamp).softmax(0)


def compete_each_alone(conserved_outgoing, clamp):
    return conserved_outgoing.clamp(max=clamp).sigmoid()


def compete_without_exponentials(conserved_outgoing, clamp):
    strength = conserved_outgoing.clamp(max=clamp)
    return len(strength) * strength / strength.sum()


def compete_by_worth_twice(conserved_outgoing, clamp):
    return compete(conserved_outgoing, clamp) * conserved_outgoing


def compete_in_place(conserved_outgoing, clamp):
    conserved_outgoing.clamp_(max=clamp)
    return len(conserved_outgoing) * conserved_outgoing.softmax(0)


def compete_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, clamp, dtype in [(2, 1.0, torch.float64), (5, 0.8, torch.float32), (9, 1.5, torch.float64)]:
        offset = 0.1 + torch.rand(n, generator=g, dtype=dtype)
        offset[::2] *= -0.6  # every other one is below the clamp
        drawn.append((clamp + offset[torch.randperm(n, generator=g)], clamp))
    return drawn


COMPETE = Exercise(
    id="flow_attention.compete",
    reference=compete,
    alternatives=[compete_by_exponentials],
    probes=compete_probes,
    mistakes=[
        Mistake(
            "the competition for one unit",
            compete_for_one,
            "their sum is 1 and their mean 1/S; how much is there to compete for, if every source brings 1?",
        ),
        Mistake(
            "the competition without a clamp", compete_unclamped, "what happens to a source whose Ô is above the clamp?"
        ),
        Mistake("the clamp that comes too late", compete_clamped_late, "it is Ô that is cut off, before the softmax"),
        Mistake(
            "the clamp from below",
            compete_clamped_from_below,
            "which sources does your clamp change, the strong or the weak?",
        ),
        Mistake(
            "the gate of each source alone",
            compete_each_alone,
            "one source can win here without another one losing: that is no competition",
        ),
        Mistake("the share without exponentials", compete_without_exponentials, "the competition is a softmax"),
        Mistake("the worth that counts twice", compete_by_worth_twice, "Ô is in the softmax and nowhere else"),
        Mistake("the clamp in place", compete_in_place, "a method that ends in `_` writes into what you were given"),
    ],
    hints=[
        "If all sources are worth the same, each should keep its v as it is. What must c be then, and what does softmax give?",
        "c = S softmax(min(Ô, clamp))",
        "cut Ô off above the clamp; softmax over the sources; times their number",
    ],
    minutes=5,
    difficulty=2,
    lines=1,
)


def running_compete(conserved_outgoing):
    n = torch.arange(1, len(conserved_outgoing) + 1).to(conserved_outgoing)
    return n * torch.exp(conserved_outgoing - conserved_outgoing.logcumsumexp(0))


def running_compete_by_rows(conserved_outgoing):
    t = len(conserved_outgoing)
    future = torch.ones(t, t, dtype=torch.bool).triu(1)
    shares = conserved_outgoing.expand(t, t).masked_fill(future, -torch.inf).softmax(1)
    return shares.diagonal() * torch.arange(1, t + 1)


def running_compete_by_loop(conserved_outgoing):
    total, c = conserved_outgoing.new_tensor(-torch.inf), []
    for n, strength in enumerate(conserved_outgoing, 1):
        total = torch.logaddexp(total, strength)
        c.append(n * torch.exp(strength - total))
    return torch.stack(c)


def running_compete_naive(conserved_outgoing):
    strength = conserved_outgoing.exp()
    return torch.arange(1, len(strength) + 1) * strength / strength.cumsum(0)


def running_compete_from_the_largest(conserved_outgoing):
    strength = (conserved_outgoing - conserved_outgoing.max()).exp()
    return torch.arange(1, len(strength) + 1) * strength / strength.cumsum(0)


def running_compete_sees_the_future(conserved_outgoing):
    return torch.arange(1, len(conserved_outgoing) + 1) * conserved_outgoing.softmax(0)


def running_compete_for_one(conserved_outgoing):
    return torch.exp(conserved_outgoing - conserved_outgoing.logcumsumexp(0))


def running_compete_from_zero(conserved_outgoing):
    return torch.arange(len(conserved_outgoing)) * running_compete_for_one(conserved_outgoing)


def running_compete_for_all(conserved_outgoing):
    return len(conserved_outgoing) * running_compete_for_one(conserved_outgoing)


def running_compete_without_itself(conserved_outgoing):
    none = conserved_outgoing.new_full((1,), -torch.inf)
    before = torch.cat([none, conserved_outgoing.logcumsumexp(0)[:-1]])
    return torch.arange(1, len(conserved_outgoing) + 1) * torch.exp(conserved_outgoing - before)


def running_compete_of_logarithms(conserved_outgoing):
    return torch.arange(1, len(conserved_outgoing) + 1) * torch.exp(conserved_outgoing - conserved_outgoing.cumsum(0))


def running_compete_probes(seed):
    g = torch.Generator().manual_seed(seed)
    sizes = [(4, 1.0, torch.float64), (7, 1.0, torch.float32), (300, 1.0, torch.float64)]
    ordinary = [torch.randn(t, generator=g, dtype=dtype) * size for t, size, dtype in sizes]
    small = torch.randn(5, generator=g, dtype=torch.float64)
    extreme = [small - 1000, small + 1000, torch.cat([small - 1000, small, small + 1000])]
    return [(x,) for x in [*ordinary, *extreme]]


RUNNING_COMPETE = Exercise(
    id="flow_attention.running_compete",
    reference=running_compete,
    alternatives=[running_compete_by_rows, running_compete_by_loop],
    probes=running_compete_probes,
    mistakes=[
        Mistake(
            "the exponentials that overflow",
            running_compete_naive,
            "exp(1000) is inf and exp(−1000) is 0, though their share is an ordinary number: stay with logarithms",
        ),
        Mistake(
            "the early tokens that vanish beside the largest",
            running_compete_from_the_largest,
            "the largest of the whole text may come late and be far above the first tokens, whose sum is then 0",
        ),
        Mistake(
            "the competition with the future",
            running_compete_sees_the_future,
            "token n competes with the tokens up to n; what does your sum run over?",
        ),
        Mistake(
            "the competition for one unit",
            running_compete_for_one,
            "n tokens bring n units to compete for; the first token is alone, and which is the c of the last of n equal ones?",
        ),
        Mistake(
            "the count from zero", running_compete_from_zero, "the first token is one token, and keeps what it brings"
        ),
        Mistake(
            "the competition for the whole text's units",
            running_compete_for_all,
            "at token n only n tokens have been there, and so there are n units",
        ),
        Mistake(
            "the token that competes against those before it",
            running_compete_without_itself,
            "the sum runs over j ≤ n; what is the sum for the first token?",
        ),
        Mistake(
            "the sum of logarithms",
            running_compete_of_logarithms,
            "the logarithm of a sum is wanted, and not the sum of the logarithms",
        ),
    ],
    hints=[
        "c_n is n times a ratio. What is the logarithm of the ratio, and does it need exp(Ô) itself?",
        "c_n = n exp(Ô_n − log Σ_{j≤n} exp(Ô_j))",
        "n = 1 … t; the running log of the sum of exponentials, which torch has (`logcumsumexp`); n times the exponential of the difference",
    ],
    minutes=8,
    difficulty=3,
    lines=2,
)
