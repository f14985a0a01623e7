"""Linear interpreters: exact at x, affine everywhere, transposed right, on every unit; what is not known is refused."""

import math
import time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from labkit import vision
from labkit.linear_interpreters import Refused, forms, interpret, upscaling
from labkit.linear_interpreters.krylov import largest_singular
from labkit.pictures import picture

EXACT = 1e-9


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(net: nn.Module, seed: int = 0) -> nn.Module:
    """A network in eval mode whose every number is another one, batch statistics included."""
    draw = torch.Generator().manual_seed(seed)
    for name, x in [*net.named_parameters(), *net.named_buffers()]:
        if x.is_floating_point():
            x.data = (
                torch.randn(x.shape, generator=draw, dtype=torch.float64)
                / max(1, x[0].numel() if x.ndim > 1 else 1) ** 0.5
            )
            if "var" in name:
                x.data = x.data**2 + 0.5
    return net.eval()


# ------------------------------------------------------------------ the units, one by one
SIGNS = normal(3, 4, 6, 6, scale=4)
SIGNS[:, :, ::3] = 0
UNITS = {
    "relu": (F.relu, forms.piecewise(SIGNS)),
    "leaky relu": (lambda z: F.leaky_relu(z, 0.2), forms.piecewise(SIGNS, 0.2)),
    "prelu of all channels": (lambda z: F.prelu(z, normal(1, seed=1)), forms.piecewise(SIGNS, normal(1, seed=1))),
    "prelu": (lambda z: F.prelu(z, normal(4, seed=2)), forms.piecewise(SIGNS, normal(4, seed=2))),
    "relu6": (F.relu6, forms.piecewise(SIGNS, 0.0, 0.0, 6.0)),
    "hardtanh": (lambda z: F.hardtanh(z, -1.5, 2), forms.piecewise(SIGNS, 0.0, -1.5, 2.0)),
    "all that there is": (
        lambda z: torch.where(z <= -0.5, 0.3 * (z + 0.5) - 0.5, z.clamp(max=2.0)),
        forms.piecewise(SIGNS, 0.3, -0.5, 2.0),
    ),
    "silu as tangent": (F.silu, forms.tangent(F.silu, SIGNS)),
    "silu as gate": (F.silu, forms.gate(F.silu, SIGNS)),
    "sigmoid as gate": (torch.sigmoid, forms.gate(torch.sigmoid, SIGNS)),
    "softmax as tangent": (lambda z: z.softmax(1), forms.softmax_tangent(SIGNS, 1)),
    "softmax as gate": (lambda z: z.softmax(1), forms.softmax_gate(SIGNS, 1)),
    "instance norm": (
        lambda z: F.instance_norm(z, weight=normal(4, seed=3), bias=normal(4, seed=4)),
        forms.instance_norm(SIGNS, normal(4, seed=3), normal(4, seed=4)),
    ),
    "max pooling": (
        lambda z: F.max_pool2d(z, 3, 2, 1),
        forms.max_pool(SIGNS, F.max_pool2d(SIGNS, 3, 2, 1, return_indices=True)[1]),
    ),
}


@pytest.mark.parametrize("unit", UNITS)
def test_a_frozen_unit_is_the_unit_where_it_was_frozen_and_affine_everywhere(unit):
    f, frozen = UNITS[unit]
    torch.testing.assert_close(frozen.affine(SIGNS), f(SIGNS), rtol=0, atol=1e-12)
    u, v = normal(6, 4, 6, 6, seed=5), normal(6, 4, 6, 6, seed=6)
    torch.testing.assert_close(frozen.linear(2 * u - v), 2 * frozen.linear(u) - frozen.linear(v))
    offset = frozen.affine(torch.zeros_like(u))
    torch.testing.assert_close(frozen.affine(u), frozen.linear(u) + offset)
    torch.testing.assert_close(offset[:3], offset[3:])  # three examples go round


@pytest.mark.parametrize("unit", [name for name in UNITS if name not in ("instance norm",) and "gate" not in name])
def test_its_slope_is_the_derivative_of_the_unit_on_corners_too(unit):
    f, frozen = UNITS[unit]
    z = SIGNS.clone().requires_grad_()
    y = f(z)
    g = normal(*y.shape, seed=7)
    u = torch.zeros_like(SIGNS).requires_grad_()
    (ours,) = torch.autograd.grad(frozen.linear(u), u, g)
    torch.testing.assert_close(ours, torch.autograd.grad(y, z, g)[0])


def test_a_gate_is_the_mask_that_multiplies():
    slope = forms.gate(F.silu, SIGNS).linear(torch.ones_like(SIGNS))
    torch.testing.assert_close(slope, torch.sigmoid(SIGNS))
    assert not forms.gate(F.silu, SIGNS).affine(torch.zeros_like(SIGNS)).any()
    torch.testing.assert_close(
        forms.gate(torch.sigmoid, SIGNS).affine(torch.zeros_like(SIGNS)), torch.full_like(SIGNS, 0.5)
    )


def test_a_gate_near_zero_is_not_made_of_rounding():
    z = torch.logspace(-12, 0, 200, dtype=torch.float32)
    slope = forms.gate(torch.sigmoid, z).linear(torch.ones_like(z))
    exact = (torch.sigmoid(z.double()) - 0.5) / z.double()
    assert (slope - exact).abs().max() < 5e-5


def test_a_frozen_instance_norm_is_not_its_derivative():
    z = SIGNS.clone().requires_grad_()
    g = normal(*z.shape, seed=7)
    (derivative,) = torch.autograd.grad(F.instance_norm(z), z, g)
    ours = forms.instance_norm(SIGNS).linear(g)  # it is diagonal, so its own transpose
    assert (ours - derivative).norm() > 0.01 * derivative.norm()


# ------------------------------------------------------------------ whole networks
class Reused(nn.Module):
    """One module for several calls, calls of functions and methods, in place and out of place."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(2)

    def forward(self, x):
        h = self.relu(self.norm(self.conv(x)) + 4)
        h = self.relu(self.conv(h) - 0.3)
        h = F.relu(self.conv(h), inplace=True) + self.conv(h).relu_()
        h += torch.relu(1 - h) / 2
        return torch.clamp(h.abs(), 0.01, 50)


class Places(nn.Module):
    """What stands in place or only seems to, and what is as large as the input and yet does not depend on it."""

    def forward(self, x):
        h = abs(x) + x
        h = F.instance_norm(h, None, None, torch.ones(2).double(), torch.ones(2).double(), True) + h
        h = F.max_pool2d(h, 3, 2, 0, 1, True) + F.max_pool2d(h, 3, 2, ceil_mode=True)
        h = h - h.new_tensor(9.0)
        h[:, :1].relu_()  # writes into a part of h
        h = h.clamp(min=-1.2).clamp(max=1.5) + torch.ones(1, 1, 1, 1).double().expand_as(h) + h.new_tensor(2.0)
        return torch.add(h, torch.ones(()).double().type_as(h), alpha=3) + F.leaky_relu(h - 3, 0.3, True)


class Left(nn.Module):
    """Operators whose first operand is no part of what is followed."""

    def forward(self, x):
        weight = normal(5, x.shape[2], seed=8).to(x.dtype)
        return (1.5 - (weight @ x).relu()) + 0.5 * x[:, :, :5]


class Bits(nn.Module):
    """What else may stand between two layers."""

    def forward(self, x):
        b, _, h, w = x.shape
        y = F.pad(x, (1, 2, 0, 1), value=0.7)[:, :, :h, :w]
        y = torch.cat([y, torch.ones_like(y), y.flip(3)], 1) * 0.5
        y[:, 0] = 2.0
        y[:, 1] = x.mean(1)
        left, right = y.chunk(2, 3) if w % 2 == 0 else (y[..., :-1], y[..., 1:])
        z = F.interpolate(left + 1, scale_factor=2, mode="bilinear") - F.interpolate(
            right, size=(2 * h, 2 * left.shape[3])
        )
        z = 3 - z.view(b, -1, 2, 2 * left.shape[3]).permute(0, 2, 1, 3).reshape(b, 2, -1)
        return torch.stack([z.sum(2), 2 * z.mean(2)], 1).relu() @ normal(2, 3, seed=9)


def unet() -> nn.Module:
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(2, 4, 4, 2, 1), nn.ConvTranspose2d(4, 3, 4, 2, 1)
            self.norm, self.prelu, self.out = nn.InstanceNorm2d(4, affine=True), nn.PReLU(3), nn.Conv2d(5, 8, 3, 1, 1)

        def forward(self, x):
            y = self.prelu(self.up(F.leaky_relu(self.norm(self.down(x)), 0.1)))
            return F.pixel_shuffle(self.out(torch.cat([x, y], 1)), 2)

    return UNet()


NETS = {
    "strides, depthwise, ReLU6": lambda: nn.Sequential(nn.Conv2d(2, 6, 3, 2), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.Hardtanh(-0.4, 0.7)),
    "pooling of every kind": lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.PReLU(4), nn.AdaptiveMaxPool2d((3, 2)), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
    "a module used several times": Reused,
    "what stands between layers": Bits,
    "a U-net": unet,
    "in place or not": Places,
    "upsampling and shuffling": lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.PixelShuffle(2), nn.Upsample(scale_factor=2, mode="bicubic"), nn.Dropout(0.5), nn.LeakyReLU(), nn.PixelUnshuffle(2)),
    "a constant from the left": lambda: Left(),
    "all that is linear": lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()),
    "nothing": nn.Identity,
}  # fmt: skip
SMOOTH = {
    "SiLU, GELU and softplus": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.SiLU(inplace=True), nn.Conv2d(4, 4, 3), nn.GELU("tanh"), nn.Softplus(2.0)),
    "sigmoid, tanh, ELU": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Sigmoid(), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.ELU(0.7, True), nn.Hardswish()),
    "softmax": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Softmax(1), nn.Conv2d(4, 4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (3, 2, 10, 8)])
def test_a_network_is_its_interpreter_at_x(name, shape):
    net, x = trained(NETS[name]()), normal(*shape, seed=1)
    interp = interpret(net, x)
    check(interp, net)
    assert (interp.matrix().abs().amax((1, 2)) > 1e-3).all(), "a network that is level at x shows nothing"
    g = normal(*interp.y.shape, seed=2)
    if name not in ("a U-net", "in place or not"):  # whose instance norms keep their statistics
        z = x.clone().requires_grad_()
        torch.testing.assert_close(interp.transpose(g), torch.autograd.grad(net(z), z, g)[0])


@pytest.mark.parametrize("smooth", ["gate", "tangent"])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_smooth_network_too_once_the_choice_is_stated(name, smooth):
    net, x = trained(SMOOTH[name]()), normal(2, 2, 7, 6, seed=1)
    interp = interpret(net, x, smooth=smooth)
    check(interp, net)
    g, z = normal(*interp.y.shape, seed=2), x.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(net(z), z, g)
    same = torch.allclose(interp.transpose(g), derivative)
    assert same == (smooth == "tangent")
    with pytest.raises(Refused, match="it is smooth, and where to put a line is a choice: pass smooth="):
        interpret(net, x)


def check(interp, net):
    """F as a matrix made of columns is F as one made of rows, and with r it is the network."""
    found = interp.verify()
    assert max(found) < EXACT
    M = interp.matrix()
    b, x, y = len(interp.x), interp.x.flatten(1), interp.y.flatten(1)
    torch.testing.assert_close(torch.einsum("b o i, b i -> b o", M, x) + interp.residual.flatten(1), y)
    torch.testing.assert_close(net(interp.x.clone()), interp.y)
    o, i = y.shape[1] // 2, x.shape[1] // 3
    torch.testing.assert_close(interp.row(o).flatten(1), M[:, o])
    torch.testing.assert_close(interp.column(i).flatten(1), M[:, :, i])
    assert interp.row(o).shape == interp.x.shape and interp.column(i).shape == interp.y.shape
    u = normal(3 * b, *interp.x.shape[1:], seed=3)
    wanted = torch.einsum("b o i, n b i -> n b o", M, u.view(3, b, -1)).flatten(0, 1)
    torch.testing.assert_close(interp.linear(u).flatten(1), wanted)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.sampled_from(["conv", "relu", "relu6", "max", "twice", "skip", "norm", "prelu", "up", "low", "high"]), min_size=1, max_size=7),
    st.integers(1, 3), st.integers(4, 9), st.integers(4, 9), st.integers(0, 99),
)  # fmt: skip
def test_whatever_the_layers_and_the_shape(layers, b, h, w, seed):
    conv, relu, prelu, norm = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.PReLU(3), nn.BatchNorm2d(3)
    trained(nn.ModuleList([conv, prelu, norm]), seed)
    make = {
        "conv": conv, "relu": relu, "relu6": F.relu6, "prelu": prelu, "norm": norm.eval(),
        "max": lambda x: F.max_pool2d(x, 3, 1, 1), "twice": lambda x: relu(conv(relu(conv(x)))),
        "skip": lambda x: x + F.relu(-x), "up": lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2), 2),
        "low": lambda x: x.clamp(min=-0.5), "high": lambda x: x.clamp(max=0.5),
    }  # fmt: skip

    def net(x):
        for layer in layers:
            x = make[layer](x)
        return x

    x = normal(b, 3, h, w, seed=seed)
    interp = interpret(net, x)
    assert max(interp.verify()) < EXACT
    z, g = x.clone().requires_grad_(), normal(b, 3, h, w, seed=seed + 1)
    torch.testing.assert_close(interp.transpose(g), torch.autograd.grad(net(z), z, g)[0])


def test_it_is_exact_enough_in_float32():
    for make in NETS.values():
        if make in (Bits, Places):  # which have numbers in double precision of their own
            continue
        net = trained(make()).float()
        assert max(interpret(net, normal(2, 2, 8, 8).float()).verify()) < 1e-4


def test_a_unit_that_is_called_twice_decides_twice():
    net, x = trained(Reused()), normal(1, 2, 5, 5)
    names = [step.name for step in interpret(net, x).steps]
    assert names == ["relu", "relu", "relu", "relu", "relu", "abs", "clamp"]


def test_the_residual_is_no_difference_and_not_the_network_at_zero():
    net = trained(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 3)))
    interp = interpret(net, normal(1, 2, 7, 7))
    assert not torch.allclose(interp.residual, net(torch.zeros(1, 2, 7, 7).double()))
    bare = trained(nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.Conv2d(3, 1, 3, bias=False)))
    assert not interpret(bare, normal(1, 2, 7, 7)).residual.any()


def test_within_the_same_gates_it_is_the_network_and_beyond_them_it_is_not():
    net, x = trained(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 3))), normal(1, 2, 7, 7)
    interp = interpret(net, x)
    near, far = x + 1e-6 * normal(1, 2, 7, 7, seed=1), x + normal(1, 2, 7, 7, seed=1)
    torch.testing.assert_close(interp(near), net(near))
    assert (interp(far) - net(far)).norm() > 0.1 * (net(far) - net(x)).norm()


def test_what_is_replayed_is_differentiable():
    net, x = trained(Reused()), normal(1, 2, 5, 5)
    interp = interpret(net, x)
    u, g = normal(2, 2, 5, 5, seed=1).requires_grad_(), normal(2, 2, 5, 5, seed=2)
    torch.testing.assert_close(torch.autograd.grad(interp(u), u, g)[0], interp.transpose(g))


def test_nothing_that_it_was_given_is_written_into():
    x, weights = normal(2, 2, 6, 6), trained(Reused())
    before = {name: value.clone() for name, value in weights.state_dict().items()} | {"x": x.clone()}
    interp = interpret(weights, x)
    u = normal(2, 2, 6, 6, seed=1)
    kept = u.clone()
    interp.verify(), interp(u), interp.linear(u), interp.transpose(u), interp.matrix()
    assert torch.equal(u, kept)
    for name, value in (weights.state_dict() | {"x": x}).items():
        assert torch.equal(value, before[name]), name
    assert not any(p.grad is not None for p in weights.parameters())


# ------------------------------------------------------------------ singular vectors
@pytest.mark.parametrize("b", [1, 2])
def test_singular_values_and_vectors_are_those_of_the_matrix(b):
    net = trained(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.PixelShuffle(1)))
    interp = interpret(net, normal(b, 2, 7, 6))
    U, S, V = interp.singular(5)
    assert (U.shape, S.shape, V.shape) == ((b, 5, *interp.y.shape[1:]), (b, 5), (b, 5, 2, 7, 6))
    M = interp.matrix()
    torch.testing.assert_close(S, torch.linalg.svdvals(M)[:, :5])
    torch.testing.assert_close(V.flatten(2) @ M.mT, S[..., None] * U.flatten(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(U.flatten(2) @ U.flatten(2).mT, torch.eye(5).double().expand(b, 5, 5), atol=1e-9, rtol=0)
    top = V.flatten(2)
    assert (top.gather(2, top.abs().argmax(2, keepdim=True)) > 0).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.booleans(), st.integers(0, 99))
def test_they_are_for_any_matrix_of_low_rank_or_with_equal_values_too(outs, ins, rank, equal, seed):
    rank = min(outs, ins, rank)
    left, right = (torch.linalg.qr(normal(n, rank, seed=seed + i)).Q for i, n in enumerate((outs, ins)))
    values = torch.ones(rank).double() if equal else normal(rank, seed=seed).abs()
    M, k = (left * values) @ right.mT, max(1, rank // 2)
    start = normal(1, min(k + 4, outs, ins), ins, seed=seed + 5)
    U, S, V = largest_singular(lambda x: x @ M.mT, lambda x: x @ M, start, k, min(outs, ins), 1e-11)
    torch.testing.assert_close(S[0], torch.linalg.svdvals(M)[:k], atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(V @ M.mT, S[..., None] * U, atol=1e-5, rtol=0)


# ------------------------------------------------------------------ refused
class Script(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g


def written(into, x):
    into[:, :1] = x[:, :1]
    return into + x


CONV = trained(nn.Conv2d(2, 2, 3))
REFUSED = {
    "gt: it is called on what is made from the input": lambda x: x * (x > 0),
    "sort: it is called on what": lambda x: x.sort(1)[0],
    "layer_norm: it is called on what": lambda x: F.layer_norm(x, x.shape[1:]),
    "max: it is called on what": lambda x: x / x.max(),
    "mul: two of its tensors are made from the input": lambda x: x * x.sigmoid() if x.ndim == 0 else x * (x + 1),
    "matmul: two of its tensors": lambda x: x @ x.mT,
    "conv2d: two of its tensors": lambda x: F.conv2d(x, x[:, :, :1, :1]),
    "conv2d: its weight is made from the input": lambda x: F.conv2d(torch.ones(1, 2, 9, 9).double(), x),
    "reciprocal: it is called on what": lambda x: x.reciprocal(),
    "rdiv: it is called on what": lambda x: 1 / x,
    "div: it divides by what is made from the input": lambda x: torch.div(torch.ones(()).double(), x),
    "item: it is called on what": lambda x: x * x[0, 0, 0, 0].item(),
    "bool: it is called on what": lambda x: x if x[0, 0, 0, 0] else -x,
    "detach: it is called on what": lambda x: x.detach() + x,
    "data: it is called on what": lambda x: x.data,
    "batch_norm: the network is in training mode": nn.BatchNorm2d(2).double().train(),
    "dropout: the network is in training mode": nn.Dropout().train(),
    "batch_norm: only torch.nn.functional.batch_norm": lambda x: torch.batch_norm(
        x, None, None, torch.zeros(2).double(), torch.ones(2).double(), False, 0.1, 1e-5, False
    ),
    "instance_norm: with running statistics": trained(nn.InstanceNorm2d(2, track_running_stats=True)),
    "max_pool2d_with_indices: it is called on what": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "conv2d: its arguments all have keywords": lambda x: F.conv2d(input=x, weight=CONV.weight),
    "prelu: another tensor than its first": lambda x: F.prelu(x, x[0, :, 0, 0]),
    "clamp: only clamping between numbers": lambda x: x.clamp(min=torch.zeros(()).double()),
    "clamp: another tensor than its first": lambda x: x.clamp(min=x + 1),
    "mul: the network turns gradients on or off": Straight.apply,
    "relu: the network turns gradients on or off": torch.no_grad()(lambda x: x.relu()),
    "setitem: it writes what is made from the input into another": lambda x: written(torch.zeros_like(x), x),
    "add: it writes what is made from the input into another": lambda x: torch.zeros(1, 2, 7, 7).double().add_(x),
    "add: it writes": lambda x: torch.add(x, x, out=torch.zeros(1, 2, 7, 7).double()),
    "copy: it writes what is made": lambda x: torch.zeros(1, 2, 7, 7).double().copy_(x),
    "to: it rounds what is made from the input": lambda x: x.to(torch.int32).to(x.dtype),
    "the network returns tuple": lambda x: (x, x),
    "the network returns (2, 7, 7)": lambda x: x[0],
    "the network returns": lambda x: torch.ones(1),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_does_not_know_is_refused_by_name(what):
    with pytest.raises(Refused) as refusal:
        interpret(REFUSED[what], normal(1, 2, 7, 7))
    assert str(refusal.value).startswith(what)
    assert "\n" not in str(refusal.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_and_not_taken_for_linear():
    with pytest.raises(Refused):
        interpret(torch.jit.script(Script()), normal(1, 2, 7, 7))


def test_a_network_whose_course_depends_on_its_input_is_refused_when_it_takes_another():
    calls = []

    def net(x):
        calls.append(1)
        return x.relu() if len(calls) == 1 else F.relu6(x)

    interp = interpret(net, normal(1, 2, 3, 3))
    with pytest.raises(Refused, match="relu6: the network did not call this when it ran on x"):
        interp(normal(1, 2, 3, 3))
    calls.clear()
    interp = interpret(lambda x: net(x).relu() if not calls else x + 0, normal(1, 2, 3, 3))
    with pytest.raises(Refused, match="the network made fewer calls"):
        interp(normal(1, 2, 3, 3))


HIDDEN = {
    "exact is off": lambda x: x + torch.rand(()).double(),
    "apart is off": lambda x: x - x.mean(0),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_verify_finds_what_cannot_be_seen_in_a_call(what):
    interp = interpret(HIDDEN[what], normal(1, 2, 5, 5))
    with pytest.raises(ArithmeticError, match=f"verify: {what} by"):
        interp.verify()


def test_verify_finds_a_frozen_unit_that_is_wrong():
    net = nn.Sequential(nn.ReLU(), nn.Flatten())
    x = normal(1, 2, 5, 5, seed=4)
    wrong = {
        "exact": lambda z, *unit: forms.scaled((z > 0) * 1.1),
        "affine": lambda z, *unit: forms.Frozen(lambda u: u * (x > 0), torch.relu),
        "linear": lambda z, *unit: forms.Frozen(
            lambda u: u * (x > 0), lambda u: u * (x > 0) + u.roll(1, 3) * x - u * x.roll(1, 3)
        ),
    }
    for name, piecewise in wrong.items():
        with pytest.raises(ArithmeticError, match=f"verify: {name} is off"):
            interpret(net, x, piecewise=piecewise).verify()


X = normal(2, 3, 4, 4)
BAD = {
    "x: expected floats (b …)": lambda i: interpret(nn.ReLU(), X.long()),
    "x: expected floats (b …) with at least one example, got (0, 3)": lambda i: interpret(nn.ReLU(), X[:0, :, 0, 0]),
    "x: expected floats (b …) with at least one example, got list": lambda i: interpret(nn.ReLU(), [1.0]),
    "smooth: expected 'gate', 'tangent' or None": lambda i: interpret(nn.ReLU(), X, smooth="both"),
    "u: expected (2 n, 3, 4, 4), got (3, 3, 4, 4)": lambda i: i(X[:1].repeat(3, 1, 1, 1)),
    "u: expected (2 n, 3, 4, 4), got (2, 3, 4, 5)": lambda i: i.linear(normal(2, 3, 4, 5)),
    "u: expected torch.float64 on cpu, got torch.float32": lambda i: i(X.float()),
    "g: expected (2 n, 48)": lambda i: i.transpose(X),
    "output_index: expected one flat index below 48": lambda i: i.row(48),
    "output_index: expected one flat index below 48 or one for each of (48,)": lambda i: i.row((1, 2)),
    "input_index: expected one flat index below 48 or one for each of (3, 4, 4)": lambda i: i.column((0, 0, 4)),
    "k: expected 1 to 48": lambda i: i.singular(49),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name(what):
    interp = interpret(nn.Sequential(nn.ReLU(), nn.Flatten()), X)
    with pytest.raises(ValueError) as refusal:
        BAD[what](interp)
    assert str(refusal.value).startswith(what)
    assert "\n" not in str(refusal.value)


def test_a_place_can_be_named_along_each_axis():
    interp = interpret(trained(nn.Conv2d(2, 3, 3)), normal(1, 2, 6, 5))
    assert torch.equal(interp.row((1, 2, 0)), interp.row(1 * 12 + 2 * 3 + 0))
    assert torch.equal(interp.column((1, 2, 4)), interp.column(1 * 30 + 2 * 5 + 4))
    assert math.prod(interp.y.shape[1:]) == 36


# ------------------------------------------------------------------ the networks of the lesson
REAL = {
    "EfficientNet-Lite0": lambda: (vision.classifier(), vision.classifier_input(picture("chelsea"))),
    "waifu2x": lambda: (vision.upscaler(), picture("coffee")[None, :, 100:124, 200:220] / 255),
    "small": lambda: (upscaling.untrained(), upscaling.pair("camera")[0][..., 60:84, 100:120]),
}


@pytest.mark.parametrize("name", REAL)
def test_real_networks_are_exact_in_both_precisions(name, record_property):
    net, x = REAL[name]()
    single = max(interpret(net, x).verify())
    double = max(interpret(net.double(), x.double()).verify())
    record_property(f"{name}, largest relative error", f"float32 {single:.0e}, float64 {double:.0e}")
    assert single < 1e-4 and double < 1e-9


def test_a_row_of_a_real_network_is_the_gradient_of_its_output():
    net, x = REAL["EfficientNet-Lite0"]()
    z = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(net(z)[0, 285], z)
    row = interpret(net, x).row(285)
    assert (row - wanted).norm() < 1e-5 * wanted.norm()


def test_the_whole_matrix_of_a_patch_takes_less_than_two_seconds():
    interp = interpret(upscaling.untrained(), upscaling.pair("camera")[0][..., 60:84, 100:124])
    interp.matrix()
    began = time.process_time()
    assert interp.matrix().shape == (1, 48 * 48, 24 * 24)
    assert time.process_time() - began < 2
