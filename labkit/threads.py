"""One thread for small trainings, however many there are outside."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """For matrices this small a second thread is no help, and a great hindrance when another program wants its core.

    And sums come out the same whatever the number of threads is outside.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
