"""Mutants: small wrong turns in a function's source, one at a time: what an attentive check must notice."""

import ast
import copy
import functools
import inspect
import itertools
import linecache
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce, repeat
from torch import Tensor

import kernels
import labkit

from .judging import answers, judge
from .registry import Call, Exercise, Probes
from .running import Todo, as_call, run

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div, ast.Add), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult, ast.Mod), ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd, ast.BitXor), ast.BitXor: (ast.BitAnd,),
}  # fmt: skip
ONE_SIDED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)  # a - b is not b - a
TWINS = [
    ("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("amin", "amax"), ("any", "all"), ("sum", "mean"),
    ("floor", "ceil"), ("tril", "triu"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("sin", "cos"),
    ("exp", "log"), ("softmax", "log_softmax"), ("cumsum", "cumprod"), ("sigmoid", "tanh"),
    ("union", "intersection"), ("sorted", "list"),
]  # fmt: skip
NAMES = {a: b for pair in TWINS for a, b in (pair, pair[::-1])}
MODULES = ("torch", "math", "F", "torch.nn.functional")
TRANSPOSES = ("T", "mT", "H", "mH")
TRITON = {} if kernels.WHERE == "nowhere" else dict(zip(("triton", "tl"), kernels.need(), strict=True))
_cells = itertools.count()


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Every (description, mutated source) of the one function in `source`; its signature and docstring stay."""
    tree = ast.parse(source)
    sites = list(_sites(tree))
    for site in range(len(sites)):
        for choice in range(len(list(_variants(sites[site])))):
            changed = copy.deepcopy(tree)
            old = list(_sites(changed))[site]
            before = ast.unparse(old)
            new = list(_variants(old))[choice]
            result = ast.unparse(ast.fix_missing_locations(_Replace(old, new).visit(changed)))
            after = "(deleted)" if isinstance(new, ast.Pass) else ast.unparse(new)
            yield f"line {old.lineno}: {before} → {after}", result


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _sites(tree: ast.Module) -> Iterator[ast.expr | ast.stmt | ast.Slice]:
    """The nodes of the function's body that can be changed, always in the same order."""
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    for statement in body:
        inside = {id(child) for node in ast.walk(statement) for child in _annotations(node)}
        for node in ast.walk(statement):
            if isinstance(node, ast.expr | ast.stmt | ast.Slice) and id(node) not in inside:
                yield node


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    """What says a type, or is text: a change there changes nothing that runs."""
    if isinstance(node, ast.AnnAssign):
        yield from ast.walk(node.annotation)
    if isinstance(node, ast.FunctionDef):
        yield from (child for part in [*node.args.args, node.returns] if part for child in ast.walk(part))


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    """What could stand in place of this node, had somebody slipped."""
    match node:
        case ast.Compare(ops=[op]):
            for comparison in COMPARISONS[type(op)]:
                yield _with(node, ops=[comparison()])
        case ast.BinOp(op=op):
            for other in ARITHMETIC.get(type(op), ()):
                yield _with(node, op=other())
            if isinstance(op, ONE_SIDED):
                yield _with(node, left=node.right, right=node.left)
        case ast.AugAssign(op=op):
            for other in ARITHMETIC.get(type(op), ()):
                yield _with(node, op=other())
            yield ast.Pass()
        case ast.BoolOp(op=op):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Name(id=name) if name in NAMES and isinstance(node.ctx, ast.Load):
            yield ast.Name(NAMES[name], ast.Load())
        case ast.Attribute(attr=name) if name in NAMES:
            yield _with(node, attr=NAMES[name])
        case ast.Attribute(attr=name) if name in TRANSPOSES:
            yield node.value
        case ast.Subscript() if isinstance(node.ctx, ast.Load):
            yield node.value
        case ast.Slice():
            for end in ("lower", "upper"):
                if getattr(node, end) is not None:
                    yield _with(node, **{end: None})
        case ast.Call():
            yield from _calls(node)
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.If() | ast.While():
            yield _with(node, test=ast.Constant(False))
            if isinstance(node, ast.If):
                yield _with(node, test=ast.Constant(True))
        case ast.Return(value=ast.Tuple(elts=[first, second, *rest])):
            yield ast.Return(ast.Tuple([second, first, *rest], ast.Load()))
        case ast.Assign() | ast.AnnAssign() | ast.Expr():
            yield ast.Pass()


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    """A keyword forgotten, the first two arguments swapped, a method of the chain left out."""
    for i in range(len(node.keywords)):
        yield _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])
    if len(node.args) >= 2 and ast.dump(node.args[0]) != ast.dump(node.args[1]):
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in MODULES:
        yield node.func.value


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def kill(exercise: Exercise) -> tuple[int, list[str]]:
    """How many mutants of the reference its probes notice, and which ones they miss though they answer differently."""
    killed, survivors = 0, []
    noticed = otherwise(exercise, exercise.probes(0))
    # Where a mutant that slips through may still show that it is another function: if nowhere, it does not count.
    elsewhere = [exercise.probes(seed) for seed in (1001, 1002, 1003)] + [longer(exercise)]
    differs = [otherwise(exercise, probes) for probes in elsewhere]
    for description, source in mutants(inspect.getsource(exercise.reference)):
        mutant = defined(exercise, source)
        if noticed(mutant):
            killed += 1
        elif any(differ(mutant) for differ in differs):
            survivors.append(description)
    return killed, survivors


def otherwise(exercise: Exercise, probes: Probes) -> Callable[[Callable], bool]:
    """Whether a function fails on one of these probes at least; what the reference does with them is asked once."""
    nameless = replace(exercise, mistakes=())  # which mistake it is takes long to say
    answered = functools.cache(answers(exercise, probes))

    def fails(fn: Callable, i: int) -> bool:
        did = run(exercise.answer(fn), probes[i : i + 1], seconds=2)
        return judge(nameless, probes[i : i + 1], did, lambda house, _: answered(house, i)).status != "pass"

    return lambda fn: any(fails(fn, i) for i in range(len(probes)))


def longer(exercise: Exercise) -> list[Call]:
    """The probes with one whole number made larger, where the reference still has an answer: a text longer by one, …"""
    found = []
    for probe in exercise.probes(0):
        given = as_call(probe)
        for i, value in enumerate(given.args):
            if type(value) is int:
                found += [Call((*given.args[:i], value + n, *given.args[i + 1 :]), given.kwargs) for n in (1, 7)]
        for key, value in given.kwargs.items():
            if type(value) is int:
                found += [Call(given.args, given.kwargs | {key: value + n}) for n in (1, 7)]
    return [probe for probe in found if run(exercise.answer(exercise.reference), [probe])[0].status == "returned"]


def defined(exercise: Exercise, source: str) -> Callable[..., Any]:
    """The function that `source` defines where a notebook's usual imports have been made."""
    room = exercise.id.split(".")[0]
    names: dict[str, Any] = {
        "labkit": labkit, room: sys.modules[f"labkit.{room}"], "math": math, "torch": torch, "F": F, "Tensor": Tensor,
        "einsum": einsum, "rearrange": rearrange, "reduce": reduce, "repeat": repeat, "Todo": Todo, **TRITON,
    }  # fmt: skip
    cell = f"<cell {next(_cells)} of {exercise.id}>"  # Triton reads a kernel's source
    linecache.cache[cell] = (len(source), None, source.splitlines(keepends=True), cell)
    exec(compile(source, cell, "exec"), names)
    return names[exercise.name]
