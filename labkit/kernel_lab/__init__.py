"""What a kernel does, seen without a GPU: every access it makes (interpreted), and the machine code it becomes.

guard       stops a kernel at an access outside its tensors, which would otherwise end the process
trace       records what each program reads and writes; tile_map and traffic summarise it, races finds what two
            programs do to the same element
work        counts operations and bytes of a launch; land puts it under the roofline of one of GPUS
compile_report, compile_reports, table    registers, spills, shared memory, tensor-core instructions on a GPU
spilling    what spilled registers cost in traffic
listing     all of it for every kernel of the house, a line at a time
explore, explore_roofline    which elements a program touches, and mechanisms under a roofline

Where Triton does not exist only the pictures and the exercises are there.
"""

from typing import Any

import kernels

__all__ = [
    "GPUS",
    "TARGETS",
    "Access",
    "Landing",
    "Race",
    "Report",
    "Spilling",
    "Work",
    "compile_ahead",
    "compile_report",
    "compile_reports",
    "guard",
    "land",
    "listing",
    "races",
    "rooms",
    "spilling",
    "table",
    "tile_map",
    "trace",
    "traffic",
    "work",
]

if kernels.WHERE != "nowhere":
    kernels.need()

    from labkit.kernel_lab.ahead import TARGETS, compile_ahead
    from labkit.kernel_lab.listing import listing, rooms
    from labkit.kernel_lab.races import Race, races
    from labkit.kernel_lab.report import Report, compile_report, compile_reports, table
    from labkit.kernel_lab.roofline import GPUS, Landing, land
    from labkit.kernel_lab.spilling import Spilling, spilling
    from labkit.kernel_lab.tiles import Access, tile_map, trace, traffic
    from labkit.kernel_lab.watch import guard
    from labkit.kernel_lab.work import Work, work


def __getattr__(name: str) -> Any:
    """What draws loads plotly, so it loads only when asked for; the rest is missing only where Triton is."""
    if name in ("explore", "explore_roofline"):
        from labkit.kernel_lab import explorer

        return getattr(explorer, name)
    if name in __all__:
        kernels.need()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
