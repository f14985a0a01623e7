"""The exercise on activation patching: one head says what it says in another prompt."""

import torch
from einops import rearrange

from labkit.course import Exercise, Mistake, call


def swap_head(head_out, h, donors):
    swapped = head_out.clone()
    swapped[:, h] = head_out[:, h][donors]
    return swapped


def swap_head_by_where(head_out, h, donors):
    is_h = torch.arange(head_out.shape[1]) == h
    return torch.where(is_h[:, None], head_out[donors], head_out)


def swap_head_by_parts(head_out, h, donors):
    before, own, after = head_out[:, :h], head_out[:, h : h + 1], head_out[:, h + 1 :]
    return torch.cat([before, own.index_select(0, donors), after], 1)


def with_head(head_out, h, value):
    made = head_out.clone()
    made[:, h] = value
    return made


def swap_head_all(head_out, h, donors):
    return head_out[donors]


def swap_head_in_place(head_out, h, donors):
    head_out[:, h] = head_out[donors, h]
    return head_out


def swap_head_the_others(head_out, h, donors):
    return with_head(head_out[donors], h, head_out[:, h])


def swap_head_to_donors(head_out, h, donors):
    made = head_out.clone()
    for own, donor in enumerate(donors):
        made[donor, h] = head_out[own, h]
    return made


def swap_head_one_after_the_other(head_out, h, donors):
    made = head_out.clone()
    for own, donor in enumerate(donors):
        made[own, h] = made[donor, h]
    return made


def swap_head_halfway(head_out, h, donors):
    return with_head(head_out, h, (head_out[:, h] + head_out[donors, h]) / 2)


def swap_head_added(head_out, h, donors):
    return with_head(head_out, h, head_out[:, h] + head_out[donors, h])


def swap_head_difference(head_out, h, donors):
    return with_head(head_out, h, head_out[donors, h] - head_out[:, h])


def swap_head_removed(head_out, h, donors):
    return with_head(head_out, h, 0)


def swap_head_mean(head_out, h, donors):
    return with_head(head_out, h, head_out[donors, h].mean(0))


def swap_head_of_first_donor(head_out, h, donors):
    return with_head(head_out, h, head_out[donors[0], h])


def swap_head_within_prompt(head_out, h, donors):
    return with_head(head_out, h, head_out[torch.arange(len(donors)), donors])


def swap_head_as_prompt(head_out, h, donors):
    made = head_out.clone()
    made[h] = head_out[donors[h]]
    return made


def swap_head_as_coordinate(head_out, h, donors):
    made = head_out.clone()
    made[..., h] = head_out[donors][..., h]
    return made


def swap_head_alone(head_out, h, donors):
    return head_out[donors, h]


def swap_head_group(head_out, h, donors):
    made, first = head_out.clone(), h // 3 * 3
    made[:, first : first + 3] = head_out[donors, first : first + 3]
    return made


def swap_head_from_one(head_out, h, donors):
    return swap_head(head_out, h - 1, donors)


def swap_head_nothing(head_out, h, donors):
    return head_out.clone()


def swap_head_joined(head_out, h, donors):
    return rearrange(swap_head(head_out, h, donors), "b h d -> b (h d)")


def swap_head_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for b, heads, d, h, donors, dtype in [
        (3, 4, 5, 2, [2, 0, 1], torch.float64), (5, 6, 7, 4, [1, 2, 3, 1, 0], torch.float32),
        (6, 9, 4, 3, [4, 0, 0, 5, 2, 1], torch.float64),
    ]:  # fmt: skip
        drawn.append(call(torch.randn(b, heads, d, generator=g, dtype=dtype), h, torch.tensor(donors)))
    return drawn


SWAP_HEAD = Exercise(
    id="factual_recall.swap_head",
    reference=swap_head,
    alternatives=[swap_head_by_where, swap_head_by_parts],
    probes=swap_head_probes,
    mistakes=[
        Mistake("the swap of all heads", swap_head_all, "only head h is the donor's; what do the others say?"),
        Mistake(
            "the swap in place",
            swap_head_in_place,
            "head_out belongs to the caller, who wants to compare with it: copy it first",
        ),
        Mistake(
            "the swap of all heads but this one",
            swap_head_the_others,
            "head h is the donor's and the others are the prompt's own; yours are the other way round",
        ),
        Mistake(
            "the swap in the wrong direction",
            swap_head_to_donors,
            "donors[i] says from whom prompt i takes, not to whom it gives",
        ),
        Mistake(
            "the swap that reads what it has just written",
            swap_head_one_after_the_other,
            "a donor gives what it said in its own run: read from head_out, write into the copy",
        ),
        Mistake("the head halfway between the two", swap_head_halfway, "nothing of the prompt's own head h is left"),
        Mistake(
            "the donor's head on top of its own",
            swap_head_added,
            "a swap puts the one in place of the other; nothing of the prompt's own head h is left",
        ),
        Mistake(
            "the difference that the swap makes",
            swap_head_difference,
            "asked for is what the heads say after the swap, not by how much that changes",
        ),
        Mistake(
            "the head taken away",
            swap_head_removed,
            "a head at zero is one that the model never meets; its place is taken by that of the donor",
        ),
        Mistake("the mean of all donors", swap_head_mean, "prompt i has one donor, donors[i]"),
        Mistake("the first donor for everyone", swap_head_of_first_donor, "prompt i has its own donor, donors[i]"),
        Mistake(
            "the donors taken for heads",
            swap_head_within_prompt,
            "donors counts prompts: the head is h in the donor too",
        ),
        Mistake(
            "the swap of prompt h",
            swap_head_as_prompt,
            "h counts heads, and heads are on axis 1; axis 0 is the prompts",
        ),
        Mistake(
            "the swap of coordinate h",
            swap_head_as_coordinate,
            "h counts heads, and heads are on axis 1; the last axis is the coordinates",
        ),
        Mistake(
            "the swapped head without the others",
            swap_head_alone,
            "asked for are all heads (b h d), those that nobody touched among them",
        ),
        Mistake(
            "the swap of all heads that share a key and value",
            swap_head_group,
            "keys and values belong to a group of heads, but what a head writes is its own: only head h is the donor's",
        ),
        Mistake("the swap of the head before", swap_head_from_one, "heads count from 0"),
        Mistake("the heads as they were", swap_head_nothing, "where does your answer get the donor's head?"),
        Mistake("the heads laid end to end", swap_head_joined, "asked for is (b h d), as given"),
    ],
    hints=[
        "Which rows and which heads of head_out stand at head h of the answer, and which at the others?",
        "y[i, h] = head_out[donors_i, h],  y[i, k] = head_out[i, k] for k ≠ h",
        "a clone of head_out; into its [:, h] goes head_out at rows donors and head h; return the clone",
    ],
    minutes=5,
    difficulty=2,
    lines=3,
)
