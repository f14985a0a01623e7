"""Exercises on what a stream keeps: who sees whom, which slots stay, how far away they seem."""

import torch

from labkit.course import Exercise, Mistake


def window_mask(t, n_sink, window):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return (j <= i) & ((j < n_sink) | (i - j <= window))


def window_mask_by_loop(t, n_sink, window):
    mask = torch.zeros(t, t, dtype=torch.bool)
    for i in range(t):
        mask[i, max(0, i - window) : i + 1] = True
        mask[i, : min(n_sink, i + 1)] = True
    return mask


def window_mask_sees_the_future(t, n_sink, window):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return (j < n_sink) | ((j <= i) & (i - j <= window))


def window_mask_without_sinks(t, n_sink, window):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return (j <= i) & (i - j <= window)


def window_mask_one_short(t, n_sink, window):
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return (j <= i) & ((j < n_sink) | (i - j < window))


def window_mask_transposed(t, n_sink, window):
    return window_mask(t, n_sink, window).T


def window_mask_probes(seed):
    fixed = [(1, 0, 0), (3, 1, 1), (6, 2, 2)]
    g = torch.Generator().manual_seed(seed)
    drawn = [
        tuple(torch.randint(low, high, (), generator=g).item() for low, high in ((7, 20), (0, 5), (0, 6)))
        for _ in range(3)
    ]
    return fixed + sorted(drawn)


WINDOW_MASK = Exercise(
    id="attention_sinks.window_mask",
    reference=window_mask,
    alternatives=[window_mask_by_loop],
    probes=window_mask_probes,
    mistakes=[
        Mistake(
            "the mask whose sinks can be seen before they are read",
            window_mask_sees_the_future,
            "j <= i must hold for sinks too",
        ),
        Mistake(
            "the plain window, without sinks",
            window_mask_without_sinks,
            "the first n_sink columns stay visible for ever",
        ),
        Mistake(
            "the window that is one token short",
            window_mask_one_short,
            "a query sees `window` tokens before it and itself: is i - j == window allowed?",
        ),
        Mistake(
            "the mask with queries and keys swapped", window_mask_transposed, "rows are queries i, columns are keys j"
        ),
    ],
    hints=[
        "Which three facts decide whether query i sees key j: order, being a sink, distance?",
        "visible(i, j) = j ≤ i and (j < n_sink or i − j ≤ window)",
        "i = a column of 0 … t−1; j = a row of 0 … t−1; combine the three comparisons with & and |",
    ],
    minutes=5,
    difficulty=1,
    lines=2,
)


def keep_slots(n_slots, n_sink, window):
    return [s for s in range(n_slots) if s < n_sink or s >= n_slots - window]


def keep_slots_by_slices(n_slots, n_sink, window):
    slots = list(range(n_slots))
    return slots[:n_sink] + slots[max(n_sink, n_slots - window) :]


def keep_slots_minus_zero(n_slots, n_sink, window):
    slots = list(range(n_slots))
    return slots if n_slots <= n_sink + window else slots[:n_sink] + slots[-window:]


def keep_slots_twice(n_slots, n_sink, window):
    slots = list(range(n_slots))
    return slots[:n_sink] + slots[max(0, n_slots - window) :]


def keep_slots_oldest(n_slots, n_sink, window):
    return list(range(min(n_slots, n_sink + window)))


def keep_slots_window_only(n_slots, n_sink, window):
    return list(range(max(0, n_slots - window), n_slots))


def keep_slots_within_budget(n_slots, n_sink, window):
    return [s for s in range(n_slots) if s < n_sink or s >= n_slots - (window - n_sink)]


def keep_slots_probes(seed):
    g = torch.Generator().manual_seed(seed)
    fixed = [(1, 0, 1), (3, 2, 2), (4, 1, 0), (5, 1, 2), (7, 3, 2)]
    return fixed + [
        tuple(torch.randint(a, b, (), generator=g).item() for a, b in ((8, 30), (1, 5), (1, 9))) for _ in range(3)
    ]


KEEP_SLOTS = Exercise(
    id="attention_sinks.keep_slots",
    reference=keep_slots,
    alternatives=[keep_slots_by_slices],
    probes=keep_slots_probes,
    mistakes=[
        Mistake(
            "the slice that keeps everything when the window is 0",
            keep_slots_minus_zero,
            "slots[-0:] is the whole list",
        ),
        Mistake("the cache that keeps a sink twice", keep_slots_twice, "a short cache's window reaches into the sinks"),
        Mistake(
            "the cache that keeps the oldest", keep_slots_oldest, "after the sinks, it is the newest `window` that stay"
        ),
        Mistake(
            "the rolling window that evicts the sinks", keep_slots_window_only, "the first n_sink slots never leave"
        ),
        Mistake(
            "the window that pays for the sinks",
            keep_slots_within_budget,
            "n_sink + window slots stay in all: the paper's 4+1020 is a sum",
        ),
    ],
    hints=[
        "Which slots never leave, and which ones are the newest?",
        "slot s stays if s < n_sink or s ≥ n_slots − window",
        "go over range(n_slots) and keep s if it is one of the first n_sink or one of the last `window`",
    ],
    minutes=5,
    difficulty=1,
    lines=1,
)


def believed_distances(i, n_sink, window):
    slots = min(i, n_sink + window) + 1
    return torch.arange(slots - 1, -1, -1)


def believed_distances_by_subtraction(i, n_sink, window):
    query = min(i, n_sink + window)
    return torch.stack([torch.tensor(query - key) for key in range(query + 1)])


def believed_distances_in_text(i, n_sink, window):
    j = torch.arange(i + 1)
    return (i - j)[(j < n_sink) | (i - j <= window)]


def believed_distances_frozen(i, n_sink, window):
    j = torch.arange(i + 1)
    seen = j[(j < n_sink) | (i - j <= window)]
    return min(i, n_sink + window) - seen.clamp(max=n_sink + window)


def believed_distances_upwards(i, n_sink, window):
    return torch.arange(min(i, n_sink + window) + 1)


def believed_distances_without_itself(i, n_sink, window):
    return torch.arange(min(i, n_sink + window), 0, -1)


def believed_distances_one_slot_less(i, n_sink, window):
    return torch.arange(min(i + 1, n_sink + window) - 1, -1, -1)


def believed_distances_probes(seed):
    g = torch.Generator().manual_seed(seed)
    fixed = [(0, 1, 2), (2, 1, 3), (6, 1, 2), (9, 2, 4)]
    return fixed + [
        tuple(torch.randint(a, b, (), generator=g).item() for a, b in ((10, 40), (1, 4), (1, 8))) for _ in range(3)
    ]


BELIEVED_DISTANCES = Exercise(
    id="attention_sinks.believed_distances",
    reference=believed_distances,
    alternatives=[believed_distances_by_subtraction],
    probes=believed_distances_probes,
    mistakes=[
        Mistake(
            "the distances in the text",
            believed_distances_in_text,
            "what counts is the slot: positions are given anew each step",
        ),
        Mistake(
            "the frozen positions",
            believed_distances_frozen,
            "a slot's position is where it is now, not where it came in",
        ),
        Mistake(
            "the slots' positions instead of the distances to them",
            believed_distances_upwards,
            "distance = query position − key position, and the query stands last",
        ),
        Mistake(
            "the distances without the token itself",
            believed_distances_without_itself,
            "a token sees itself, at distance 0",
        ),
        Mistake(
            "the cache that has evicted before the token looked",
            believed_distances_one_slot_less,
            "n_sink + window slots and the token itself: eviction comes after the step",
        ),
    ],
    hints=[
        "How many slots does token i see, itself included?",
        "slots = min(i, n_sink + window) + 1; the query is at slots − 1, key s at s",
        "count the slots, then subtract each slot's index from the last one's",
    ],
    minutes=8,
    difficulty=2,
    lines=2,
)
