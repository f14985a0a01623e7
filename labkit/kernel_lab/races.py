"""Races of a launch, found in a trace: the interpreter runs programs one after another, so they never show in results.

On a GPU the programs of a launch run in any order and at once. What two of them may not do is store the same element,
or one store what the other loads; that all touch it in one atomic step is allowed.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from labkit.kernel_lab.tiles import Access


@dataclass(frozen=True)
class Race:
    """Elements of a tensor whose value depends on which of two programs comes first."""

    kernel: str
    name: str  # of the tensor
    kind: str  # "both store", or "one stores, the other loads", or "one atomic, the other not"
    programs: tuple[tuple[int, ...], tuple[int, ...]]  # two of those that meet at the first element
    elements: tuple[int, ...]  # indices into the flattened tensor, in order

    def __str__(self) -> str:
        one, two = (str(program) for program in self.programs)
        what = {
            "both store": f"programs {one} and {two} both store",
            "one stores, the other loads": f"program {one} stores and program {two} loads",
            "one atomic, the other not": f"program {one} changes atomically, and program {two} not atomically,",
        }[self.kind]
        others = len(self.elements) - 1
        more = f" and {others} other{'s' if others > 1 else ''}" if others else ""
        return f"race on {self.name} in {self.kernel}: {what} element {self.elements[0]}{more}"


def races(log: Iterable[Access]) -> list[Race]:
    """The races in a trace, a record for each launch, tensor and kind; [] if there are none.

    Accesses of different launches never meet: one ends before the next begins.
    """
    found = []
    programs: dict[tuple[int, ...], int] = {}
    grouped: dict[tuple[int, str, str], dict[str, list[Access]]] = {}
    for access in log:
        programs.setdefault(access.program, len(programs))
        kinds = grouped.setdefault((access.launch, access.kernel, access.name), {"load": [], "store": [], "atomic": []})
        kinds[access.kind].append(access)
    names = list(programs)
    for (_, kernel, name), kinds in grouped.items():
        size = 1 + max((int(a.elements.max()) for each in kinds.values() for a in each if len(a.elements)), default=-1)
        touched = {kind: first_and_other(each, programs, size) for kind, each in kinds.items()}
        for kind, one, two in (
            ("both store", "store", "store"),
            ("one stores, the other loads", "store", "load"),
            ("one atomic, the other not", "atomic", "store"),
            ("one atomic, the other not", "atomic", "load"),
        ):
            at, first, second = meet(touched[one], touched[two])
            if len(at):
                pair = names[first], names[second]
                found.append(Race(kernel, name, kind, pair, tuple(at.tolist())))
    return found


def first_and_other(accesses: list[Access], programs: dict[tuple[int, ...], int], size: int) -> np.ndarray:
    """(2, size): of each element the lowest and the highest number of a program that touches it, or −1."""
    lowest, highest = np.full(size, np.iinfo(np.int64).max), np.full(size, -1)
    for access in accesses:
        number = programs[access.program]
        lowest[access.elements] = np.minimum(lowest[access.elements], number)
        highest[access.elements] = np.maximum(highest[access.elements], number)
    return np.stack([np.where(highest < 0, -1, lowest), highest])


def meet(one: np.ndarray, two: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Elements that a program of each touches, not the same one, and the two programs of the first element."""
    both = (one[1] >= 0) & (two[1] >= 0)
    for a, b in ((0, 1), (1, 0)):
        at = np.flatnonzero(both & ((one[0] != two[1]) | (one[1] != two[0])))
        if len(at) and one[a, at[0]] != two[b, at[0]]:
            return at, int(one[a, at[0]]), int(two[b, at[0]])
    return np.empty(0, int), 0, 0
