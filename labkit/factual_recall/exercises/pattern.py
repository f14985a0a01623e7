"""The exercise on attention knock-out: the last token no longer sees the topic."""

import torch

from labkit.course import Exercise, Mistake


def knock_out(scores, last, topic):
    blocked = scores.clone()
    blocked[:, last, topic] = -torch.inf
    return blocked.softmax(-1)


def knock_out_by_mask(scores, last, topic):
    hidden = (torch.arange(len(topic)) == last)[:, None] & topic
    return scores.masked_fill(hidden, float("-inf")).softmax(-1)


def knock_out_made_to_sum_to_one(scores, last, topic):
    pattern = scores.softmax(-1)
    row = pattern[:, last] * ~topic
    pattern[:, last] = row / row.sum(-1, keepdim=True)
    return pattern


def blocked_at(scores, where, value=-torch.inf):
    """The pattern with another score where the mask `where` (t t) says so."""
    return scores.masked_fill(where, value).softmax(-1)


def rows(topic, last):
    """(t 1): whether a row is that of the last token."""
    return (torch.arange(len(topic)) == last)[:, None]


def knock_out_afterwards(scores, last, topic):
    pattern = scores.softmax(-1)
    pattern[:, last, topic] = 0
    return pattern


def knock_out_nothing(scores, last, topic):
    return scores.softmax(-1)


def knock_out_for_all(scores, last, topic):
    return blocked_at(scores, topic[None, :])


def knock_out_from_last_on(scores, last, topic):
    return blocked_at(scores, (torch.arange(len(topic)) >= last)[:, None] & topic)


def knock_out_by_the_final_row(scores, last, topic):
    return knock_out(scores, -1, topic)


def knock_out_the_topics_rows(scores, last, topic):
    return blocked_at(scores, topic[:, None] & topic & ~torch.eye(len(topic), dtype=torch.bool))


def knock_out_by_zero(scores, last, topic):
    return blocked_at(scores, rows(topic, last) & topic, 0)


def knock_out_twice(scores, last, topic):
    return knock_out(scores, last, topic).softmax(-1)


def knock_out_one_head(scores, last, topic):
    pattern = scores.softmax(-1)
    pattern[0] = knock_out(scores, last, topic)[0]
    return pattern


def knock_out_up_to_topic(scores, last, topic):
    upto = topic.flip(0).cumsum(0).flip(0) > 0
    return knock_out(scores, last, upto)


def knock_out_since_topic(scores, last, topic):
    since = topic.cumsum(0) > 0
    return knock_out(scores, last, since & (torch.arange(len(topic)) < last))


def knock_out_end_of_topic(scores, last, topic):
    return knock_out(scores, last, int(topic.nonzero().max()))


def knock_out_start_of_topic(scores, last, topic):
    return knock_out(scores, last, int(topic.nonzero().min()))


def knock_out_all_but_topic(scores, last, topic):
    return knock_out(scores, last, ~topic)


def knock_out_to_first_token(scores, last, topic):
    pattern = knock_out_afterwards(scores, last, topic)
    pattern[:, last, 0] += 1 - pattern[:, last].sum(-1)
    return pattern


def knock_out_shared_out(scores, last, topic):
    pattern = knock_out_afterwards(scores, last, topic)
    seen = ~topic & (torch.arange(len(topic)) <= last)
    pattern[:, last] += seen * (1 - pattern[:, last].sum(-1, keepdim=True)) / seen.sum()
    return pattern


def knock_out_down_the_columns(scores, last, topic):
    return scores.masked_fill(rows(topic, last) & topic, -torch.inf).softmax(-2)


def knock_out_in_place(scores, last, topic):
    scores[:, last, topic] = -torch.inf
    return scores.softmax(-1)


def knock_out_scores(scores, last, topic):
    return scores.masked_fill(rows(topic, last) & topic, -torch.inf)


def knock_out_last_row(scores, last, topic):
    return knock_out(scores, last, topic)[:, last]


def knock_out_in_logs(scores, last, topic):
    return knock_out(scores, last, topic).log()


def knock_out_turned_over(scores, last, topic):
    return blocked_at(scores, rows(topic, last) & topic, torch.finfo(scores.dtype).max)


def knock_out_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for h, t, last, topic, dtype in [
        (2, 6, 4, [2, 3], torch.float64), (3, 8, 7, [3, 4, 5], torch.float32), (4, 9, 6, [1, 3], torch.float64)
    ]:  # fmt: skip
        scores = 1.5 * torch.randn(h, t, t, generator=g, dtype=dtype)
        later = torch.ones(t, t, dtype=torch.bool).triu(1)
        there = torch.zeros(t, dtype=torch.bool)
        there[topic] = True
        drawn.append((scores.masked_fill(later, -torch.inf), last, there))
    return drawn


KNOCK_OUT = Exercise(
    id="factual_recall.knock_out",
    reference=knock_out,
    alternatives=[knock_out_by_mask, knock_out_made_to_sum_to_one],
    probes=knock_out_probes,
    mistakes=[
        Mistake(
            "the knock-out after the softmax",
            knock_out_afterwards,
            "a row must still sum to one; does that of the last token?",
        ),
        Mistake(
            "the pattern with nothing knocked out",
            knock_out_nothing,
            "in scores[:, i, j] it is i who looks at j; the other way round it is the future, which is hidden already",
        ),
        Mistake(
            "the topic hidden from everyone",
            knock_out_for_all,
            "only the last token is to be blind; the others still see the topic",
        ),
        Mistake(
            "the topic hidden from the last token and all behind it",
            knock_out_from_last_on,
            "only the row `last` changes",
        ),
        Mistake(
            "the topic hidden from the final row",
            knock_out_by_the_final_row,
            "`last` says which token it is; behind it there may be others",
        ),
        Mistake(
            "the topic that no longer sees itself",
            knock_out_the_topics_rows,
            "in scores[:, i, j] it is i who looks at j; whose row is to change?",
        ),
        Mistake(
            "the score of zero",
            knock_out_by_zero,
            "a score of 0 weighs e⁰ = 1 before the row is divided; which score weighs nothing?",
        ),
        Mistake(
            "the softmax taken twice",
            knock_out_twice,
            "after one softmax the rows sum to one; a second one levels them",
        ),
        Mistake("the knock-out in one head", knock_out_one_head, "the last token is to be blind in every head"),
        Mistake(
            "the knock-out of all up to the topic",
            knock_out_up_to_topic,
            "only the topic is hidden; token 0, where attention rests, stays in sight",
        ),
        Mistake("the knock-out of all since the topic", knock_out_since_topic, "only the topic is hidden"),
        Mistake(
            "the knock-out of the topic's end",
            knock_out_end_of_topic,
            "a topic may have several tokens, and the mask says which",
        ),
        Mistake(
            "the knock-out of the topic's start",
            knock_out_start_of_topic,
            "a topic may have several tokens, and the mask says which",
        ),
        Mistake(
            "the last token that sees the topic alone",
            knock_out_all_but_topic,
            "topic is true where the last token is to see nothing",
        ),
        Mistake(
            "the lost weight given to token 0",
            knock_out_to_first_token,
            "the softmax of the scores that are left shares the weight among all that are still seen",
        ),
        Mistake(
            "the lost weight shared out evenly",
            knock_out_shared_out,
            "the softmax of the scores that are left keeps their proportions",
        ),
        Mistake(
            "the softmax down the columns",
            knock_out_down_the_columns,
            "each row is who looks, and its weights sum to one",
        ),
        Mistake("the knock-out in place", knock_out_in_place, "scores belongs to the caller: copy it first"),
        Mistake("the scores before the softmax", knock_out_scores, "asked for is the pattern, rows that sum to one"),
        Mistake(
            "the last token's row alone",
            knock_out_last_row,
            "asked for is the whole pattern (h t t), most of it untouched",
        ),
        Mistake("the logarithm of the pattern", knock_out_in_logs, "asked for are weights, rows that sum to one"),
        Mistake(
            "the topic that is all the last token sees",
            knock_out_turned_over,
            "a very high score draws all the weight; which score weighs nothing?",
        ),
    ],
    hints=[
        "Which entries of scores say how much the last token looks at the topic, and what must a score be to weigh nothing?",
        "s[h, last, j] ← −∞ for j in topic;  pattern[h, i] = softmax_j s[h, i, j]",
        "a clone of scores; −inf into it at all heads, row last, the columns of topic; softmax over the last axis",
    ],
    minutes=6,
    difficulty=3,
    lines=3,
)
