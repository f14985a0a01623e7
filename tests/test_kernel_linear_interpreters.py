"""The gate kernels: equal to the definition on any shape, compiled for four GPUs, differentiated right, and small."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_proofs import DEVICE, EXACT, TOLERANCE, assert_same_launch, gradients, hostile, recorded, worst
from torch import nn

import kernels
from labkit.linear_interpreters import forms, interpret

UNITS = {  # below (one number, or "c" for one a channel), low, high
    "ReLU": (0.0, 0.0, math.inf),
    "leaky ReLU": (0.1, 0.0, math.inf),
    "PReLU": ("c", 0.0, math.inf),
    "ReLU6": (0.0, 0.0, 6.0),
    "Hardtanh": (0.0, -1.0, 1.0),
    "all that there is": ("c", -0.5, 2.0),
}
SHAPES = {  # b, n, the shape of an example
    "less than a word": (1, 1, (3, 1, 2)),
    "ragged to the word": (2, 3, (5, 3, 7)),
    "whole words": (1, 2, (4, 4, 4)),
    "more than a program": (2, 1, (3, 20, 33)),
    "one channel": (1, 1, (1, 50)),
    "no further axes": (3, 2, (7,)),
    "no examples": (0, 1, (2, 3)),
    "no units": (2, 2, (2, 0, 3)),
    "one dimension more": (1, 1, (3, 2, 5, 4)),
}


def module():
    return kernels.linear_interpreters


def inputs(b, n, shape, below, dtype=EXACT, seed=0):
    """z, u and the slopes under the low corner, with units on every piece and exactly on the corners."""
    draw = torch.Generator().manual_seed(seed)
    z = 4 * torch.randn(b, *shape, generator=draw, dtype=torch.float64)
    z[torch.rand(z.shape, generator=draw) < 0.2] = 0
    z[torch.rand(z.shape, generator=draw) < 0.1] = 6
    u = torch.randn(n * b, *shape, generator=draw, dtype=torch.float64)
    slopes = torch.randn(shape[0] if below == "c" else 1, generator=draw, dtype=torch.float64)
    if below != "c":
        slopes[:] = below
    return [x.to(DEVICE, dtype) for x in (z, u, slopes)]


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS.keys())
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_it_and_its_gradient_equal_the_definition(shape, unit):
    below, low, high = unit
    z, u, slopes = inputs(*shape, below)
    u.requires_grad_()
    with hostile():
        packed = forms.packed(z, slopes if len(slopes) > 1 else float(slopes), low, high)
        out, linear = packed.affine(u), packed.linear(u)
        d_out = torch.randn_like(out)
        got = gradients((out * d_out).sum(), [u])
    frozen = forms.piecewise(z.double(), slopes.double() if len(slopes) > 1 else float(slopes), low, high)
    exact = u.double()
    assert worst(out, frozen.affine(exact)) < TOLERANCE[EXACT]
    assert worst(linear, frozen.linear(exact)) < TOLERANCE[EXACT]
    (wanted,) = gradients((frozen.affine(exact) * d_out).sum(), [u])
    assert worst(got[0], wanted) < TOLERANCE[EXACT]
    assert (out.dtype, out.shape) == (u.dtype, u.shape)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.integers(1, 40), min_size=1, max_size=3),
    st.sampled_from([*UNITS]),
)
def test_it_equals_the_definition_whatever_the_shape(b, n, shape, unit):
    below, low, high = UNITS[unit]
    z, u, slopes = inputs(b, n, tuple(shape), below, seed=len(shape))
    with hostile():
        packed = forms.packed(z, slopes if len(slopes) > 1 else float(slopes), low, high)
        out = packed.affine(u)
    frozen = forms.piecewise(z.double(), slopes.double() if len(slopes) > 1 else float(slopes), low, high)
    assert worst(out, frozen.affine(u.double())) < TOLERANCE[EXACT]


def test_the_unit_itself_is_what_it_is_at_the_input_it_was_recorded_on():
    z, _, slopes = inputs(2, 1, (3, 9, 5), "c")
    out = forms.packed(z, slopes).affine(z)
    assert worst(out, nn.functional.prelu(z.double(), slopes.double())) < TOLERANCE[EXACT]


def test_a_replay_is_differentiated_twice():
    z, u, slopes = inputs(1, 2, (3, 8), "c", torch.float64 if torch.float64 == EXACT else EXACT)
    packed = forms.packed(z, slopes)
    u.requires_grad_()
    g = torch.ones_like(u).requires_grad_()
    (back,) = torch.autograd.grad(packed.affine(u), u, g, create_graph=True)
    (forth,) = torch.autograd.grad(back, g, u.detach())
    assert worst(forth, packed.linear(u).double()) < TOLERANCE[EXACT]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_half_and_single_precision_stay_near_float64_and_keep_their_dtype(dtype):
    z, u, slopes = inputs(2, 2, (3, 30, 11), "c", dtype)
    out = forms.packed(z, slopes, -0.5, 2.0).affine(u)
    wanted = forms.piecewise(z.double(), slopes.double(), -0.5, 2.0).affine(u.double())
    assert out.dtype == dtype
    assert worst(out, wanted) < TOLERANCE[dtype]


def test_tensors_with_any_strides_are_read_as_they_are():
    z, u, slopes = inputs(2, 1, (3, 8, 5), "c")
    turned = forms.packed(z.transpose(2, 3), slopes).affine(u.transpose(2, 3))
    assert worst(turned, forms.packed(z, slopes).affine(u).transpose(2, 3).double()) == 0


def test_a_gate_is_kept_in_two_bits():
    z, _, _ = inputs(3, 1, (5, 16, 11), 0.0)
    pieces = module().record(z)
    assert (pieces.shape, pieces.dtype) == ((3, 55), torch.int32)
    codes = (pieces[..., None] >> (2 * torch.arange(16, device=DEVICE))) & 3
    assert torch.equal(codes.flatten(1), torch.where(z > 0, 1, 0).flatten(1).to(torch.int32))


def test_a_whole_network_is_replayed_through_the_kernels():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3), nn.ReLU6(), nn.Conv2d(6, 5, 3), nn.PReLU(5), nn.Conv2d(5, 1, 3), nn.Hardtanh()]
    net = nn.Sequential(*layers).to(DEVICE, EXACT)
    x = torch.randn(2, 2, 11, 9).to(DEVICE, EXACT)
    ours, kernel = interpret(net, x), interpret(net, x, piecewise=forms.packed)
    assert kernel.verify()
    u = torch.randn(4, 2, 11, 9).to(DEVICE, EXACT)
    assert worst(kernel(u), ours(u).double()) < TOLERANCE[EXACT]
    assert worst(kernel.row(3), ours.row(3).double()) < TOLERANCE[EXACT]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("name", ["gate_record", "gate_replay"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_it_compiles_without_spills(target, name, dtype):
    from labkit.kernel_lab import compile_report

    case = next(case for case in module().CASES if case.name == f"{name} {dtype}")
    report = compile_report(case, target)
    assert report.spills == 0, report
    assert report.tensor_core == 0  # nothing is multiplied with a matrix


def test_a_case_compiles_what_a_launch_launches(monkeypatch):
    launched = recorded(monkeypatch)
    z = torch.zeros(1, 96, 112, 112, device=DEVICE)
    pieces = module().record(z, 0.0, 6.0)
    module().replay(z, pieces, torch.zeros(96, device=DEVICE), 0.0, 6.0, offset=True)
    cases = {case.name: case for case in module().CASES}
    for name, launch in launched.items():
        assert_same_launch(launch, cases[f"{name} float32"])
    assert len(launched) == 2


Z = torch.zeros(2, 3, 4)
BAD = {
    "z: expected a float tensor": lambda: module().record(Z.long()),
    "z: expected (b …)": lambda: module().record(Z[0, 0]),
    "low: expected at most high": lambda: module().record(Z, 1.0, 0.0),
    "pieces: expected int32 (b 1)": lambda: module().replay(Z, torch.zeros(2, 1), torch.zeros(1), offset=True),
    "pieces: expected int32 (b 1) for u (3, 3, 4)": lambda: module().replay(
        torch.zeros(3, 3, 4), torch.zeros(2, 1, dtype=torch.int32), torch.zeros(1), offset=True
    ),
    "slopes: expected (1) or (c) = (3)": lambda: module().replay(
        Z, torch.zeros(2, 1, dtype=torch.int32), torch.zeros(2), offset=True
    ),
    "slopes: expected torch.float32": lambda: module().replay(
        Z, torch.zeros(2, 1, dtype=torch.int32), torch.zeros(1).double(), offset=True
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name(what):
    with pytest.raises(ValueError) as refusal:
        BAD[what]()
    assert str(refusal.value).startswith(what)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(kernels.WHERE == "compiled", reason="on a GPU bfloat16 is right")
def test_bfloat16_is_refused_where_the_interpreter_is_wrong():
    with pytest.raises(TypeError, match=r"z: bfloat16 is silently wrong .* pass z.half\(\) or z.float\(\)"):
        module().record(Z.bfloat16())
