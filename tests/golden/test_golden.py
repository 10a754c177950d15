"""Text of each pass's input and output, as it was reviewed.

`make golden` writes the texts again. Everything here is scheduled for two fixed
targets, so that the text is the same on every machine.
"""

from __future__ import annotations

import pytest
from pass_cases import AVX512, NARROW, traced

from jitseq import nn
from jitseq.ir.program_text import program_text
from jitseq.ir.verify import verify
from jitseq.nn import functional as F
from jitseq.passes.fold_batchnorm import decompose_batchnorm, fold_batchnorm
from jitseq.passes.fuse import fuse
from jitseq.passes.layout import LaidOut
from jitseq.passes.pipeline import optimise, schedule
from jitseq.passes.simplify import drop_dead, simplify
from jitseq.passes.static_values import static_values


def unused_branch(x):
    F.exp(x)
    return F.relu(x) + 1


def folded_layers():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6, affine=False),
        nn.Flatten(), nn.Linear(54, 5), nn.BatchNorm1d(5),
    )  # fmt: skip


def left_batch_norms():
    return nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, affine=False))


def nothing_changes(x):
    return F.permute(F.reshape(x, x.shape), (0, 1, 2, 3)) + 1


def reshapes(x):
    return F.unflatten(F.flatten(x, 1), 1, (6, 8))


def there_and_back(x):
    return F.unflatten(F.relu(F.flatten(x, 1)), 1, (3, 4, 4)) * 2


def pool_of_monotone(x):
    return F.max_pool2d(F.relu(F.tanh(x)), 2)


def equal_expressions(x):
    return F.exp(x) + F.exp(x) * F.relu(F.exp(x))


GRAPH_PASSES = {
    "drop_dead": (drop_dead, lambda: unused_branch),
    "fold_batchnorm": (fold_batchnorm, folded_layers),
    "decompose_batchnorm": (decompose_batchnorm, left_batch_norms),
    "simplify_identity": (simplify, lambda: nothing_changes),
    "simplify_reshape_of_reshape": (simplify, lambda: reshapes),
    "simplify_reshape_behind_pointwise": (simplify, lambda: there_and_back),
    "simplify_monotone_behind_max_pool": (simplify, lambda: pool_of_monotone),
    "simplify_equal_expressions": (simplify, lambda: equal_expressions),
}


@pytest.mark.parametrize("name", GRAPH_PASSES)
def test_graph_pass(name, golden) -> None:
    run, target = GRAPH_PASSES[name]
    before = traced(target(), (2, 3, 4, 4))
    after = run(before)
    verify(after)
    golden(name, f"before\n{before}\n\nafter\n{after}")


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.SiLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(4, 5), nn.LogSoftmax(1),
    )  # fmt: skip


def residual(x):
    y = F.max_pool2d(x, 2)
    return F.relu(F.permute(y, (0, 1, 3, 2)) + y), F.mean(y, (2, 3))


FUSED = {"fuse_cnn": small_cnn, "fuse_residual": lambda: residual}


@pytest.mark.parametrize("name", FUSED)
def test_fuse(name, golden) -> None:
    graph = simplify(traced(FUSED[name](), (2, 3, 4, 4)))
    fused = fuse(graph, static_values(graph))
    golden(name, f"before\n{graph}\n\nafter\n{fused}")


def layout_text(laid: LaidOut) -> str:
    """Groups in order, with the strides of what each writes."""
    lines = []
    for group in laid.groups:
        layout = laid.layouts[group.output]
        dims = " ".join(
            "·".join(f"{'n' if e is None else e}/{s}" for e, s in factors)
            for factors in layout.dims
        )
        halo = f" halo {layout.halo}" if any(layout.halo) else ""
        place = f"offset {layout.offset} size {layout.size}{halo}"
        lines.append(f"{' + '.join(group.ops)}: {group.output.type}")
        lines.append(f"  extent/stride {dims}, {place}")
    return "\n".join([*lines, f"{len(laid.aliases)} views"])


def test_layout(golden) -> None:
    fused = optimise(traced(small_cnn(), (2, 3, 4, 4)))
    golden(
        "layout",
        f"before\n{fused}\n\nafter\n{layout_text(schedule(fused, AVX512).laid)}",
    )


def test_program(golden) -> None:
    """One kernel in full: its tile for six rows, two, and one."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    planned = schedule(optimise(traced(model, (3, 2))), NARROW).planned
    golden("program", program_text(planned.program))


def test_pointwise_program(golden) -> None:
    fused = optimise(traced(lambda x: F.leaky_relu(x * x + 1, 0.5), (3, 2, 5)))
    golden("pointwise_program", program_text(schedule(fused, NARROW).planned.program))
