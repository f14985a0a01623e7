"""What an exercise's process may do: compute. Everything else is closed before a line of the learner's code runs.

    what is limited              Linux on x86-64        other Linux            macOS              Windows
    time                         killed from outside    killed from outside    killed             killed
    memory, size of files        kernel (rlimit)        kernel (rlimit)        files only         no
    reading and writing files    kernel (Landlock)      kernel (Landlock)      Python's audit     Python's audit
    network, processes, signals  kernel (seccomp)       Python's audit         Python's audit     Python's audit
    the lab's own answers        not in the process     not in the process     not in the process not in the process

Landlock needs Linux 5.13 or later. The audit hook is there everywhere and notes what was tried, which costs the points;
by itself it stops Python code, not machine code.
"""

import ctypes
import os
import platform
import struct
import sys
import sysconfig
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from labkit.launch import ROOT

MEMORY = 2 << 30  # bytes beyond what the process has at the start
HOUSE = ("labkit", "kernels", "tests", "bench")  # packages that hold answers
HARMLESS = ("labkit.course", "labkit.grading", "labkit.kernel_lab")  # rooms that hold none, apart from their exercises

FORBIDDEN = {  # what code does when it raises one of these audit events; the first part of a name stands for all of it
    "uses the network": "socket urllib",
    "starts a process": "subprocess os.system os.fork os.forkpty os.exec os.posix_spawn os.spawn os.startfile pty",
    "sends a signal": "os.kill os.killpg",
    "writes a file": "os.remove os.rename os.rmdir os.mkdir os.link os.symlink os.truncate os.chmod os.chown os.utime "
    "os.setxattr shutil tempfile sqlite3",
    "loads machine code": "ctypes.dlopen ctypes.dlsym",
    "searches the process's memory": "gc.get_objects gc.get_referrers",
}
EVENTS = {event: said for said, events in FORBIDDEN.items() for event in events.split()}


def close_doors(note: Callable[[str], None]) -> None:
    """Leave this process nothing but arithmetic; what is tried all the same raises PermissionError and is noted."""
    readable = [str(path) for path in map(Path, _readable()) if path.exists()]
    sys.dont_write_bytecode = True
    _limit_memory()
    if sys.platform == "linux":
        _landlock(readable)
        if platform.machine() == "x86_64":
            _seccomp()
    for name in [name for name in sys.modules if holds_answers(name)]:
        del sys.modules[name]
    sys.meta_path.insert(0, Closed(note))
    sys.addaudithook(auditor(readable, note))


def holds_answers(module: str) -> bool:
    """Whether answers can be read in the module of this name, or computed by it."""
    package, _, rest = module.partition(".")
    return package in HOUSE and bool(rest) and (".exercises" in module or not module.startswith(HARMLESS))


def _readable() -> list[str]:
    """Where Python, torch and Triton read while they compute."""
    python = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()]
    return [
        *python,
        "/usr",
        "/lib",
        "/lib64",
        "/proc/self",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/sys/devices/system",
        os.devnull,
        "/dev/urandom",
    ]


class Closed(MetaPathFinder):
    """Keeps the packages that hold answers from being imported."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in HOUSE:
            self.note(f"imports {name}")
            raise ImportError(f"{name} is not there while your answer is graded: write it with torch alone")


def auditor(readable: Sequence[str], note: Callable[[str], None]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook, which cannot be taken away again."""
    inside = [os.path.realpath(path) for path in readable]
    secret, environment = os.path.realpath(ROOT), os.path.realpath(sys.prefix)
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def opens(path: Any, flags: Any) -> str:
        if not isinstance(path, str | bytes | os.PathLike):  # a number: a file that is open already
            return ""
        real = os.path.realpath(os.fsdecode(path))
        if isinstance(flags, int) and flags & writing and real != os.devnull:
            return "writes a file"
        if not any(within(real, path) for path in inside) or (within(real, secret) and not within(real, environment)):
            return "reads a file"
        return ""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            said = opens(args[0], args[2])
        else:
            said = EVENTS.get(event) or EVENTS.get(event.partition(".")[0], "")
        if said:
            note(said)
            raise PermissionError(f"an answer {said}: it may only compute ({event})")

    return hook


def within(path: str, folder: str) -> bool:
    """Whether a real path is this folder or below it; "/usr-local" is not below "/usr"."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))


# What follows speaks to the Linux kernel; the numbers are those of its headers.

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
READING = 1 << 0 | 1 << 2 | 1 << 3  # execute (a library is mapped so), read a file, read a folder
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights to files each version knows, one bit each


def _landlock(readable: Sequence[str]) -> None:
    """No file but these can be opened, none written; from version 4 no TCP, from 6 no signal to another process."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)
    if version < 1:  # this kernel is too old, or has it turned off
        return
    files = (1 << RIGHTS[min(version, 5)]) - 1
    attributes = struct.pack("QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = libc.syscall(LANDLOCK_CREATE_RULESET, attributes, size, 0)
    for path in readable:
        for place in _without_secrets(path):
            folder = os.open(place, os.O_PATH)
            rights = READING if os.path.isdir(place) else READING & ~(1 << 3)
            if place == os.devnull:
                rights |= 1 << 1
            libc.syscall(LANDLOCK_ADD_RULE, rules, 1, struct.pack("=Qi", rights, folder), 0)
            os.close(folder)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    if libc.syscall(LANDLOCK_RESTRICT_SELF, rules, 0):
        raise OSError(ctypes.get_errno(), "Landlock could not be turned on")
    os.close(rules)


def _without_secrets(path: str) -> list[str]:
    """The path itself, unless the lab is inside it: then nothing, for a rule cannot be taken back further down."""
    return [] if within(os.path.realpath(ROOT), os.path.realpath(path)) else [path]


NATIVE, X32 = 0xC000003E, 0x40000000
REFUSED = (  # by number on x86-64
    41, 53, 49, 50, 42, 425,  # socket, socketpair, bind, listen, connect, io_uring_setup
    57, 58, 59, 322,  # fork, vfork, execve, execveat
    62, 200, 297, 129, 424, 141,  # kill, tkill, rt_tgsigqueueinfo, rt_sigqueueinfo, pidfd_send_signal, setpriority
    101, 310, 311, 438,  # ptrace, process_vm_readv, process_vm_writev, pidfd_getfd
    90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280,  # chmod, chown and utime in all their forms
    188, 189, 190, 197, 198, 199, 165, 166, 155, 161, 321, 272, 308,  # attributes, mount, roots, bpf, namespaces
    29, 31, 64, 66, 68, 69, 71, 240,  # System V shared memory, semaphores and messages, POSIX queues: they would stay
)  # fmt: skip
CLONE, CLONE3, TGKILL, PRLIMIT, CLONE_THREAD = 56, 435, 234, 302, 0x10000


def _seccomp() -> None:
    """No process, program, socket or signal to another; threads are allowed."""

    def step(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, k)

    load, equal, above, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, absent = step(answer, 0x7FFF0000), step(answer, 0x00050001), step(answer, 0x00050000 | 38)
    program = [step(load, 4), step(equal, NATIVE, 1, 0), refuse, step(load, 0), step(above, X32, 0, 1), refuse]
    for number in REFUSED:
        program += [step(equal, number, 0, 1), refuse]
    program += [step(equal, CLONE3, 0, 1), absent]  # its flags are out of sight: the C library then uses clone
    program += [step(equal, CLONE, 0, 4), step(load, 16), step(any_bit, CLONE_THREAD, 0, 1), allow, refuse]
    for number, own in ((TGKILL, os.getpid()), (PRLIMIT, 0)):
        program += [step(equal, number, 0, 4), step(load, 16), step(equal, own, 0, 1), allow, refuse]
    program += [allow]
    code = ctypes.create_string_buffer(b"".join(program))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)
    if libc.prctl(22, 2, struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp could not be turned on")
