"""Exercises on what the numbers mean: perplexity, and a softmax with a sink logit."""

import torch

from labkit.course import Exercise, Mistake


def perplexity(logits, ids):
    log_p = logits[:-1].log_softmax(-1)
    return log_p.gather(-1, ids[1:, None]).mean().neg().exp()


def perplexity_by_cross_entropy(logits, ids):
    return torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).exp()


def perplexity_unshifted(logits, ids):
    return logits.log_softmax(-1).gather(-1, ids[:, None]).mean().neg().exp()


def perplexity_shifted_back(logits, ids):
    return logits[1:].log_softmax(-1).gather(-1, ids[:-1, None]).mean().neg().exp()


def perplexity_mean_of_each(logits, ids):
    return logits[:-1].log_softmax(-1).gather(-1, ids[1:, None]).neg().exp().mean()


def perplexity_in_nats(logits, ids):
    return logits[:-1].log_softmax(-1).gather(-1, ids[1:, None]).mean().neg()


def perplexity_of_the_sum(logits, ids):
    return logits[:-1].log_softmax(-1).gather(-1, ids[1:, None]).sum().neg().exp()


def perplexity_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, torch.float64), (5, 7, torch.float32), (9, 3, torch.float64)]
    return [
        (torch.randn(t, v, generator=g, dtype=dtype) * 2, torch.randint(v, (t,), generator=g)) for t, v, dtype in shapes
    ]


PERPLEXITY = Exercise(
    id="attention_sinks.perplexity",
    reference=perplexity,
    alternatives=[perplexity_by_cross_entropy],
    probes=perplexity_probes,
    mistakes=[
        Mistake(
            "the perplexity of the tokens just read", perplexity_unshifted, "logits[i] predicts ids[i + 1], not ids[i]"
        ),
        Mistake(
            "the shift in the wrong direction", perplexity_shifted_back, "drop the last row of logits and the first id"
        ),
        Mistake(
            "the mean of every token's own perplexity",
            perplexity_mean_of_each,
            "average the losses first, exponentiate last",
        ),
        Mistake("the loss in nats, not the perplexity", perplexity_in_nats, "perplexity is exp of the mean loss"),
        Mistake(
            "the perplexity of the whole text as one draw", perplexity_of_the_sum, "the mean over tokens, not the sum"
        ),
    ],
    hints=[
        "Which token does row i of the logits speak about?",
        "perplexity = exp( − mean over i of ln p(ids[i+1] | ids[≤ i]) )",
        "log_softmax of all rows but the last; pick the column of each next id; mean, minus, exp",
    ],
    minutes=8,
    difficulty=2,
    lines=2,
)


def softmax_with_sink(scores, sink):
    m = torch.maximum(scores.amax(-1, keepdim=True), sink[:, None, None])
    weights = (scores - m).exp()
    return weights / (weights.sum(-1, keepdim=True) + (sink[:, None, None] - m).exp())


def softmax_with_sink_by_column(scores, sink):
    column = sink[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1]


def softmax_with_sink_by_logsumexp(scores, sink):
    total = torch.logaddexp(scores.logsumexp(-1, keepdim=True), sink[:, None, None])
    return (scores - total).exp()


def softmax_with_sink_ignored(scores, sink):
    return scores.softmax(-1)


def softmax_with_sink_of_zero(scores, sink):
    return softmax_with_sink(scores, torch.zeros_like(sink))


def softmax_with_sink_not_exponentiated(scores, sink):
    m = scores.amax(-1, keepdim=True)
    weights = (scores - m).exp()
    return weights / (weights.sum(-1, keepdim=True) + sink[:, None, None])


def softmax_with_sink_unshifted(scores, sink):
    m = scores.amax(-1, keepdim=True)
    weights = (scores - m).exp()
    return weights / (weights.sum(-1, keepdim=True) + sink[:, None, None].exp())


def softmax_with_sink_overflowing(scores, sink):
    weights = scores.exp()
    return weights / (weights.sum(-1, keepdim=True) + sink[:, None, None].exp())


def softmax_with_sink_renormalised(scores, sink):
    pattern = softmax_with_sink(scores, sink)
    return pattern / pattern.sum(-1, keepdim=True).clamp(min=0.5)


def softmax_with_sink_probes(seed):
    g = torch.Generator().manual_seed(seed)

    def draw(h, i, j, dtype, size):
        return torch.randn(h, i, j, generator=g, dtype=dtype) * size, torch.randn(h, generator=g, dtype=dtype) * 2

    large = draw(2, 3, 5, torch.float32, 2)
    return [
        draw(2, 1, 2, torch.float64, 1),
        draw(3, 4, 5, torch.float64, 2),
        draw(2, 5, 3, torch.float32, 2),
        (large[0] + 200, large[1] + 201),
    ]


SOFTMAX_WITH_SINK = Exercise(
    id="attention_sinks.softmax_with_sink",
    reference=softmax_with_sink,
    alternatives=[softmax_with_sink_by_column, softmax_with_sink_by_logsumexp],
    probes=softmax_with_sink_probes,
    mistakes=[
        Mistake(
            "the plain softmax", softmax_with_sink_ignored, "the sink must take its share: rows sum to less than one"
        ),
        Mistake(
            "the softmax-off-by-one, whose sink logit is 0",
            softmax_with_sink_of_zero,
            "the denominator gains exp(sink), not 1",
        ),
        Mistake(
            "the sink logit added without its exponential",
            softmax_with_sink_not_exponentiated,
            "a logit enters as exp(logit)",
        ),
        Mistake(
            "the sink that missed the shift by the maximum",
            softmax_with_sink_unshifted,
            "if the scores are shifted by m, so is the sink: exp(sink − m)",
        ),
        Mistake(
            "the softmax that overflows on large scores",
            softmax_with_sink_overflowing,
            "subtract the largest logit first",
        ),
        Mistake(
            "the softmax that gives the sink's share back",
            softmax_with_sink_renormalised,
            "do not renormalise: what the sink took is gone",
        ),
    ],
    hints=[
        "The sink is one more logit without a value. Where does it appear in the softmax, and where not?",
        "p_j = exp(s_j) / ( Σ exp(s) + exp(sink) ), with every exponent shifted by the same maximum",
        "append the sink as one more column, softmax, drop the column; or put exp(sink − m) into the denominator",
    ],
    minutes=10,
    difficulty=3,
    lines=3,
)
