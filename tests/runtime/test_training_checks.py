"""Which labels a training step looks at before a native program starts."""

from __future__ import annotations

from typing import Any

import pytest

from jitseq import nn
from jitseq.errors import RangeError
from jitseq.ir.trace import trace
from jitseq.ir.types import type_of
from jitseq.runtime.training_checks import check_label_inputs, composed


@pytest.mark.parametrize("shape", [(7,), (7, 2)])
def test_labels_are_found_among_the_inputs(shape: tuple[int, ...], rng: Any) -> None:
    scores = rng.normal(size=(7, 3, *shape[1:]))
    labels = rng.integers(0, 3, shape)
    target = composed(lambda x: x, nn.CrossEntropyLoss(ignore_index=7))
    graph = trace(target, [type_of(scores), type_of(labels)]).graph
    check_label_inputs(graph, [scores, labels])
    labels[..., 0] = 7
    check_label_inputs(graph, [scores, labels])
    labels[2] = -1
    with pytest.raises(RangeError, match="label -1"):
        check_label_inputs(graph, [scores, labels])


def test_labels_in_another_shape_are_found(rng: Any) -> None:
    scores, labels = rng.normal(size=(6, 3)), rng.integers(0, 3, (6, 1))

    def loss(x: Any, y: Any) -> Any:
        return nn.functional.cross_entropy(x, nn.functional.reshape(y, (6,)))

    target = composed(lambda x: x, loss)
    types = [type_of(scores), type_of(labels)]
    graph = trace(target, types, dynamic_batch=False).graph
    check_label_inputs(graph, [scores, labels])
    labels[5, 0] = 3
    with pytest.raises(RangeError, match="label 3"):
        check_label_inputs(graph, [scores, labels])
