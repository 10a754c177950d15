"""Layout: where the elements of every value lie, and the copies that this needs.

Images are channels-last between kernels, with zeroed halos where a convolution reads
beyond their edges; the caller's arrays keep their order. Reshapes are views. A copy
is inserted only where a kernel cannot read what is there: a caller's image without
its halo, planar channels where vectors must run along channels, a result that the
caller wants in logical order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jitseq.ir.compute import (
    Contraction,
    Update,
    WeightGradient,
    Window,
    WindowGradient,
    WindowIndex,
)
from jitseq.ir.graph import Node, Value
from jitseq.ir.layout import (
    Layout,
    channels_last,
    element_count,
    planar,
    reshape_layout,
    row_major,
)
from jitseq.ir.target import Target
from jitseq.passes.fusion_group import (
    FusedGraph,
    Group,
    compute_of,
    is_depthwise,
    is_linear,
)
from jitseq.passes.layout_rules import (
    NO_HALO,
    Halo,
    covers,
    dense_like,
    has_channels_last,
    has_channels_last_rows,
    is_image,
    is_last,
    is_simple,
    needed_halo,
    padded_rows,
)
from jitseq.passes.lower.weight_gradient import weight_gradient_layout


@dataclass(frozen=True)
class LaidOut:
    """Groups with copies in place, a layout for each value, and who owns its memory.

    ``aliases`` maps a view to the value whose memory it shows. ``results`` are the
    values that the program's outputs hold, in order, variables left out.
    """

    groups: tuple[Group, ...]
    layouts: dict[Value, Layout]
    aliases: dict[Value, Value]
    results: tuple[Value, ...]

    def owner(self, value: Value) -> Value:
        return self.aliases.get(value, value)


def lay_out(fused: FusedGraph, target: Target) -> LaidOut:
    """Assign layouts in execution order."""
    return _LayoutPass(fused, target).run()


class _LayoutPass:
    def __init__(self, fused: FusedGraph, target: Target) -> None:
        self.fused = fused
        self.target = target
        self.packed = fused.packed_values
        self.graph = fused.graph
        self.layouts: dict[Value, Layout] = {}
        self.aliases: dict[Value, Value] = {}
        self.groups: list[Group] = []
        self.copies: dict[tuple[Value, str, Halo], Value] = {}
        self.halos: dict[Value, Halo] = {}
        self.made: set[Value] = set()

    def run(self) -> LaidOut:
        direct = (*self.graph.inputs, *self.fused.generated)
        for value in (*direct, *self.packed):
            self.layouts[value] = row_major(value.type)
        for group in self.fused.groups:
            self._collect_halo(group)
        for group in self.fused.groups:
            self._place(group)
        results = self._results()
        return LaidOut(tuple(self.groups), self.layouts, self.aliases, results)

    def _collect_halo(self, group: Group) -> None:
        if group.anchor is None or group.anchor.op == "reshape":
            return
        needed = needed_halo(group.anchor)
        if any(needed):
            value = group.anchor.inputs[0]
            known = self.halos.get(value, NO_HALO)
            self.halos[value] = tuple(map(max, known, needed))  # type: ignore[assignment]

    # inputs

    def _place(self, group: Group) -> None:
        if group.anchor is not None and group.anchor.op == "reshape":
            self._view(group)
            return
        group = self._with_readable_inputs(group)
        self.groups.append(group)
        if self._is_update(group):
            self._take_place(group)
            return
        self.layouts[group.output] = self._natural(group)
        self.made.add(group.output)
        for node in group.companions:
            type = node.output.type
            layout = channels_last(type, NO_HALO) if is_image(type) else row_major(type)
            self.layouts[node.output] = layout

    @staticmethod
    def _is_update(group: Group) -> bool:
        return group.anchor is not None and isinstance(compute_of(group.anchor), Update)

    def _take_place(self, group: Group) -> None:
        """Outputs of an update lie where the variables do."""
        for value in group.outputs:
            variable = self.fused.changed[value]
            self.layouts[value] = self.layouts[variable]
            self.aliases[value] = variable

    def _runs_once(self, group: Group) -> bool:
        """Whether nothing of the group has the batch, in a program that has one."""
        values = (*group.outputs, *group.external_inputs)
        return self.fused.batched and not any(v.type.has_batch for v in values)

    def _with_readable_inputs(self, group: Group) -> Group:
        replaced: dict[Value, Value] = {}
        record = compute_of(group.anchor) if group.anchor else None
        main = group.anchor.inputs if group.anchor else ()
        first = self._first_full(group)
        once = self._runs_once(group)
        for value in group.external_inputs:
            if value in self.packed or value in self.fused.generated:
                continue
            weight = isinstance(record, Contraction) and value in main[1:]
            need: Callable[[Value], Value]
            if weight or once or isinstance(record, Update):
                need = self._row_major
            elif group.prologue:
                need = self._summed_need(group, value)
            elif value in main and record is not None:
                need = self._anchor_need(record, group, value)
            else:
                need = self._operand_need(value, group, first)
            replaced[value] = need(value)
        return group.reading(replaced)

    def _anchor_need(
        self, record: object, group: Group, value: Value
    ) -> Callable[[Value], Value]:
        assert group.anchor is not None
        first = value is group.anchor.inputs[0]
        halo = needed_halo(group.anchor) if first else NO_HALO
        if isinstance(record, WeightGradient):
            if is_linear(record.forward):
                return self._rows if first else self._simple_copy
            any_order = first and not is_depthwise(record.forward)
            return lambda value: self._image(value, halo, any_order)
        if isinstance(record, Contraction) and is_linear(record):
            return self._rows
        if isinstance(record, Contraction) and not is_depthwise(record):
            return lambda value: self._image(value, halo, any_order=True)
        if isinstance(record, Contraction | Window | WindowIndex | WindowGradient):
            return lambda value: self._image(value, halo, any_order=False)
        return self._simple_copy

    def _row_major(self, value: Value) -> Value:
        layout, plain = self.layouts[value], row_major(value.type)
        exact = layout.contiguous and not layout.offset and layout.size == plain.size
        return value if exact else self._copy(value, "rows", NO_HALO, plain)

    def _operand_need(
        self, value: Value, group: Group, first: Value | None
    ) -> Callable[[Value], Value]:
        """What a pointwise chain needs of an operand that is not its anchor."""
        if group.anchor is not None:
            if (
                is_image(value.type)
                and value.type.shape[1:] == group.output.type.shape[1:]
            ):
                return lambda value: self._image(value, NO_HALO, any_order=False)
            return self._simple_copy
        if first is None or value.type.shape != first.type.shape:
            return self._simple_copy
        if is_image(value.type) and self._meets_channels_last(group):
            return lambda value: self._image(value, NO_HALO, any_order=False)
        here, there = self.layouts[value], self.layouts[first]
        same = [[f[0] for f in dim] for dim in here.dims] == [
            [f[0] for f in dim] for dim in there.dims
        ]
        return (lambda value: value) if same or is_simple(here) else self._simple_copy

    def _meets_channels_last(self, group: Group) -> bool:
        """Whether some image that a pointwise kernel reads is not in logical order:
        an operand that is would be gathered, element by element."""
        return any(
            is_image(value.type) and is_last(value.type, self.layouts[value])
            for value in group.external_inputs
            if value not in self.packed
        )

    def _summed_need(self, group: Group, value: Value) -> Callable[[Value], Value]:
        """Operands of a sum lie alike, channels innermost."""
        type = group.anchor.inputs[0].type  # type: ignore[union-attr]
        if value.type != type:
            return self._row_major
        full = [v for v in group.external_inputs if v.type == type]
        channels = [has_channels_last_rows(type, self.layouts[v]) for v in full]
        alike = all(channels) and len({self.layouts[v].dims for v in full}) == 1
        plain = channels_last(type, NO_HALO) if is_image(type) else row_major(type)
        return lambda v: v if alike else self._copy(v, "channels_last", NO_HALO, plain)

    def _rows(self, value: Value) -> Value:
        layout = self.layouts[value]
        if all(layout.is_simple(dim) for dim in range(layout.ndim - 1)):
            return value
        return self._copy(value, "rows", NO_HALO, row_major(value.type))

    def _simple_copy(self, value: Value) -> Value:
        if is_simple(self.layouts[value]):
            return value
        return self._copy(value, "rows", NO_HALO, row_major(value.type))

    def _image(self, value: Value, halo: Halo, any_order: bool) -> Value:
        layout = self.layouts[value]
        good_order = any_order or has_channels_last(value.type, layout)
        if is_simple(layout) and good_order and covers(layout.halo, halo):
            return value
        halo = tuple(map(max, halo, self.halos.get(value, NO_HALO)))  # type: ignore[assignment]
        is_planar = (
            is_simple(layout) and layout.stride(3) == 1 and value.type.shape[1] != 1
        )
        if any_order and is_planar:
            return self._copy(value, "planar", halo, planar(value.type, halo))
        return self._copy(value, "channels_last", halo, channels_last(value.type, halo))

    def _copy(self, value: Value, kind: str, halo: Halo, layout: Layout) -> Value:
        key = (value, kind, halo)
        if key not in self.copies:
            copy = Value(value.type)
            self.groups.append(Group(Node("copy", (value,), {}, (copy,))))
            self.layouts[copy] = layout
            self.made.add(copy)
            self.copies[key] = copy
        return self.copies[key]

    # outputs

    def _natural(self, group: Group) -> Layout:
        """The layout that the group's kernel writes best."""
        value = group.output
        halo = self.halos.get(value, NO_HALO)
        record = compute_of(group.anchor) if group.anchor else None
        if isinstance(record, WeightGradient):
            assert group.anchor is not None
            x = self.layouts[group.anchor.inputs[0]]
            return weight_gradient_layout(record, x, value.type, self.target)
        if self._runs_once(group):
            return row_major(value.type)
        returned = value in self.graph.outputs
        rows = isinstance(record, Contraction) and is_linear(record)
        images = Contraction | Window | WindowIndex | WindowGradient
        if isinstance(record, images) and not rows:
            return self._image_or_result(value, halo, returned)
        if isinstance(record, Contraction):
            return (
                row_major(value.type)
                if returned
                else padded_rows(row_major(value.type))
            )
        return self._like_inputs(group, halo, returned)

    def _image_or_result(self, value: Value, halo: Halo, returned: bool) -> Layout:
        plain = channels_last(value.type, NO_HALO, pad_image=False)
        if returned and plain.contiguous:
            return row_major(value.type)
        return channels_last(value.type, halo)

    def _like_inputs(self, group: Group, halo: Halo, returned: bool) -> Layout:
        """Pointwise, reductions and movements keep the order of what they read."""
        value = group.output
        if is_image(value.type):
            images = [
                v for v in group.external_inputs
                if is_image(v.type) and v not in self.packed
            ]  # fmt: skip
            rows = all(not is_last(v.type, self.layouts[v]) for v in images)
            if rows and (returned or not any(halo)):
                return row_major(value.type)
            return self._image_or_result(value, halo, returned)
        first = self._first_full(group)
        pointwise = group.anchor is None
        if first is None or not pointwise or returned:
            return row_major(value.type)
        return dense_like(self.layouts[first])

    def _first_full(self, group: Group) -> Value | None:
        shape = group.output.type.shape
        for value in group.external_inputs:
            if value.type.shape == shape and value not in self.packed:
                return value
        return None

    def _view(self, group: Group) -> None:
        (source,) = group.nodes[0].inputs
        type = group.output.type
        if source in self.packed:
            source = self._copy(source, "rows", NO_HALO, row_major(source.type))
        layout = reshape_layout(self.layouts[source], type)
        if layout is None:
            source = self._copy(source, "rows", NO_HALO, row_major(source.type))
            layout = reshape_layout(self.layouts[source], type)
        assert layout is not None
        self.layouts[group.output] = layout
        self.aliases[group.output] = self.aliases.get(source, source)

    def _results(self) -> tuple[Value, ...]:
        """Each output in logical order, in memory of its own."""
        results: list[Value] = []
        sums = {group.output for group in self.groups if group.accumulates}
        for value in self.graph.outputs:
            if value in self.fused.changed:
                continue
            layout = self.layouts[value]
            direct = value in self.made and value not in sums
            direct = direct and layout.contiguous and not any(layout.halo)
            exact = layout.size == element_count(value.type)
            if direct and exact and value not in results:
                results.append(value)
                continue
            copy = Value(value.type)
            self.groups.append(Group(Node("copy", (value,), {}, (copy,))))
            self.layouts[copy] = row_major(value.type)
            results.append(copy)
        return tuple(results)
