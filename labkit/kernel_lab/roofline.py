"""Where a launch lands under the roofline of a GPU (Williams, Waterman, Patterson 2009, doi 10.1145/1498765.1498785).

A model on paper: no launch takes less time than its operations at the peak rate, nor less than its bytes at the peak
bandwidth; with I = FLOPs / bytes it reaches at most min(peak, I · bandwidth) FLOP/s. Nothing here was timed on a GPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # counting needs Triton, and a roofline does not
    from labkit.kernel_lab.work import Work


@dataclass(frozen=True)
class GPU:
    """What a data sheet promises: dense matrix products (no sparsity), other arithmetic, memory."""

    name: str
    target: str  # of compile_report
    units: int  # multiprocessors, or compute units
    half: float  # FLOP/s of float16 and bfloat16 products on tensor (matrix) cores
    tf32: float  # FLOP/s of tf32 products on them
    float32: float  # FLOP/s of float32 outside them
    bandwidth: float  # bytes/s
    source: str

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.half / 1e12:,.1f} TFLOP/s half, {self.tf32 / 1e12:,.1f} tf32, "
            f"{self.float32 / 1e12:,.1f} float32, {self.bandwidth / 1e12:.2f} TB/s, {self.units} units ({self.source})"
        )


GPUS: Mapping[str, GPU] = {
    "A100": GPU(
        "A100 80GB SXM", "sm_80", 108, 312e12, 156e12, 19.5e12, 2.039e12,
        "NVIDIA A100 Tensor Core GPU datasheet; units: NVIDIA A100 Tensor Core GPU Architecture whitepaper",
    ),
    "H100": GPU(
        "H100 SXM5", "sm_90", 132, 1979e12 / 2, 989e12 / 2, 67e12, 3.35e12,
        "NVIDIA H100 Tensor Core GPU datasheet, which prints twice the dense rate of tensor cores, with sparsity; "
        "units: NVIDIA H100 Tensor Core GPU Architecture whitepaper",
    ),
    "MI300X": GPU(
        "MI300X", "gfx942", 304, 1307.4e12, 653.7e12, 163.4e12, 5.3e12,
        "AMD Instinct MI300X Accelerator data sheet",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Landing:
    """A launch under a GPU's roofline."""

    gpu: GPU
    flops: float
    bytes: float  # of traffic to memory that were assumed
    arithmetic: float  # seconds that the operations take at the peak rates

    @property
    def peak(self) -> float:
        """FLOP/s that this mix of operations reaches at most, if memory were infinitely fast."""
        return self.flops / self.arithmetic if self.arithmetic else self.gpu.float32

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        return self.flops / self.bytes

    @property
    def ridge(self) -> float:
        """The intensity from which on arithmetic is the bound."""
        return self.peak / self.gpu.bandwidth

    @property
    def attainable(self) -> float:
        """FLOP/s under the roof."""
        return min(self.peak, self.intensity * self.gpu.bandwidth)

    @property
    def bound(self) -> str:
        return "memory" if self.intensity < self.ridge else "compute"

    @property
    def seconds(self) -> float:
        """No launch on this GPU takes less."""
        return max(self.arithmetic, self.bytes / self.gpu.bandwidth)


def land(work: "Work", gpu: str = "H100", *, cache: bool = True) -> Landing:
    """Where a counted launch lands on "A100", "H100" or "MI300X".

    cache=True assumes the least traffic to memory, each element once; False that every program's own goes there.
    """
    chosen = named(gpu)
    moved = work.distinct if cache else work.moved
    return Landing(chosen, work.flops, moved, arithmetic(work.matrix, work.other, chosen))


def arithmetic(matrix: Mapping[str, float], other: float, gpu: GPU) -> float:
    """Seconds at the peak rates for FLOPs as `Work` has them.

    Tensor cores work beside the other units, which also multiply what is to be exact in float32; tf32x3 is three
    products. Raises ValueError for products without a peak here.
    """
    rates = {"half": gpu.half, "tf32": gpu.tf32, "tf32x3": gpu.tf32 / 3}
    if further := matrix.keys() - rates.keys() - {"float32"}:
        raise ValueError(f"matrix: no data sheet's peak is kept for products of {', '.join(sorted(further))}")
    tensor_cores = sum(flops / rates[kind] for kind, flops in matrix.items() if kind in rates)
    return max(tensor_cores, (other + matrix.get("float32", 0.0)) / gpu.float32)


def named(gpu: str) -> GPU:
    """The GPU of a short name."""
    if gpu not in GPUS:
        raise ValueError(f"gpu: expected one of {', '.join(GPUS)}, got {gpu!r}")
    return GPUS[gpu]
