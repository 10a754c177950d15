"""The order in which groups run, where some change variables in place.

Groups enter in an order in which their results exist when they are read; they leave in
one in which, besides, an update runs behind everything that reads the old value. What
need not move keeps its place.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from jitseq.ir.compute import Update
from jitseq.ir.graph import Value
from jitseq.passes.fusion_group import Group, compute_of


def is_view(group: Group) -> bool:
    """A reshape shows the memory of what it reads: no kernel runs."""
    return group.anchor is not None and group.anchor.op == "reshape"


def updated_values(group: Group) -> tuple[Value, ...]:
    """The values whose memory the group's outputs take."""
    record = compute_of(group.anchor) if group.anchor else None
    if not isinstance(record, Update):
        return ()
    assert group.anchor is not None
    p, _, *rest = group.anchor.inputs
    return (p, *rest[: record.states])


def in_order(groups: Sequence[Group]) -> list[Group]:
    """All groups; of those that may run next, the first one of ``groups`` does."""
    before = _predecessors(groups)
    after: list[list[int]] = [[] for _ in groups]
    for i, needed in enumerate(before):
        for j in needed:
            after[j].append(i)
    waiting = [len(needed) for needed in before]
    ready = [i for i, count in enumerate(waiting) if count == 0]
    found = []
    while ready:
        i = heapq.heappop(ready)
        found.append(groups[i])
        for j in after[i]:
            waiting[j] -= 1
            if waiting[j] == 0:
                heapq.heappush(ready, j)
    assert len(found) == len(groups), "an update has readers of both values"
    return found


def _predecessors(groups: Sequence[Group]) -> list[set[int]]:
    """The groups that must have run before each one."""
    shown: dict[Value, Value] = {}
    producer: dict[Value, int] = {}
    readers: dict[Value, list[int]] = {}
    for i, group in enumerate(groups):
        if is_view(group):
            source = group.external_inputs[0]
            shown[group.output] = shown.get(source, source)
        producer.update(dict.fromkeys(group.outputs, i))
        for value in group.external_inputs:
            readers.setdefault(shown.get(value, value), []).append(i)
    before = [
        {producer[value] for value in group.external_inputs if value in producer}
        for group in groups
    ]
    for i, group in enumerate(groups):
        for value in updated_values(group):
            old = readers[shown.get(value, value)]
            before[i].update(j for j in old if j != i and not is_view(groups[j]))
            before[i].discard(i)
    return before
