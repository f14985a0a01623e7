"""Exercises on the kernel: one step of the online softmax, and the blocks that need no visit."""

import torch

from labkit.course import Exercise, Mistake, call


def online_softmax_step(m, l, acc, scores, v):
    m_new = torch.maximum(m, scores.amax(-1))
    p = (scores - m_new[:, None]).exp()
    shrink = (m - m_new).exp()
    return m_new, l * shrink + p.sum(-1), acc * shrink[:, None] + p @ v


def online_softmax_step_by_logs(m, l, acc, scores, v):
    m_new = torch.cat([m[:, None], scores], -1).amax(-1)
    weight = torch.exp(m - m_new)
    p = torch.exp(scores - m_new.unsqueeze(-1))
    return m_new, weight * l + p.sum(dim=1), weight.unsqueeze(-1) * acc + torch.einsum("ij,jd->id", p, v)


def online_softmax_step_keeps_old_sum(m, l, acc, scores, v):
    m_new = torch.maximum(m, scores.amax(-1))
    p = (scores - m_new[:, None]).exp()
    return m_new, l + p.sum(-1), acc * (m - m_new).exp()[:, None] + p @ v


def online_softmax_step_keeps_old_output(m, l, acc, scores, v):
    m_new = torch.maximum(m, scores.amax(-1))
    p = (scores - m_new[:, None]).exp()
    return m_new, l * (m - m_new).exp() + p.sum(-1), acc + p @ v


def online_softmax_step_forgets_the_maximum(m, l, acc, scores, v):
    m_new = scores.amax(-1)
    p = (scores - m_new[:, None]).exp()
    shrink = (m - m_new).exp()
    return m_new, l * shrink + p.sum(-1), acc * shrink[:, None] + p @ v


def online_softmax_step_normalises_early(m, l, acc, scores, v):
    m_new, l_new, acc_new = online_softmax_step(m, l, acc, scores, v)
    return m_new, l_new, acc_new / l_new[:, None]


def online_softmax_step_grows(m, l, acc, scores, v):
    m_new = torch.maximum(m, scores.amax(-1))
    p = (scores - m_new[:, None]).exp()
    grow = (m_new - m).exp()
    return m_new, l * grow + p.sum(-1), acc * grow[:, None] + p @ v


def online_softmax_step_probes(seed):
    g = torch.Generator().manual_seed(seed)

    def draw(i, j, d, dtype, size):
        scores = torch.randn(i, j, generator=g, dtype=dtype) * size
        before = torch.randn(i, 2 * j, generator=g, dtype=dtype) * size
        m = before.amax(-1)
        p = (before - m[:, None]).exp()
        return (
            m,
            p.sum(-1),
            p @ torch.randn(2 * j, d, generator=g, dtype=dtype),
            scores,
            torch.randn(j, d, generator=g, dtype=dtype),
        )

    nothing = (torch.full((2,), -torch.inf), torch.zeros(2), torch.zeros(2, 3))  # the very first step
    first = draw(2, 3, 3, torch.float32, 1)
    return [
        draw(1, 2, 2, torch.float64, 1),
        (*nothing, *first[3:]),
        draw(4, 3, 5, torch.float64, 3),
        draw(5, 6, 2, torch.float32, 3),
    ]


ONLINE_SOFTMAX = Exercise(
    id="attention_sinks.online_softmax_step",
    reference=online_softmax_step,
    alternatives=[online_softmax_step_by_logs],
    probes=online_softmax_step_probes,
    mistakes=[
        Mistake(
            "the update that leaves the old sum at the old maximum",
            online_softmax_step_keeps_old_sum,
            "l was measured from m: shrink it",
        ),
        Mistake(
            "the update that leaves the old output at the old maximum",
            online_softmax_step_keeps_old_output,
            "acc was measured from m: shrink it like l",
        ),
        Mistake(
            "the maximum of this block alone",
            online_softmax_step_forgets_the_maximum,
            "the maximum runs over all blocks so far",
        ),
        Mistake(
            "the output divided too early",
            online_softmax_step_normalises_early,
            "divide by l once, after the last block",
        ),
        Mistake(
            "the correction upside down",
            online_softmax_step_grows,
            "a larger maximum makes old terms smaller: exp(m − m_new)",
        ),
    ],
    hints=[
        "l and acc were added up relative to the old maximum m. By what factor are they off once the maximum is m_new?",
        "m' = max(m, max s);  l' = l·e^{m−m'} + Σ e^{s−m'};  acc' = acc·e^{m−m'} + e^{s−m'} v",
        "new maximum; p = exp(scores − new); shrink = exp(old − new); scale l and acc by it and add p's sum and p @ v",
    ],
    minutes=12,
    difficulty=3,
    lines=4,
)


def blocks_to_visit(n, block, n_sink, window):
    first, last = n * block, (n + 1) * block - 1
    sinks = range(-(-min(n_sink, last + 1) // block))
    band = range(max(0, first - window) // block, n + 1)
    return sorted({*sinks, *band})


def blocks_to_visit_by_mask(n, block, n_sink, window):
    visit = set()
    for i in range(n * block, (n + 1) * block):
        for j in range(i + 1):
            if j < n_sink or i - j <= window:
                visit.add(j // block)
    return sorted(visit)


def blocks_to_visit_all(n, block, n_sink, window):
    return list(range(n + 1))


def blocks_to_visit_without_sinks(n, block, n_sink, window):
    return list(range(max(0, n * block - window) // block, n + 1))


def blocks_to_visit_from_the_last_query(n, block, n_sink, window):
    band = range(max(0, (n + 1) * block - 1 - window) // block, n + 1)
    return sorted({*range(-(-min(n_sink, (n + 1) * block) // block)), *band})


def blocks_to_visit_one_sink_block(n, block, n_sink, window):
    return sorted({*range(min(1, n_sink)), *range(max(0, n * block - window) // block, n + 1)})


def blocks_to_visit_twice(n, block, n_sink, window):
    sinks = range(-(-min(n_sink, (n + 1) * block) // block))
    return sorted([*sinks, *range(max(0, n * block - window) // block, n + 1)])


def blocks_to_visit_rounded_down(n, block, n_sink, window):
    band = range(max(0, n * block - window) // block, n + 1)
    return sorted({*range(min(n_sink, (n + 1) * block) // block), *band})


def blocks_to_visit_probes(seed):
    g = torch.Generator().manual_seed(seed)
    fixed = [
        call(0, block=4, n_sink=1, window=2),
        call(3, block=4, n_sink=1, window=0),
        call(5, block=4, n_sink=6, window=4),
        call(4, block=2, n_sink=4, window=3),
        call(1, block=4, n_sink=20, window=1),
        call(1, block=4, n_sink=7, window=0),
    ]
    drawn = [
        tuple(torch.randint(a, b, (), generator=g).item() for a, b in ((4, 12), (2, 6), (1, 12), (0, 14)))
        for _ in range(6)
    ]
    return fixed + [call(n, block=block, n_sink=n_sink, window=window) for n, block, n_sink, window in drawn]


BLOCKS_TO_VISIT = Exercise(
    id="attention_sinks.blocks_to_visit",
    reference=blocks_to_visit,
    alternatives=[blocks_to_visit_by_mask],
    probes=blocks_to_visit_probes,
    mistakes=[
        Mistake(
            "every block up to the diagonal",
            blocks_to_visit_all,
            "that is dense attention: blocks left of the band are empty",
        ),
        Mistake(
            "the band without the sinks",
            blocks_to_visit_without_sinks,
            "blocks that hold a sink are seen by every query",
        ),
        Mistake(
            "the band of the block's last query",
            blocks_to_visit_from_the_last_query,
            "the first query of the block looks furthest back",
        ),
        Mistake(
            "the sinks taken to fit in one block", blocks_to_visit_one_sink_block, "n_sink can exceed the block size"
        ),
        Mistake(
            "the plan that visits a block twice",
            blocks_to_visit_twice,
            "near the start, the band holds the sinks already",
        ),
        Mistake(
            "the sinks' blocks rounded down",
            blocks_to_visit_rounded_down,
            "a block holding one sink holds a sink: round up",
        ),
    ],
    hints=[
        "Of the queries n·block … (n+1)·block − 1, which one reaches furthest back?",
        "band: from ⌊max(0, n·block − window) / block⌋ to n; sinks: the first ⌈min(n_sink, keys so far) / block⌉ blocks",
        "the set of sink blocks (round up, never past block n) joined with the set of band blocks, sorted",
    ],
    minutes=12,
    difficulty=4,
    lines=4,
)
