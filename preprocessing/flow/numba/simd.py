"""Vectors of 16 float32 in numba kernels: explicit SIMD, written as formulas.

    a = load(x, i) * splat(0.5) + load(y, i)
    store(z, i, sqrt(a))

numba's own vectoriser gives up on stencils, and reorders sums only when told to ignore rounding. Here every operation
is one LLVM vector instruction with IEEE rounding, in the order that is written. LLVM splits vectors that are wider than
the machine's registers, so AVX-512, AVX2, SSE and NEON give the same bits.

Indices are not checked: a kernel must stay inside its arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.errors import RequireLiteralValue
from numba.extending import lower_builtin, register_model, type_callable

LANES = 16
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)


class Float32x(types.Type):
    """numba's type of a vector of ``lanes`` float32."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Float32x{lanes}")


@register_model(Float32x)
class _Float32xModel(models.PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Float32x) -> None:
        super().__init__(manager, fe_type, ir.VectorType(_FLOAT, fe_type.lanes))


f32x16 = Float32x(LANES)


def intrinsic(implementation: Callable[..., Any]) -> Any:
    """numba's decorator, for callers that leave out the first parameter, which type checkers cannot know."""
    return extending.intrinsic(implementation)


def _declare_operator(symbol: Callable[..., Any], instruction: str) -> None:
    @type_callable(symbol)
    def _typing(context):
        return lambda a, b: a if isinstance(a, Float32x) and a == b else None

    @lower_builtin(symbol, Float32x, Float32x)
    def _lower(context, builder, sig, args):
        return getattr(builder, instruction)(*args)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _declare_operator(_symbol, _instruction)


def emit_minimum(builder: Any, a: Any, b: Any) -> Any:
    """IR of the smaller value, lane by lane."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def emit_maximum(builder: Any, a: Any, b: Any) -> Any:
    """IR of the larger value, lane by lane."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _call(builder: Any, name: str, value: Any) -> Any:
    kind = value.type
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, (kind,)), f"llvm.{name}.v{kind.count}f32"
    )
    return builder.call(function, (value,))


def _binary(emit: Callable[[Any, Any, Any], Any]) -> Any:
    @intrinsic
    def operation(typingctx, a, b):
        return a(a, b), lambda context, builder, sig, args: emit(builder, *args)

    return operation


def _unary(name: str) -> Any:
    @intrinsic
    def operation(typingctx, a):
        return a(a), lambda context, builder, sig, args: _call(builder, name, args[0])

    return operation


minimum = _binary(emit_minimum)
maximum = _binary(emit_maximum)
sqrt = _unary("sqrt")
floor = _unary("floor")


def pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, element: Any) -> Any:
    """IR of the address of ``array.ravel()[index]`` as a pointer to ``element``."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


def emit_load(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """IR of the 16 values from a flat index on."""
    return builder.load(pointer(context, builder, array_type, array, index, ir.VectorType(_FLOAT, LANES)), align=4)


def shuffle(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    """IR of the lanes of a and b (counted on) in another order."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(lanes)), list(lanes)))


@intrinsic
def load(typingctx, array, index):
    """16 values of a contiguous float32 array from a flat index on."""

    def emit(context, builder, sig, args):
        return emit_load(context, builder, sig.args[0], *args)

    return f32x16(array, types.intp), emit


@intrinsic
def store(typingctx, array, index, value):
    """Write a vector of any width into a contiguous float32 array from a flat index on."""

    def emit(context, builder, sig, args):
        builder.store(args[2], pointer(context, builder, sig.args[0], args[0], args[1], args[2].type), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def load_fourths(typingctx, array, index, phase):
    """Every fourth of 64 values from index + phase on (phase: a literal 0..3): one component of 16 interleaved
    pixels.
    """
    if not isinstance(phase, types.IntegerLiteral):
        raise RequireLiteralValue("phase must be a literal")
    lane = phase.literal_value

    def emit(context, builder, sig, args):
        parts = [
            emit_load(context, builder, sig.args[0], args[0], builder.add(args[1], args[1].type(k * LANES)))
            for k in range(4)
        ]
        picks = [lane + 4 * k for k in range(8)]
        halves = [shuffle(builder, parts[k], parts[k + 1], picks) for k in (0, 2)]
        return shuffle(builder, halves[0], halves[1], range(LANES))

    return f32x16(array, types.intp, phase), emit


def _emit_scalar(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.load(pointer(context, builder, sig.args[0], args[0], args[1], _FLOAT))


@intrinsic
def load_one(typingctx, array, index):
    """One value of a contiguous float32 array; unlike array[index] it does not check for a negative index."""
    return types.float32(array, types.intp), _emit_scalar


@intrinsic
def store_fourths(typingctx, array, index, a, b, c):
    """Write 16 pixels a0 b0 c0 0 a1 b1 c1 0 ...: the inverse of ``load_fourths``."""

    def emit(context, builder, sig, args):
        first, second, third = args[2:]
        zero = ir.Constant(first.type, None)
        for k in range(4):
            lanes = range(4 * k, 4 * k + 4)
            pairs = shuffle(builder, first, second, [i + LANES * j for i in lanes for j in range(2)])
            others = shuffle(builder, third, zero, [i + LANES * j for i in lanes for j in range(2)])
            whole = shuffle(
                builder, pairs, others, [2 * i + j + 8 * h for i in range(4) for h in range(2) for j in range(2)]
            )
            at = builder.add(args[1], args[1].type(k * LANES))
            builder.store(whole, pointer(context, builder, sig.args[0], args[0], at, whole.type), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16, f32x16, f32x16), emit


@intrinsic
def splat(typingctx, value):
    """A scalar, rounded to float32, in all 16 lanes."""

    def emit(context, builder, sig, args):
        scalar, undefined = (
            context.cast(builder, args[0], sig.args[0], types.float32),
            ir.Constant(ir.VectorType(_FLOAT, LANES), ir.Undefined),
        )
        return shuffle(builder, builder.insert_element(undefined, scalar, ir.Constant(_INT, 0)), undefined, [0] * LANES)

    return f32x16(value), emit


@intrinsic
def shift_up(typingctx, previous, current):
    """current moved by one lane: lane k is the left neighbour of current's lane k, the first one previous' last."""

    def emit(context, builder, sig, args):
        return shuffle(builder, args[0], args[1], range(LANES - 1, 2 * LANES - 1))

    return f32x16(f32x16, f32x16), emit


@intrinsic
def shift_down(typingctx, current, following):
    """current moved by one lane: lane k is the right neighbour of current's lane k, the last one following's first."""

    def emit(context, builder, sig, args):
        return shuffle(builder, args[0], args[1], range(1, LANES + 1))

    return f32x16(f32x16, f32x16), emit


def _halves_added(builder: Any, value: Any) -> Any:
    n = value.type.count // 2
    return builder.fadd(shuffle(builder, value, value, range(n)), shuffle(builder, value, value, range(n, 2 * n)))


@intrinsic
def total(typingctx, value):
    """Sum of the 16 lanes as float32, by halves: ((0+8)+(4+12))+..., the same order on every machine."""

    def emit(context, builder, sig, args):
        result = args[0]
        while result.type.count > 1:
            result = _halves_added(builder, result)
        return builder.extract_element(result, ir.Constant(_INT, 0))

    return types.float32(f32x16), emit


@intrinsic
def fold4(typingctx, value):
    """Four groups of four lanes added: a vector of 4."""

    def emit(context, builder, sig, args):
        return _halves_added(builder, _halves_added(builder, args[0]))

    return Float32x(4)(f32x16), emit
