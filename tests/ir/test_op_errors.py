"""Bad shapes, dtypes and options are refused with facts and a hint."""

from __future__ import annotations

import pytest

from jitseq.errors import DtypeError, NeedsStaticBatch, ShapeError, UnsupportedError
from jitseq.ir.op import get_op
from jitseq.ir.types import BATCH, TensorType

CONV = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
TRANSPOSE = {**CONV, "padding": (0, 0), "output_padding": (0, 0)}
MAX = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1),
       "ceil_mode": False}  # fmt: skip
AVG = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "ceil_mode": False,
       "count_include_pad": True, "divisor_override": None}  # fmt: skip
PAD = {"padding": ((0, 0), (3, 0)), "mode": "constant", "value": 0.0}
IMAGE = (BATCH, 4, 8, 8)
HUGE = 2**31

REFUSED = [
    ("conv2d", [(4, 8, 8), (5, 4, 3, 3)], CONV, "expects an input of 4 dimensions"),
    ("conv2d", [(2, 3, 8, 8), (5, 4, 3, 3)], CONV, "3 channels, weight expects 4"),
    ("conv2d", [IMAGE, (5, 4, 9, 3)], CONV, "larger than the padded input of 8 × 8"),
    ("conv2d", [IMAGE, (4, 4, 3, 3)], {**CONV, "dilation": (4, 4)}, "kernel of 9 × 9"),
    ("conv2d", [IMAGE, (6, 1, 3, 3)], {**CONV, "groups": 3}, "4 channels cannot"),
    ("conv2d", [IMAGE, (5, 2, 3, 3)], {**CONV, "groups": 2}, "5 output channels"),
    ("conv2d", [IMAGE, (5, 4, 3)], CONV, "weight of 4 dimensions"),
    ("conv2d", [IMAGE, (5, 4, 3, 3), (4,)], CONV, r"bias must have shape \[5\]"),
    ("conv2d", [IMAGE, (5, 4, 3, 3)], {**CONV, "stride": (0, 1)}, "stride must be at"),
    ("conv2d", [IMAGE, (5, 4, 3, 3)], {**CONV, "padding": (0, 0, -1, 0)}, "padding"),
    ("conv2d", [(2, 4, 0, 8), (5, 4, 1, 1)], CONV, "must not be empty"),
    ("conv2d", [(1, 1, HUGE, HUGE), (2, 1, 1, 1)], CONV, "would have"),
    ("conv_transpose2d", [IMAGE, (3, 5, 3, 3)], TRANSPOSE, "weight expects 3"),
    ("conv_transpose2d", [IMAGE, (4, 5, 3, 3), (4,)], TRANSPOSE, "bias must have"),
    ("conv_transpose2d", [IMAGE, (4, 5, 3, 3)], {**TRANSPOSE, "output_padding": (1, 0)},
     "output_padding 1 must be smaller"),
    ("conv_transpose2d", [(1, 4, 1, 1), (4, 5, 3, 3)], {**TRANSPOSE, "padding": (2, 0)},
     "would have -1 × 3 pixels"),
    ("linear", [(2, 7), (5, 8)], {}, "7 features, weight expects 8"),
    ("linear", [(2, 7), (5, 7, 1)], {}, "expects an input"),
    ("linear", [(2, 7), (5, 7), (7,)], {}, "bias must have shape"),
    ("linear", [(HUGE, HUGE, 1), (2, 1)], {}, "would have"),
    ("batch_norm", [IMAGE, (3,), (3,)], {"eps": 0.0}, "input has 4 channels"),
    ("batch_norm", [IMAGE, (4,), (4,), (4,)], {"eps": 0.0}, "come together"),
    ("batch_norm", [(BATCH,), (4,), (4,)], {"eps": 0.0}, "expects an input"),
    ("max_pool2d", [(4, 8, 8)], MAX, "expects an input of 4 dimensions"),
    ("max_pool2d", [IMAGE], {**MAX, "padding": (2, 0)}, "at most half"),
    ("max_pool2d", [IMAGE], {**MAX, "kernel": (9, 2)}, "larger than the padded"),
    ("max_pool2d", [IMAGE], {**MAX, "dilation": (0, 1)}, "dilation must be at least 1"),
    ("max_pool2d", [(1, 1, 4, 4)], {**MAX, "padding": (1, 1), "dilation": (5, 5)},
     "nothing but padding"),
    ("avg_pool2d", [IMAGE], {**AVG, "kernel": (9, 2)}, "larger than the padded"),
    ("avg_pool2d", [IMAGE], {**AVG, "divisor_override": 0}, "divisor_override"),
    ("adaptive_avg_pool2d", [IMAGE], {"output_size": (0, 1)}, "output_size"),
    ("adaptive_max_pool2d", [IMAGE[1:]], {"output_size": (1, 1)}, "4 dimensions"),
    ("add", [(2, 3), (2, 4)], {}, "sizes 3 and 4 do not broadcast"),
    ("mul", [(HUGE, 1), (1, HUGE)], {}, "would have"),
    ("softmax", [(2, 3)], {"dim": 2}, "no dimension 2"),
    ("sum", [()], {"dims": (0,), "keepdim": False}, "no dimension 0"),
    ("mean", [(2, 3)], {"dims": (1, -1), "keepdim": False}, "given twice"),
    ("max", [(2, 0)], {"dims": (1,), "keepdim": False}, "no maximum"),
    ("reshape", [(2, 3)], {"shape": (4,)}, "6 elements do not fill"),
    ("reshape", [(2, 3)], {"shape": (-1, -1)}, "except one -1"),
    ("reshape", [(2, 3)], {"shape": (4, -1)}, "do not fill"),
    ("reshape", [IMAGE], {"shape": (BATCH, 255)}, "256 elements do not fill"),
    ("permute", [(2, 3)], {"dims": (0, 0)}, "every dimension once"),
    ("concat", [(2, 3), (2, 3, 1)], {"dim": 0}, "same number of dimensions"),
    ("concat", [(2, 3), (3, 4)], {"dim": 1}, "sizes 2 and 3"),
    ("concat", [], {"dim": 0}, "needs inputs"),
    ("pad", [(2, 3, 4)], PAD, "one pair"),
    ("pad", [(2, 3)], {**PAD, "padding": ((0, 0), (-1, 0))}, "non-negative"),
    ("pad", [(2, 3)], {**PAD, "mode": "reflect"}, "reflect cannot take 3"),
    ("pad", [(2, 2)], {**PAD, "mode": "circular"}, "circular cannot take 3"),
    ("pad", [(2, 0)], {**PAD, "mode": "replicate"}, "replicate cannot take 3"),
    ("slice", [(2, 3)], {"dim": 1, "start": 1, "stop": 4}, "1:4 is not inside"),
    ("broadcast", [(2, 3)], {"shape": (3,)}, "2 dimensions do not fit"),
    ("broadcast", [(2, 3)], {"shape": (2, 4)}, "sizes 3 and 4"),
]  # fmt: skip


@pytest.mark.parametrize("name, shapes, attrs, message", REFUSED)
def test_shapes_that_do_not_fit(name, shapes, attrs, message) -> None:
    types = [TensorType("float32", shape) for shape in shapes]
    with pytest.raises(ShapeError, match=message) as caught:
        get_op(name).infer(*types, **attrs)
    assert caught.value.message.startswith(f"{name}: ")
    assert caught.value.hint


def test_the_error_shows_both_types() -> None:
    types = (
        TensorType("float32", (BATCH, 3, 28, 28)),
        TensorType("float32", (16, 1, 3, 3)),
    )
    with pytest.raises(ShapeError) as caught:
        get_op("conv2d").infer(*types, **CONV)
    assert str(caught.value).split("\n")[:3] == [
        "conv2d: input has 3 channels, weight expects 1",
        "  input   f32[n, 3, 28, 28]",
        "  weight  f32[16, 1, 3, 3]",
    ]


NUMBER_NEEDED = [
    ("softmax", [(BATCH, 3)], {"dim": 0}),
    ("sum", [(BATCH, 3)], {"dims": (0, 1), "keepdim": True}),
    ("concat", [(BATCH, 3), (BATCH, 3)], {"dim": 0}),
    ("concat", [(BATCH, 3), (2, 3)], {"dim": 1}),
    ("add", [(BATCH, 3), (2, 3)], {}),
    ("add", [(BATCH, 3), (2, 1, 3)], {}),
    ("linear", [(BATCH,), (2, 3)], {}),
    ("reshape", [(BATCH, 12)], {"shape": (-1, 3)}),
    ("reshape", [(BATCH, 12)], {"shape": (4, 12)}),
    ("reshape", [(BATCH, 12)], {"shape": (12, BATCH)}),
    ("permute", [(BATCH, 3)], {"dims": (1, 0)}),
    ("pad", [(BATCH, 3)], {**PAD, "padding": ((1, 0), (0, 0))}),
    ("slice", [(BATCH, 3)], {"dim": 0, "start": 0, "stop": 1}),
    ("broadcast", [(3,)], {"shape": (BATCH, 3)}),
    ("broadcast", [(BATCH, 3)], {"shape": (2, BATCH, 3)}),
]


@pytest.mark.parametrize("name, shapes, attrs", NUMBER_NEEDED)
def test_the_batch_used_as_a_number(name, shapes, attrs) -> None:
    types = [TensorType("float32", shape) for shape in shapes]
    with pytest.raises(NeedsStaticBatch):
        get_op(name).infer(*types, **attrs)


@pytest.mark.parametrize("name, shapes, attrs", [
    ("conv2d", [IMAGE, (5, 4, 3, 3)], CONV),
    ("linear", [(2, 7), (5, 7)], {}),
    ("add", [(2, 3), (2, 3)], {}),
    ("concat", [(2, 3), (2, 3)], {"dim": 0}),
])  # fmt: skip
def test_dtypes_must_agree_and_be_floats(name, shapes, attrs) -> None:
    first, *others = [TensorType("float32", shape) for shape in shapes]
    with pytest.raises(DtypeError, match="different dtypes"):
        get_op(name).infer(TensorType("float64", first.shape), *others, **attrs)
    with pytest.raises(DtypeError, match="got int64"):
        get_op(name).infer(TensorType("int64", first.shape), *others, **attrs)


@pytest.mark.parametrize("name, attrs", [
    ("relu", {}), ("softmax", {"dim": 1}), ("max_pool2d", MAX),
    ("mean", {"dims": (1,), "keepdim": False}),
])  # fmt: skip
def test_integers_are_refused(name, attrs) -> None:
    with pytest.raises(DtypeError, match=f"{name}: computes on float32 and float64"):
        get_op(name).infer(TensorType("uint8", (2, 3, 4, 4)), **attrs)


@pytest.mark.parametrize("name, attrs, message", [
    ("celu", {"alpha": 0.0}, "alpha must not be 0"),
    ("softplus", {"beta": 0.0, "threshold": 20.0}, "beta must not be 0"),
    ("gelu", {"approximate": "sigmoid"}, "no approximation 'sigmoid'"),
    ("pad", {**PAD, "mode": "mirror"}, "no mode 'mirror'"),
])  # fmt: skip
def test_options_that_do_not_exist(name, attrs, message) -> None:
    with pytest.raises(UnsupportedError, match=message):
        get_op(name).infer(TensorType("float32", (2, 3)), **attrs)


def test_an_empty_batch_and_batch_against_one_are_fine() -> None:
    x, one = TensorType("float32", (BATCH, 3)), TensorType("float32", (1, 1))
    assert get_op("add").infer(one, x).shape == (BATCH, 3)
    assert get_op("add").infer(x, TensorType("float32", (3,))).shape == (BATCH, 3)
    assert get_op("reshape").infer(x, shape=(-1, 1, 3)).shape == (BATCH, 1, 3)
    empty = TensorType("float32", (0, 12))
    assert get_op("reshape").infer(empty, shape=(BATCH, -1, 4)).shape == (0, 3, 4)
