"""Random kernels mean the same as source, bit by bit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from source_runs import F32X4, numbers, run_kernel_checked

from jitseq.ir.kernel_builder import KernelBuilder
from jitseq.ir.program import Reg, Type

OPS = ("add", "sub", "mul", "maximum", "fma", "select")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("load"), st.booleans(), st.integers(0, 12), st.booleans()),
        st.tuples(st.just("splat"), st.booleans(), st.integers(0, 15), st.booleans()),
        st.tuples(st.just("store"), st.integers(0, 12), st.integers(0, 99), st.none()),
        st.tuples(
            st.sampled_from(OPS), st.integers(0, 99), st.integers(0, 99),
            st.integers(0, 99),
        ),
    ),
    max_size=40,
)  # fmt: skip


def emit(b: KernelBuilder, steps, values: list[Reg], buffers, index) -> None:
    """Random instructions; numbers choose operands among ``values``."""
    for op, *rest in steps:
        if op in ("load", "splat"):
            from_output, at, moving = rest
            load = b.load if op == "load" else b.load_splat
            place = index + at if moving else at
            values.append(load(buffers[from_output], place, F32X4))
        elif op == "store":
            place, which, _ = rest
            b.store(buffers[1], place, values[which % len(values)])
        else:
            x, y, z = (values[which % len(values)] for which in rest)
            if op == "fma":
                values.append(b.fma(x, y, z))
            elif op == "select":
                mask = b.emit("lt", Type("mask", 4), x, y)
                values.append(b.emit("select", F32X4, mask, y, z))
            else:
                values.append(b.binary(op, x, y))


@settings(derandomize=True, deadline=None, database=None, max_examples=150)
@given(STEPS, STEPS, st.lists(st.integers(0, 99), min_size=1, max_size=6))
def test_random_kernels(before, inside, carried) -> None:
    """Straight code, a loop that carries registers, and stores of its results."""
    b = KernelBuilder()
    buffers = b.buffer("x", "f32"), b.buffer("y", "f32", written=True)
    values = [b.const(0.25, F32X4), b.load(buffers[1], 3, F32X4)]
    emit(b, before, values, buffers, 1)
    entering = [values[which % len(values)] for which in carried]

    def body(i, sums):
        known = [*values, *sums]
        emit(b, inside, known, buffers, i)
        return [known[-1 - which % len(known)] for which in carried]

    for number, total in enumerate(b.fold("i", 0, 3, 1, entering, body)):
        b.store(buffers[1], 2 * number, total)
    arrays = [numbers(6, 20), numbers(7, 20)]
    run_kernel_checked(b.finish("random"), arrays)


TILE_STEPS = st.lists(
    st.fixed_dictionaries({
        "x": st.sampled_from([0, 0, 0, 1]), "w": st.sampled_from([0, 0, 0, 1]),
        "x_kind": st.sampled_from(["splat", "splat", "load"]),
        "w_kind": st.sampled_from(["load", "load", "splat"]),
        "x_at": st.integers(0, 4), "w_at": st.integers(0, 4),
        "x_moves": st.booleans(), "pinned": st.sampled_from([False, False, True]),
        "rows": st.integers(1, 3), "columns": st.integers(1, 3),
        "first": st.sampled_from([0, 0, 0, 1]),
        "stored": st.sampled_from([None, None, None, 0, 1, 5]),
    }),
    min_size=1, max_size=6,
)  # fmt: skip


def emit_tile(b: KernelBuilder, steps, sums: list[Reg], buffers, index) -> list[Reg]:
    """Outer products of what is loaded, added to some of the sums; the last factor."""
    factors: list[Reg] = []
    for step in steps:
        x, w = buffers[step["x"]], buffers[step["w"]]
        at = index + step["x_at"] if step["x_moves"] else step["x_at"]
        pointer, at = (b.pin(x, at), 0) if step["pinned"] else (x, at)
        read_x = b.load_splat if step["x_kind"] == "splat" else b.load
        read_w = b.load_splat if step["w_kind"] == "splat" else b.load
        xs = [read_x(pointer, at + 3 * r, F32X4) for r in range(step["rows"])]
        ws = [read_w(w, step["w_at"] + 4 * c, F32X4) for c in range(step["columns"])]
        factors = [xs[0], ws[-1]]
        for number, (left, right) in enumerate(
            (left, right) for left in xs for right in ws
        ):
            place = (step["first"] + number) % len(sums)
            sums[place] = b.fma(left, right, sums[place])
        if step["stored"] is not None:
            b.store(buffers[1], step["stored"], sums[step["first"]])
    return factors


@settings(derandomize=True, deadline=None, database=None, max_examples=300)
@given(TILE_STEPS, TILE_STEPS, st.integers(2, 9), st.booleans())
def test_random_tiles(before, inside, count, read_again) -> None:
    """Steps in front of a loop and in it; sums and factors are read behind them."""
    b = KernelBuilder()
    buffers = b.buffer("x", "f32"), b.buffer("y", "f32", written=True)
    sums = [b.const(0.5, F32X4)] * count
    emit_tile(b, before[:1], sums, buffers, 1)
    kept = sums[0]
    factors = emit_tile(b, before, sums, buffers, 1)

    def body(i, carried):
        known = list(carried)
        emit_tile(b, inside, known, buffers, i)
        if read_again:
            known[0] = b.fma(factors[0], factors[1], known[0])
        return known

    sums = list(b.fold("i", 0, 3, 1, sums, body))
    for number, total in enumerate([*sums, kept]):
        b.store(buffers[1], 2 * number, total)
    run_kernel_checked(b.finish("random"), [numbers(6, 30), numbers(7, 30)])
