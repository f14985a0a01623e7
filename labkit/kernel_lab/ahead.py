"""Compile a kernel for a GPU that is not here, in the same process that interprets it.

Two things stand in the way (triton 3.7.1). Imported to interpret, Triton makes an InterpretedFunction of every
@triton.jit function, its own library (tl.zeros, tl.max) included. And a launch puts interpreter stubs in place of
the language's builtins, of which some stay. So to compile, the language is put back as it was before the first
launch, and meanwhile each InterpretedFunction that a kernel can reach gives way to a JITFunction of the same source.
"""

import contextlib
import functools
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, create_function_from_signature

from kernels import Case, pristine_language

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),  # A100
    "sm_90": GPUTarget("cuda", 90, 32),  # H100
    "sm_100": GPUTarget("cuda", 100, 32),  # B200
    "gfx942": GPUTarget("hip", "gfx942", 64),  # MI300
}


def compile_ahead(case: Case, target: str) -> CompiledKernel:
    """The machine code that the launch would make on a target: same types, same alignments, same options."""
    if target not in TARGETS:
        raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    if not isinstance(case.kernel, InterpretedFunction | JITFunction):
        raise TypeError(f"kernel: expected a @triton.jit function, got {type(case.kernel).__name__}")
    backend = make_backend(TARGETS[target])
    with compiling(case.kernel):
        kernel = as_jit(case.kernel)
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        arguments, specialization, options = bind(*case.args, **case.options)
        options, *facts = kernel._pack_args(backend, options, arguments, specialization, options)
        return triton.compile(ASTSource(kernel, *facts), target=TARGETS[target], options=options.__dict__)


@contextlib.contextmanager
def compiling(kernel: Any) -> Iterator[None]:
    """Within, Triton's language and everything the kernel can reach is as in a process that compiles."""
    mode = triton.knobs.runtime.interpret
    interpreted = [
        (space, name, function)
        for space in reachable(kernel)
        for name, function in space.items()
        if isinstance(function, InterpretedFunction)
    ]
    try:
        triton.knobs.runtime.interpret = False
        for part, names in pristine_language():
            put(part, names)
        for space, name, function in interpreted:
            space[name] = as_jit(function)
        yield
    finally:
        for space, name, function in interpreted:
            space[name] = function
        triton.knobs.runtime.interpret = mode


def put(part: Any, names: dict[str, Any]) -> None:
    """Give a module or class exactly these names."""
    for name in [name for name in vars(part) if name not in names]:
        delattr(part, name)
    for name, value in names.items():
        if vars(part).get(name) is not value:
            setattr(part, name, value)


def reachable(kernel: Any) -> Iterator[dict[str, Any]]:
    """The namespaces in which the kernel, the functions it calls and Triton's library look up their names."""
    modules = [module for name, module in sys.modules.items() if name.startswith("triton.language")]
    spaces = {id(vars(module)): vars(module) for module in modules if isinstance(module, ModuleType)}
    yield from spaces.values()
    functions = [kernel.fn]
    while functions:
        space = functions.pop().__globals__
        if id(space) not in spaces:
            spaces[id(space)] = space
            functions += [f.fn for f in space.values() if isinstance(f, InterpretedFunction)]
            yield space


@functools.cache
def as_jit(function: Any) -> JITFunction:
    """The same source, to be compiled."""
    return function if isinstance(function, JITFunction) else JITFunction(function.fn, **function.kwargs)
