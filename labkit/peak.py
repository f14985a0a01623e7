"""The most memory that something held: a function in a fresh process of its own, or the processes below this one."""

import multiprocessing
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak(run: Callable[[Any], object], make: Callable[[int], Any], small: int, large: int) -> int:
    """The bytes that run(make(large)) adds, at its peak, to a fresh process that ran run(make(small)) before.

    The process imports run and make by name, so both are functions of a module, or partials of such.
    """
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(_added, (run, make, small, large))


def _added(run: Callable[[Any], object], make: Callable[[int], Any], small: int, large: int) -> int:
    run(make(small))  # what is loaded at the first call is not the function's
    x = make(large)
    began = most_held()
    run(x)
    return max(most_held() - began, 4096)  # at least a page: it is divided by


def most_held() -> int:
    """The most memory, in bytes, that this process has held so far."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would start at what the parent held
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        assert found is not None
        return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


class PeakMemory:
    """The most memory this process's children held at once while the block ran, looked at twenty times a second.

    One that was born a moment ago is left out: until it runs a program of its own, its memory is its parent's.
    """

    _cpu: dict[int, float]

    def __enter__(self) -> "PeakMemory":
        self.bytes, self._cpu, self._done = 0, {}, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    @property
    def cpu(self) -> float:
        """Seconds, of all the children together."""
        return sum(self._cpu.values())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()
        assert self.bytes, "no kernel was seen"

    def _watch(self) -> None:
        import psutil

        while not self._done.wait(0.05):
            held = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    if time.time() - child.create_time() > 0.2:
                        held += child.memory_info().rss
                    self._cpu[child.pid] = sum(child.cpu_times()[:2])
                except psutil.NoSuchProcess:
                    continue
            self.bytes = max(self.bytes, held)
