"""A jaxpr as one flat list of operations, to be read by the recogniser and run again with zeros added on the way.

Calls that only group operations (``jit``, ``checkpoint``) are opened. A function with a derivative rule of its own
(``custom_jvp``, ``custom_vjp``) stays one operation when the program runs, so that its rule is the one that is judged;
what it computes is listed beside it for the recogniser.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

GROUPS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_lin"}
OWN_RULE = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}


@dataclass(eq=False)
class Value:
    """One array of the program. ``known`` is its content where it is a constant; ``exposed`` tells whether a running
    program passes through it, which it does not inside a function with a rule of its own."""

    shape: tuple[int, ...]
    dtype: Any
    known: Any = None
    exposed: bool = True


@dataclass(eq=False)
class Operation:
    """A primitive applied to values; ``inner`` and ``results`` are what a function with its own rule computes,
    ``within`` the calls that it lies in, the nearest first."""

    equation: Any
    ins: list[Value]
    outs: list[Value]
    inner: list[Operation] = field(default_factory=list)
    results: list[Value] = field(default_factory=list)
    within: tuple[Any, ...] = ()

    @property
    def name(self) -> str:
        return str(self.equation.primitive.name)

    @property
    def params(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.equation.params
        return found

    @property
    def place(self) -> str:
        """Where the user's program calls it, as file, line and function; empty where JAX does not tell."""
        return next(filter(None, map(_place, (self.equation, *self.within))), "")

    @property
    def described(self) -> str:
        """The primitive with its place, for a message."""
        return f"{self.name} at {self.place}" if self.place else self.name


@dataclass(eq=False)
class Program:
    """Inputs, operations in order, outputs."""

    inputs: list[Value]
    operations: list[Operation]
    outputs: list[Value]

    def run(self, given: list[Any], added: Mapping[Value, Any], keep: set[Value]) -> tuple[list[Any], dict[Value, Any]]:
        """The outputs, and the values to keep; ``added`` holds what is added to a value as soon as it is computed."""
        at: dict[Value, Any] = dict(zip(self.inputs, given, strict=True))
        for operation in self.operations:
            primitive = operation.equation.primitive
            arguments = [at.get(value, value.known) for value in operation.ins]
            bound = primitive.get_bind_params(dict(operation.params))
            # Until JAX 0.8 or so the functions of a call came beside its options.
            functions, options = bound if isinstance(bound, tuple) else ((), bound)
            found = primitive.bind(*functions, *arguments, **options)
            for value, array in zip(operation.outs, found if primitive.multiple_results else [found], strict=True):
                at[value] = array + added[value] if value in added else array
        outputs = [at.get(value, value.known) for value in self.outputs]
        return outputs, {value: at[value] for value in keep}


def program_of(jax: Any, closed: Any) -> Program:
    """The program of a closed jaxpr."""
    literal = jax.extend.core.Literal
    operations: list[Operation] = []

    def fresh(variable: Any, exposed: bool = True) -> Value:
        return Value(tuple(variable.aval.shape), getattr(variable.aval, "dtype", None), exposed=exposed)

    def walk(
        jaxpr: Any, constants: Any, given: list[Value], into: list[Operation], calls: tuple[Any, ...], exposed: bool
    ) -> list[Value]:
        at: dict[Any, Value] = dict(zip(jaxpr.invars, given, strict=True))
        for variable, constant in zip(jaxpr.constvars, constants, strict=True):
            at[variable] = fresh(variable, exposed)
            at[variable].known = constant

        def read(atom: Any) -> Value:
            if isinstance(atom, literal):
                return Value(tuple(atom.aval.shape), atom.aval.dtype, known=atom.val)
            return at[atom]

        for equation in jaxpr.eqns:
            ins = [read(atom) for atom in equation.invars]
            name, body = equation.primitive.name, _body(equation)
            if name in GROUPS and body is not None:
                outs = walk(*body, ins, into, (equation, *calls), exposed)
            else:
                outs = [fresh(variable, exposed) for variable in equation.outvars]
                operation = Operation(equation, ins, outs, within=calls)
                if name in OWN_RULE and body is not None:
                    operation.results = walk(*body, ins, operation.inner, (equation, *calls), False)
                into.append(operation)
            at.update(zip(equation.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    inputs = [fresh(variable) for variable in closed.jaxpr.invars]
    outputs = walk(closed.jaxpr, closed.consts, inputs, operations, (), True)
    return Program(inputs, operations, outputs)


def numbers_in(program: Program) -> Iterator[float]:
    """Every real constant that stands in a program, in whatever call."""

    def visit(operations: list[Operation]) -> Iterator[float]:
        for operation in operations:
            for value in operation.ins:
                if value.known is not None and value.shape == () and getattr(value.dtype, "kind", "") == "f":
                    yield float(value.known)
            yield from visit(operation.inner)

    yield from visit(program.operations)


def _place(equation: Any) -> str:
    try:
        from jax._src import source_info_util

        found = str(source_info_util.summarize(equation.source_info))
    except Exception:
        return ""
    # JAX says so for what its own functions call.
    return "" if found.startswith("<") or ":" not in found else found


def _body(equation: Any) -> tuple[Any, Any] | None:
    """The jaxpr of a call, with its constants."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        body = equation.params.get(key)
        if body is not None:
            return (body.jaxpr, body.consts) if hasattr(body, "consts") else (body, ())
    return None
