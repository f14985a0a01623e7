"""Linear interpreters: rows and columns against a forward pass, a whole matrix against torch's, what gates take."""

from collections.abc import Iterator

import torch

import kernels
from labkit import vision
from labkit.linear_interpreters import Interpreter, forms, interpret, upscaling
from labkit.pictures import picture
from labkit.rounds import Row, ratios, rounds, row


def kept(interp: Interpreter) -> tuple[int, int]:
    """Bytes of the gates of a network of ReLU6: at two bits each, and with a slope and an offset for each."""
    gates = [step.shape.numel() for step in interp.steps]
    return sum(-(-n // 16) * 4 for n in gates), sum(gates) * 2 * interp.x.element_size()


def main() -> Iterator[Row]:
    yield from classifier()
    yield from upscaler()
    if kernels.WHERE == "compiled":
        yield from compiled("cuda", (2, 1, 96, 112, 112), 20)


def classifier() -> Iterator[Row]:
    what = "EfficientNet-Lite0, one picture"
    net, x = vision.classifier(), vision.classifier_input(picture("chelsea"))
    interp = interpret(net, x)
    wanted = x.clone().requires_grad_()

    @torch.no_grad()
    def forward() -> None:
        net(x)

    def first() -> torch.Tensor:
        """With a replay of its own, as for a single row."""
        interp._transposed = None
        return interp.row(281)

    def autograd() -> torch.Tensor:
        """The same row, by torch on the network itself."""
        return torch.autograd.grad(net(wanted)[0, 281], wanted)[0]

    torch.testing.assert_close(first().flatten(), autograd().flatten(), rtol=1e-3, atol=1e-4)
    ours = {
        "interpret": lambda: interpret(net, x),
        "first row": first,
        "next row": lambda: interp.row(281),
        "column": lambda: interp.column(0),
    }
    took = rounds({**ours, "forward": forward, "autograd's row": autograd}, 7)
    for name in ours:
        yield from ratios(what, {name: took[name], "forward": took["forward"]}, name)
    for name in ("first row", "next row"):
        yield from ratios(what, {name: took[name], "autograd's row": took["autograd's row"]}, name)
    bits, lines = kept(interp)
    yield row(f"{what}, its gates", "two bits", [bits / 2**20], "MiB")
    yield row(f"{what}, its gates", "two bits", [bits / lines], "of the memory", "slope and offset")


def upscaler() -> Iterator[Row]:
    what = "small ×2 net, F of a 24 × 24 patch"
    low, _ = upscaling.pair("camera")
    interp = interpret(upscaling.untrained(), low[..., 60:84, 60:84])

    def jacobian() -> None:
        """The same matrix, by torch on the network itself."""
        torch.func.vmap(torch.func.jacrev(interp.net))(interp.x[:, None])

    took = rounds({"matrix": interp.matrix, "jacrev": jacobian, "12 singular": lambda: interp.singular(12)}, 3)
    for name in ("matrix", "12 singular"):
        yield row(what, name, took[name], "s")
        yield from ratios(what, {name: took[name], "jacrev": took["jacrev"]}, name)


def compiled(device: str, shape: tuple[int, ...], n: int) -> Iterator[Row]:
    """The gates' kernel on the GPU: a replay of gates that are kept as bits, and as slopes."""
    z, u = torch.randn(shape, device=device)
    frozen = {"kernel": forms.packed(z, 0.0, 0.0, 6.0), "torch": forms.piecewise(z, 0.0, 0.0, 6.0)}
    took = rounds({name: lambda gate=gate: gate.affine(u) for name, gate in frozen.items()}, n)
    yield from ratios(f"replay of {' × '.join(map(str, shape[2:]))} gates, GPU", took, "kernel")
