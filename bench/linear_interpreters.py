"""Linear interpreters: a row and a column against one forward pass, a whole matrix, and what the gates take to keep."""

import statistics

import torch

import kernels
from labkit import vision
from labkit.linear_interpreters import Interpreter, forms, interpret, upscaling
from labkit.pictures import picture
from labkit.rounds import report, rounds


def kept(interp: Interpreter) -> tuple[int, int, int]:
    """(gates, bytes of a slope and an offset for each, bytes at two bits each) of a network of ReLU6."""
    gates = sum(step.shape.numel() for step in interp.steps)
    return gates, gates * 2 * interp.x.element_size(), sum(-(-step.shape.numel() // 16) * 4 for step in interp.steps)


def classifier() -> None:
    net, x = vision.classifier(), vision.classifier_input(picture("chelsea"))
    interp = interpret(net, x)
    wanted = x.clone().requires_grad_()

    @torch.no_grad()
    def forward() -> None:
        net(x)

    def fresh() -> None:
        """With a replay of its own, as for a single row."""
        interp._transposed = None
        interp.row(281)

    def autograd() -> None:
        """The same row, by torch on the network itself."""
        torch.autograd.grad(net(wanted)[0, 281], wanted)

    contestants = {
        "forward": forward,
        "interpret": lambda: interpret(net, x),
        "first row": fresh,
        "next row": lambda: interp.row(281),
        "autograd's row": autograd,
        "column": lambda: interp.column(0),
    }
    took = rounds(contestants, 9)
    for name in contestants.keys() - {"forward"}:
        report("EfficientNet-Lite0, one picture", {name: took[name], "forward": took["forward"]}, name)
    gates, lines, bits = kept(interp)
    said = f"{lines / 2**20:.0f} MiB as slopes and offsets, {bits / 2**20:.1f} MiB as bits"
    print(f"{gates / 1e6:.1f} million gates: {said}")


def upscaler() -> None:
    low, _ = upscaling.pair("camera")
    interp = interpret(upscaling.untrained(), low[..., 60:84, 60:84])

    def jacobian() -> None:
        """The same matrix, by torch on the network itself."""
        torch.func.vmap(torch.func.jacrev(interp.net))(interp.x[:, None])

    contestants = {"matrix": interp.matrix, "jacrev": jacobian, "12 singular": lambda: interp.singular(12)}
    took = rounds(contestants, 3)
    report("small ×2 net, F of a 24 × 24 patch", {k: took[k] for k in ("matrix", "jacrev")}, "matrix")
    for name in ("matrix", "12 singular"):
        print(f"small ×2 net, 24 × 24, {name}: {statistics.median(took[name]):.2f} s")


def gates() -> None:
    """In Triton's interpreter this says nothing of speed; on a GPU it does."""
    if kernels.WHERE != "compiled":
        print("gate kernels: timed where there is a GPU")
        return
    z, u = torch.randn(2, 1, 96, 112, 112, device="cuda")
    frozen = {"kernel": forms.packed(z, 0.0, 0.0, 6.0), "torch": forms.piecewise(z, 0.0, 0.0, 6.0)}

    def replay(name: str):
        frozen[name].affine(u)
        torch.cuda.synchronize()

    report("replay of 96 × 112 × 112 gates", rounds({n: lambda n=n: replay(n) for n in frozen}, 20), "kernel")


def main() -> None:
    classifier()
    upscaler()
    gates()


if __name__ == "__main__":
    main()
