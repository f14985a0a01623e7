"""Timing side by side: every round times all contestants in turn, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def rounds(contestants: Mapping[str, Callable[[], object]], n: int = 5) -> dict[str, list[float]]:
    """Seconds of each contestant in each of n rounds, after one round that does not count."""
    took: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(n + 1):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            if number:
                took[name].append(time.perf_counter() - began)
    return took


def report(what: str, took: Mapping[str, list[float]], ours: str) -> None:
    """One line: our time as a ratio to each peer's in the same round, median and range."""
    for peer in took.keys() - {ours}:
        ratios = [a / b for a, b in zip(took[ours], took[peer], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{what:44} {ours} / {peer}: {statistics.median(ratios):.2f} of the time ({spread})")
