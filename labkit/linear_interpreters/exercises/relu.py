"""Exercises on units with corners: the mask of a ReLU, and the slope and offset of a ReLU6."""

import torch
import torch.nn.functional as F

from labkit.course import Exercise, Mistake


def freeze_relu(z, u):
    return (z > 0) * u


def freeze_relu_by_where(z, u):
    return torch.where(z > 0, u, torch.zeros_like(u))


def freeze_relu_by_step(z, u):
    return u * torch.heaviside(z, z.new_zeros(()))


def freeze_relu_free(z, u):
    return u.relu()


def freeze_relu_run(z, u):
    return z.relu()


def freeze_relu_the_other_way_round(z, u):
    return (u > 0) * z


def freeze_relu_of_values(z, u):
    return z.relu() * u


def freeze_relu_mask_alone(z, u):
    return (z > 0).to(u)


def freeze_relu_open_at_the_corner(z, u):
    return (z >= 0) * u


def freeze_relu_by_sign(z, u):
    return z.sign() * u


def freeze_relu_twice(z, u):
    return (z > 0) * u.relu()


def freeze_relu_in_place(z, u):
    return (z.relu_() > 0) * u


def freeze_relu_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for shape, dtype in [((7,), torch.float64), ((4, 5), torch.float32), ((2, 3, 6), torch.float64)]:
        z, u = torch.randn(2, *shape, generator=g, dtype=dtype)
        z.view(-1)[1::4] = 0  # at the corner
        drawn.append((z, u))
    return drawn


FREEZE_RELU = Exercise(
    id="linear_interpreters.freeze_relu",
    reference=freeze_relu,
    alternatives=[freeze_relu_by_where, freeze_relu_by_step],
    probes=freeze_relu_probes,
    mistakes=[
        Mistake("the ReLU that is not frozen", freeze_relu_free, "who decides what passes here, z or u?"),
        Mistake("the plain run at z", freeze_relu_run, "z only decides; what comes out is made of u"),
        Mistake(
            "the ReLU frozen at the wrong input",
            freeze_relu_the_other_way_round,
            "the first argument decides and the second one passes",
        ),
        Mistake(
            "the mask that keeps how large z was",
            freeze_relu_of_values,
            "a ReLU has two slopes, 0 and 1; which numbers does your mask hold?",
        ),
        Mistake("the mask alone", freeze_relu_mask_alone, "the mask is what was decided; now let it act on u"),
        Mistake(
            "the ReLU that is open at its corner",
            freeze_relu_open_at_the_corner,
            "at exactly 0 the slope is 0 by torch's convention; what does your comparison say there?",
        ),
        Mistake(
            "the sign in place of the mask", freeze_relu_by_sign, "what does a ReLU make of a negative z, 0 or −1?"
        ),
        Mistake(
            "the ReLU that decides twice",
            freeze_relu_twice,
            "where z was positive the unit is the identity, also for a negative u",
        ),
        Mistake(
            "the ReLU in place",
            freeze_relu_in_place,
            "a method that ends in `_` writes into what you were given, and z is then lost for whoever needs it next",
        ),
    ],
    hints=[
        "A ReLU multiplies its input by 0 or by 1. What decides by which, and what is multiplied?",
        "A(u) = m ⊙ u,  m = 1 where z > 0, else 0",
        "compare z with 0; multiply by u",
    ],
    minutes=4,
    difficulty=1,
    lines=1,
)


def freeze_relu6(z):
    slope = (z > 0) & (z < 6)
    return slope.to(z), 6 * (z >= 6).to(z)


def freeze_relu6_by_where(z):
    level = torch.where(z < 6, 0.0, 6.0).to(z)
    return torch.where(z > 0, 1 - level / 6, level), level


def freeze_relu6_by_remainder(z):
    slope = (z > 0).to(z) - (z >= 6).to(z)
    return slope, F.relu6(z) - slope * z


def freeze_relu6_without_offset(z):
    return freeze_relu6(z)[0], torch.zeros_like(z)


def freeze_relu6_as_relu(z):
    return (z > 0).to(z), torch.zeros_like(z)


def freeze_relu6_open_above(z):
    return (z > 0).to(z), freeze_relu6(z)[1]


def freeze_relu6_offset_for_all(z):
    return freeze_relu6(z)[0], 6 * (z > 0).to(z)


def freeze_relu6_as_gate(z):
    return F.relu6(z) / z, torch.zeros_like(z)


def freeze_relu6_as_shift(z):
    return torch.ones_like(z), F.relu6(z) - z


def freeze_relu6_as_constant(z):
    return torch.zeros_like(z), F.relu6(z)


def freeze_relu6_closed_corners(z):
    return ((z >= 0) & (z <= 6)).to(z), 6 * (z > 6).to(z)


def freeze_relu6_offset_of_one(z):
    return freeze_relu6(z)[0], (z >= 6).to(z)


def freeze_relu6_swapped(z):
    return freeze_relu6(z)[::-1]


def freeze_relu6_in_place(z):
    z.clamp_(0, 6)
    return ((z > 0) & (z < 6)).to(z), 6 * (z >= 6).to(z)


def freeze_relu6_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for shape, dtype in [((12,), torch.float64), ((4, 9), torch.float32), ((2, 5, 7), torch.float64)]:
        z = 16 * torch.rand(shape, generator=g, dtype=dtype) - 5
        z.view(-1)[1::6], z.view(-1)[3::6] = 0, 6  # at the corners
        drawn.append((z,))
    return drawn


FREEZE_RELU6 = Exercise(
    id="linear_interpreters.freeze_relu6",
    reference=freeze_relu6,
    alternatives=[freeze_relu6_by_where, freeze_relu6_by_remainder],
    probes=freeze_relu6_probes,
    mistakes=[
        Mistake(
            "the saturated unit without its ceiling",
            freeze_relu6_without_offset,
            "relu6(8) is 6; what does your slope · 8 + offset say?",
        ),
        Mistake("the ReLU without a ceiling", freeze_relu6_as_relu, "what does a ReLU6 say to all z above 6?"),
        Mistake(
            "the saturated unit that still has a slope",
            freeze_relu6_open_above,
            "above 6 the unit no longer moves with z; which slope is that?",
        ),
        Mistake(
            "the ceiling for every unit that is on",
            freeze_relu6_offset_for_all,
            "relu6(2) is 2; what does your slope · 2 + offset say?",
        ),
        Mistake(
            "the ceiling turned into a gate",
            freeze_relu6_as_gate,
            "it is right at z, but what happens above 6 when z becomes a little larger? (and what is 0/0?)",
        ),
        Mistake(
            "the slope 1 everywhere",
            freeze_relu6_as_shift,
            "it is right at z, but not a little beside it: where does relu6 stand still?",
        ),
        Mistake(
            "the unit that is all offset",
            freeze_relu6_as_constant,
            "it is right at z, but between 0 and 6 the unit passes on every change of z",
        ),
        Mistake(
            "the corners with the slope 1",
            freeze_relu6_closed_corners,
            "at exactly 0 and exactly 6 the slope is 0 by torch's convention",
        ),
        Mistake("the ceiling of 1", freeze_relu6_offset_of_one, "at which height does a ReLU6 stand still?"),
        Mistake("the pair the other way round", freeze_relu6_swapped, "asked for is (slope, offset)"),
        Mistake(
            "the ReLU6 in place",
            freeze_relu6_in_place,
            "a method that ends in `_` writes into what you were given, and z is then lost for whoever needs it next",
        ),
    ],
    hints=[
        "Draw relu6: it has three straight pieces. What are the slope of each and its height at z = 0, were it prolonged?",
        "(slope, offset) = (0, 0) for z ≤ 0, (1, 0) for 0 < z < 6, (0, 6) for z ≥ 6",
        "slope: 1 where z lies between the corners, as numbers of z's dtype; offset: 6 where z is not below 6",
    ],
    minutes=6,
    difficulty=2,
    lines=2,
)
