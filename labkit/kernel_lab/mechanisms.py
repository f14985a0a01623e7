"""What four mechanisms cost for t tokens of one head of size d, in closed form; tests hold it against counted kernels.

FLOPs are those of tiles, so that half of what is computed on a causal diagonal is thrown away again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2

from labkit.kernel_lab.roofline import GPU, Landing, arithmetic

BLOCK_Q, BLOCK_K = 64, 32  # of kernels.attention_sinks
COLS = 32  # of the state, that a program of kernels.delta_rule keeps


@dataclass(frozen=True)
class Cost:
    matrix: Mapping[str, float]  # FLOPs of products, as Work has them
    other: float  # FLOPs
    bytes: float  # the least traffic: between launches everything goes through memory

    @property
    def flops(self) -> float:
        return sum(self.matrix.values()) + self.other

    def land(self, gpu: GPU) -> Landing:
        return Landing(gpu, self.flops, self.bytes, arithmetic(self.matrix, self.other, gpu))


def softmax(t: int, d: int, size: int) -> Cost:
    """Causal softmax attention, never writing its weights down: Q Kᵀ and P V of each pair of blocks (exp not counted).

    size: bytes of an element of q, k, v and out; 4 takes exact float32 products, as the kernel does.
    """
    pairs = sum(-(-min(first + BLOCK_Q, t) // BLOCK_K) for first in range(0, t, BLOCK_Q))
    return Cost(
        {"half" if size == 2 else "float32": 4.0 * pairs * BLOCK_Q * BLOCK_K * d}, 0.0, 4 * t * d * size + 4 * t
    )


def recurrent(t: int, d: int, size: int) -> Cost:
    """Linear attention, one launch a token, as in generation: the float32 state is read and written for every token.

    S ← S + k vᵀ and o = Sᵀ q: d² products and d² sums, twice, less the first of each sum.
    """
    return Cost({}, t * (4.0 * d * d - d), t * (2 * 4 * d * d + 4 * d * size))


def chunkwise(t: int, d: int, size: int, chunk: int) -> Cost:
    """Linear attention by chunks of C in one launch that keeps the state: Q S, Q Kᵀ, P V and Kᵀ V of each chunk."""
    flops = t // chunk * (4.0 * chunk * chunk * d + 4.0 * chunk * d * d)
    return Cost({"half" if size == 2 else "tf32x3": flops}, 0.0, 4 * t * d * size)


def delta(t: int, d: int, size: int, chunk: int) -> Cost:
    """The delta rule by chunks, as the three forward kernels of kernels.delta_rule: inverse, states, outputs."""
    n, across = t // chunk, d // COLS
    inverse = 4.0 * chunk**3 * (log2(chunk) - 1)  # two products for every doubling after blocks of two
    states = across * (4.0 * chunk * d * COLS + 2.0 * chunk * chunk * COLS)
    outputs = 4.0 * chunk * chunk * d + 2.0 * chunk * d * d
    rest = 2.0 * chunk * chunk * d + states + outputs
    products = {"half": n * rest, "tf32": n * inverse} if size == 2 else {"tf32x3": n * (rest + inverse)}
    token, beta, square, state = t * d * size, t * size, t * chunk * size, d * d
    between = n * state * size  # the states before every chunk
    read = {
        "inverse": token + beta,
        "states": 2 * token + beta + square + 4 * state,
        "outputs": 3 * token + beta + between,
    }
    written = {"inverse": square, "states": between + token + 4 * state, "outputs": token}
    return Cost(products, 0.0, sum(read.values()) + sum(written.values()))
