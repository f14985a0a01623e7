"""The exercise on units without corners: SiLU as a gate and as its tangent, two lines through the same point."""

import torch
import torch.nn.functional as F

from labkit.course import Exercise, Mistake


def smooth_unit(z):
    s = torch.sigmoid(z)
    slope = s + z * s * (1 - s)
    return (s, torch.zeros_like(z)), (slope, z * s - slope * z)


def smooth_unit_multiplied_out(z):
    s = 1 / (1 + torch.exp(-z))
    bend = z * s * (1 - s)
    return (s, 0 * z), (s + bend, -z * bend)


def smooth_unit_by_autograd(z):
    at = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.silu(at).sum(), at)
    return (z.sigmoid(), torch.zeros_like(z)), (slope, F.silu(z) - slope * z)


def gate(z):
    return smooth_unit(z)[0]


def tangent(z):
    return smooth_unit(z)[1]


def smooth_unit_by_quotient(z):
    return (F.silu(z) / z, torch.zeros_like(z)), tangent(z)


def smooth_unit_gate_of_values(z):
    return (F.silu(z), torch.zeros_like(z)), tangent(z)


def smooth_unit_gate_and_value(z):
    return (z.sigmoid(), F.silu(z)), tangent(z)


def smooth_unit_hard_gate(z):
    return ((z > 0).to(z), torch.zeros_like(z)), tangent(z)


def smooth_unit_gate_twice(z):
    return gate(z), gate(z)


def smooth_unit_tangent_twice(z):
    return tangent(z), tangent(z)


def smooth_unit_through_zero(z):
    return gate(z), (tangent(z)[0], torch.zeros_like(z))


def smooth_unit_from_the_point(z):
    return gate(z), (tangent(z)[0], F.silu(z))


def smooth_unit_wrong_sign(z):
    return gate(z), (tangent(z)[0], -tangent(z)[1])


def of_slope(slope, z):
    return gate(z), (slope, F.silu(z) - slope * z)


def smooth_unit_slope_of_sigmoid(z):
    s = z.sigmoid()
    return of_slope(s * (1 - s), z)


def smooth_unit_slope_without_gate(z):
    s = z.sigmoid()
    return of_slope(z * s * (1 - s), z)


def smooth_unit_slope_of_half_a_sigmoid(z):
    s = z.sigmoid()
    return of_slope(s + z * s, z)


def smooth_unit_slope_without_z(z):
    s = z.sigmoid()
    return of_slope(s + s * (1 - s), z)


def smooth_unit_swapped(z):
    return tangent(z), gate(z)


def smooth_unit_offsets_first(z):
    return gate(z)[::-1], tangent(z)[::-1]


def smooth_unit_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for shape, dtype in [((5,), torch.float64), ((3, 4), torch.float32), ((2, 5, 3), torch.float64)]:
        z = 2 * torch.randn(shape, generator=g, dtype=dtype)
        z.view(-1)[2::5] = 0
        drawn.append((z,))
    return drawn


SMOOTH_UNIT = Exercise(
    id="linear_interpreters.smooth_unit",
    reference=smooth_unit,
    alternatives=[smooth_unit_multiplied_out, smooth_unit_by_autograd],
    probes=smooth_unit_probes,
    mistakes=[
        Mistake(
            "the gate that has no value at zero",
            smooth_unit_by_quotient,
            "silu(z) / z is 0/0 at z = 0, where the gate is half open; what is silu(z) / z once z is cancelled?",
        ),
        Mistake(
            "the gate that has z in it already",
            smooth_unit_gate_of_values,
            "the slope is multiplied by z once more: slope · z + offset must be silu(z)",
        ),
        Mistake(
            "the gate with the output as its offset",
            smooth_unit_gate_and_value,
            "slope · z is silu(z) already; what is left for the offset?",
        ),
        Mistake("the gate of a ReLU", smooth_unit_hard_gate, "SiLU is z times a gate that is open by degrees"),
        Mistake(
            "the gate in both places",
            smooth_unit_gate_twice,
            "the tangent touches the curve: its slope is the derivative, which is not the gate",
        ),
        Mistake(
            "the tangent in both places",
            smooth_unit_tangent_twice,
            "the gate is the line through zero and the point, and it has no offset",
        ),
        Mistake(
            "the tangent moved to zero",
            smooth_unit_through_zero,
            "slope · z + offset must be silu(z); a tangent need not pass through zero",
        ),
        Mistake(
            "the tangent with the output as its offset",
            smooth_unit_from_the_point,
            "the offset is where the tangent stands at 0, and not at z",
        ),
        Mistake(
            "the tangent's offset with the wrong sign",
            smooth_unit_wrong_sign,
            "slope · z + offset must be silu(z): what do you have to add to slope · z?",
        ),
        Mistake(
            "the derivative of the sigmoid alone",
            smooth_unit_slope_of_sigmoid,
            "silu(z) is the product z · σ(z); what is the derivative of a product?",
        ),
        Mistake(
            "the derivative that holds the factor z still",
            smooth_unit_slope_without_gate,
            "a product has two factors, and each has its turn to move",
        ),
        Mistake(
            "the derivative with half of that of σ",
            smooth_unit_slope_of_half_a_sigmoid,
            "σ' is σ times something: what becomes of it where σ is nearly 1?",
        ),
        Mistake(
            "the derivative that forgets a factor z",
            smooth_unit_slope_without_z,
            "where σ has its turn to move, its partner z stays in the product",
        ),
        Mistake(
            "the two lines the other way round", smooth_unit_swapped, "asked for is the gate first, then the tangent"
        ),
        Mistake(
            "the offsets before the slopes",
            smooth_unit_offsets_first,
            "asked for is (slope, offset) for each of the two",
        ),
    ],
    hints=[
        "Two straight lines stand for the curve at z: one through 0 and the point, one that touches the curve there. What are the slopes of the two?",
        "gate: (σ(z), 0);  tangent: (σ + z σ (1 − σ), silu(z) − slope · z)",
        "s = sigmoid of z; slope by the product rule; return s with zeros, and slope with z s less slope times z",
    ],
    minutes=8,
    difficulty=3,
    lines=3,
)
