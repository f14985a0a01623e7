"""What spilling costs on paper: traffic of a program that computes nothing, beside the traffic that it is there for."""

from dataclasses import dataclass

from labkit.kernel_lab.ahead import TARGETS
from labkit.kernel_lab.report import Report
from labkit.kernel_lab.work import Work


@dataclass(frozen=True)
class Spilling:
    """Bytes of one program."""

    stored: int  # registers written to local memory
    loaded: int  # and read back
    useful: float  # that the program loads and stores in its tensors

    @property
    def share(self) -> float:
        """Bytes of spilling for each useful byte."""
        return (self.stored + self.loaded) / self.useful

    def __str__(self) -> str:
        if not self.stored + self.loaded:
            return "no register is spilled"
        return (
            f"a program writes {self.stored:,} bytes of registers to local memory and reads {self.loaded:,} back, "
            f"{self.share:.2f} for each byte of its tensors"
        )


def spilling(report: Report, work: Work) -> Spilling:
    """The local memory traffic of a program: bytes of the spill instructions × threads.

    Each instruction is counted once, as the compiler states it: in a loop it costs that each time round, so this is the
    least. Local memory lies in DRAM and passes through the caches. An AMD compiler states the registers that it
    spilled, of which some may go to other registers.
    """
    threads = report.warps * TARGETS[report.target].warp_size
    return Spilling(report.spills * threads, report.spill_loads * threads, work.mean.moved)
