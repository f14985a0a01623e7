"""The largest singular values of a matrix known by its products alone: block Krylov, all of it kept orthogonal."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Product = Callable[[Tensor], Tensor]


def largest_singular(
    F: Product, Ft: Product, start: Float[Tensor, "b w ins"], k: int, rank: int, tolerance: float
) -> tuple[Float[Tensor, "b k outs"], Float[Tensor, "b k"], Float[Tensor, "b k ins"]]:
    """(U, S, V) with F v = s u, for b matrices at once, whose smaller side is `rank`.

    F: (b n ins) -> (b n outs) applies a matrix to n vectors, Ft its transpose; start: w >= k vectors to begin with.
    Goes on until |F Fᵀ u − s² u| <= tolerance · s₁² for all k. Each vector of V has its largest entry positive.
    """
    basis, rows, back = list[Tensor](), list[Tensor](), list[Tensor]()
    block = F(start)
    while True:
        for _ in range(2):  # what is left of a block that brings nothing new is noise, of any direction
            for known in basis:
                block = block - (block @ known.mT) @ known
            block = torch.linalg.qr(block.mT).Q.mT
        basis.append(block)
        rows.append(Ft(basis[-1]))  # Qᵀ F
        back.append(F(rows[-1]))  # F Fᵀ Q
        Q, QF, FFQ = (torch.cat(x, 1) for x in (basis, rows, back))
        left, S, V = torch.linalg.svd(QF, full_matrices=False)
        left, S, V = left[:, :, :k], S[:, :k], V[:, :k]
        U = left.mT @ Q
        missing = (left.mT @ FFQ - S[..., None] ** 2 * U).norm(dim=2)
        if (missing <= tolerance * S[:, :1] ** 2).all() or Q.shape[1] == rank:
            sign = V.gather(2, V.abs().argmax(2, keepdim=True)).sign()
            return sign * U, S, sign * V
        block = back[-1][:, : rank - Q.shape[1]]
