"""What a kernel does, seen without a GPU: every access it makes (interpreted), and the machine code it becomes.

guard       stops a kernel at an access outside its tensors, which would otherwise end the process
trace       records what each program reads and writes; tile_map and traffic summarise it
compile_report, compile_reports, table    registers, spills, shared memory, tensor-core instructions on a GPU
"""

import kernels

kernels.need()

from labkit.kernel_lab.ahead import TARGETS, compile_ahead  # noqa: E402
from labkit.kernel_lab.report import Report, compile_report, compile_reports, table  # noqa: E402
from labkit.kernel_lab.tiles import Access, tile_map, trace, traffic  # noqa: E402
from labkit.kernel_lab.watch import guard  # noqa: E402

__all__ = [
    "TARGETS",
    "Access",
    "Report",
    "compile_ahead",
    "compile_report",
    "compile_reports",
    "guard",
    "table",
    "tile_map",
    "trace",
    "traffic",
]
