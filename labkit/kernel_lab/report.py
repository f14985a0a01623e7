"""What a kernel becomes on a GPU: read from the machine code, so it is true without the GPU."""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.compiler import CompiledKernel

from kernels import Case
from labkit.kernel_lab.ahead import TARGETS, compile_ahead


@dataclass(frozen=True)
class Machine:
    """One multiprocessor (compute unit): four parts, each with its own warps and 512 registers for every lane.

    A warp is given registers in eights a lane, a program shared memory in grains. From the tables of compute
    capabilities in the CUDA C++ Programming Guide, and LLVM's User Guide for AMDGPU. The tensor memory of sm_100, which
    may also keep programs out, is not counted.
    """

    warps: int  # that a part can hold
    blocks: int  # programs that the whole can hold
    shared: int  # bytes
    reserved: int  # bytes of it taken by every program
    grain: int  # bytes


MACHINES = {
    "sm_80": Machine(16, 32, 164 * 1024, 1024, 128),
    "sm_90": Machine(16, 32, 228 * 1024, 1024, 128),
    "sm_100": Machine(16, 32, 228 * 1024, 1024, 128),
    "gfx942": Machine(8, 32, 64 * 1024, 0, 512),
}


@dataclass(frozen=True)
class Report:
    """Machine code of one kernel on one target. Instructions are counted as written, not as executed."""

    name: str
    target: str
    registers: int  # per thread
    spills: int  # bytes per thread of registers that did not fit, written to memory
    stack: int  # bytes per thread
    shared: int  # bytes per program
    tensor_core: int  # instructions that multiply matrices
    loads: int  # instructions that read global memory
    stores: int  # instructions that write it
    instructions: int
    binary: int  # bytes
    warps: int  # per program
    spill_loads: int = 0  # bytes per thread that are read back, each instruction counted once

    @property
    def resident(self) -> dict[str, int]:
        """Programs that one multiprocessor holds at once, as far as each of its limits goes."""
        machine = MACHINES[self.target]
        shared = up(self.shared, machine.grain) + machine.reserved
        return {
            "warps": 4 * machine.warps // self.warps,
            "blocks": machine.blocks,
            "registers": 4 * (512 // up(max(1, self.registers), 8)) // self.warps,
            "shared memory": machine.shared // shared if shared else machine.blocks,
        }

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's warps that these limits let run at once."""
        return min(self.resident.values()) * self.warps / (4 * MACHINES[self.target].warps)

    @property
    def limit(self) -> str:
        """What keeps further programs out: "warps" (it is full), "blocks", "registers" or "shared memory"."""
        return min(self.resident, key=self.resident.__getitem__)

    def __str__(self) -> str:
        return table([self])


def up(n: int, grain: int) -> int:
    """n rounded up to whole grains."""
    return -(-n // grain) * grain


def compile_report(case: Case, target: str = "sm_90") -> Report:
    """Compile a launch for sm_80, sm_90, sm_100 or gfx942, which need not be here, and read the machine code."""
    compiled = compile_ahead(case, target)
    read = read_amd if TARGETS[target].backend == "hip" else read_nvidia
    return read(case.name, target, compiled)


def compile_reports(cases: Iterable[Case], targets: Sequence[str] = tuple(TARGETS)) -> list[Report]:
    """A report for every case on every target; show them with print(table(reports))."""
    return [compile_report(case, target) for case in cases for target in targets]


def table(reports: Iterable[Report]) -> str:
    """The reports as aligned text, one line each."""
    head = "kernel|target|registers|spills B|stack B|shared B|tensor core|loads|stores|instructions|binary B|occupancy"
    lines = [head.split("|")]
    for r in reports:
        numbers = (r.registers, r.spills, r.stack, r.shared, r.tensor_core, r.loads, r.stores, r.instructions, r.binary)
        lines.append([r.name, r.target, *(f"{n:,}" for n in numbers), f"{r.occupancy:.0%}"])
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if n < 2 else cell.rjust(w) for n, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def read_nvidia(name: str, target: str, compiled: CompiledKernel) -> Report:
    """Registers, spills and stack as ptxas states them, instructions from the disassembly."""
    cubin = compiled.asm["cubin"]
    number = int(target.removeprefix("sm_"))
    with tempfile.TemporaryDirectory() as folder:
        ptx, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        ptx.write_text(compiled.asm["ptx"])
        binary.write_bytes(cubin)
        ptxas = "ptxas-blackwell" if number >= 100 else "ptxas"
        gpu = f"--gpu-name={target}{'a' if number >= 90 else ''}"
        said = run(ptxas, "-v", "-lineinfo", "--regAllocOptLevel=2", gpu, str(ptx), "-o", str(Path(folder, "again")))
        code = run("nvdisasm", "-c", str(binary))
    ops = opcodes(code)
    return Report(
        name,
        target,
        registers=number_in(said, r"Used (\d+) registers"),
        spills=number_in(said, r"(\d+) bytes spill stores"),
        stack=number_in(said, r"(\d+) bytes stack frame"),
        shared=compiled.metadata.shared,
        tensor_core=sum("MMA" in op for op in ops),
        loads=sum(op in ("LDG", "LDGSTS", "UTMALDG") for op in ops),
        stores=sum(op in ("STG", "UTMASTG") for op in ops),
        instructions=len(ops),
        binary=len(cubin),
        warps=compiled.metadata.num_warps,
        spill_loads=number_in(said, r"(\d+) bytes spill loads"),
    )


def opcodes(disassembly: str) -> list[str]:
    """The instructions of a kernel in order, without operands: LDG, HMMA, STG, …"""
    return re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P[T\d]\s+)?([A-Z][A-Z0-9_]*)", disassembly, re.M)


def read_amd(name: str, target: str, compiled: CompiledKernel) -> Report:
    """All from the assembly: its metadata counts vector and scalar registers and those that were spilled."""
    code = compiled.asm["amdgcn"]
    ops = re.findall(r"^\t([a-z]\w+)(?:\s|$)", code, re.M)
    return Report(
        name,
        target,
        registers=number_in(code, r"\.vgpr_count:\s+(\d+)"),
        spills=4 * sum(number_in(code, rf"\.{kind}_spill_count:\s+(\d+)") for kind in ("vgpr", "sgpr")),
        stack=number_in(code, r"\.private_segment_fixed_size:\s+(\d+)"),
        shared=compiled.metadata.shared,
        tensor_core=sum(op.startswith("v_mfma") for op in ops),
        loads=sum(bool(re.match("(global|buffer|flat)_load", op)) for op in ops),
        stores=sum(bool(re.match("(global|buffer|flat)_store", op)) for op in ops),
        instructions=len(ops),
        binary=len(compiled.asm["hsaco"]),
        warps=compiled.metadata.num_warps,
        spill_loads=sum(map(int, re.findall(r"; (\d+)-byte Folded Reload", code))),
    )


def number_in(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the compiler's output has no match for {pattern!r}: is triton the pinned version?")
    return int(found[1])


def run(tool: str, *arguments: str) -> str:
    """What one of NVIDIA's tools prints. They come inside the triton wheel."""
    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    if not path.exists():
        raise FileNotFoundError(f"{tool} is missing from the installed triton (looked for {path}): reinstall triton")
    done = subprocess.run([path, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{tool} failed: {done.stderr.strip()}")
    return done.stdout + done.stderr
