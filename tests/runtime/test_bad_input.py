"""Bad input is one clear error, eager and compiled alike, and leaves nothing behind.

Every way to hand over good numbers (strides, byte order, alignment, foreign objects)
gives the result of the plain array.
"""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
from tolerance import assert_close

import jitseq as js
from jitseq import nn
from jitseq.nn import functional as F


def cnn() -> nn.Sequential:
    js.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(128, 5),
    ).eval()  # fmt: skip


def image(*shape: int) -> np.ndarray:
    shape = shape or (2, 3, 8, 8)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Foreign:
    """An array behind ``__dlpack__`` and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class ArrayLike:
    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


BAD = {
    "channels": (image(2, 2, 8, 8), js.ShapeError, "2 channels"),
    "two dimensions": (image(8, 8), js.ShapeError, "got 2-D"),
    "five dimensions": (image(1, 2, 3, 8, 8), js.ShapeError, "got 5-D"),
    "no dimensions": (np.float32(3), js.ShapeError, "got 0-D"),
    "smaller than the pooling": (image(2, 3, 1, 1), js.ShapeError, "larger than"),
    "features": (image(2, 3, 10, 10), js.ShapeError, "200 features"),
    "int64": (image().astype(np.int64), js.DtypeError, "int64"),
    "bool": (image() > 0, js.DtypeError, "bool"),
    "float16": (image().astype(np.float16), js.DtypeError, "float16"),
    "float64": (image().astype(np.float64), js.DtypeError, "different dtypes"),
    "complex": (image().astype(np.complex64), js.DtypeError, "complex64"),
    "a list of floats": (image().tolist(), js.DtypeError, "different dtypes"),
}


@pytest.mark.parametrize("name", BAD)
def test_eager_and_compiled_raise_the_same_error_at_the_same_layer(name):
    bad, kind, text = BAD[name]
    model = cnn()
    compiled = js.jit(model)
    good = compiled(image())
    before, state = compiled.cache_info(), model.state_dict()
    with pytest.raises(kind, match=text) as eager:
        model(bad)
    with pytest.raises(kind, match=text) as native:
        compiled(bad)
    assert type(native.value) is type(eager.value)
    assert str(native.value) == str(eager.value)
    assert "at " in str(native.value) and "model." in str(native.value)
    assert compiled.cache_info() == before
    assert all(np.array_equal(state[k], v) for k, v in model.state_dict().items())
    np.testing.assert_array_equal(compiled(image()), good)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (image().astype(object), js.DtypeError),
        (np.full((2, 3, 8, 8), "a"), js.DtypeError),
        (image().astype("M8[s]"), js.DtypeError),
        (np.zeros((2, 3, 8, 8), [("a", "f4")]), js.DtypeError),
        (None, js.DtypeError),
        ({"a": 1}, js.DtypeError),
        ([[1.0], [2.0, 3.0]], js.ShapeError),
    ],
    ids=["object", "text", "dates", "records", "None", "dict", "ragged list"],
)
def test_what_does_not_hold_numbers(bad, kind):
    model = cnn()
    for call in (model, js.jit(model), js.jit(model, backend="eager")):
        with pytest.raises(kind):
            call(bad)


def test_a_kernel_that_is_larger_than_the_image():
    model = nn.Sequential(nn.Conv2d(3, 4, 9))
    for call in (model, js.jit(model)):
        with pytest.raises(js.ShapeError, match=r"9 × 9(?s:.*)model\.0  Conv2d"):
            call(image())


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.complex64, np.bool_])
def test_compiled_programs_take_floats_even_where_layers_do_not_mind(dtype):
    x = image().astype(dtype)
    assert nn.Flatten()(x).dtype == dtype
    with pytest.raises(js.DtypeError, match="take and give float32 and float64"):
        js.jit(nn.Sequential(nn.Flatten()))(x)


def test_sizes_that_overflow():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1 << 40))
    for call in (model, js.jit(model)):
        with pytest.raises(js.ShapeError, match=r"model\.0"):
            call(image())
    with pytest.raises(MemoryError):
        js.jit(cnn())(np.broadcast_to(np.float32(0), (1 << 40, 3, 8, 8)))


def test_the_wrong_number_or_names_of_arguments():
    compiled, x = js.jit(cnn()), image()
    for call in (
        lambda: compiled(), lambda: compiled(x, x), lambda: compiled(wrong=x),
        lambda: compiled(x, input=x),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            call()
    assert compiled.cache_info().misses == 0


WAYS = {
    "reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "every second": lambda x: np.repeat(x, 2, axis=3)[..., ::2],
    "Fortran order": np.asfortranarray,
    "big-endian": lambda x: x.astype(">f4"),
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "unaligned": lambda x: np.frombuffer(
        b"\0" + x.tobytes(), np.float32, offset=1
    ).reshape(x.shape),
    "masked": np.ma.masked_array,
    "memmap": lambda x: x.view(np.memmap),
    "dlpack": Foreign,
    "__array__": ArrayLike,
}


@pytest.mark.parametrize("way", WAYS)
def test_the_same_numbers_in_another_shape_of_memory(way):
    model, x = cnn(), image()
    compiled = js.jit(model)
    expected = compiled(x)
    assert_close(expected, model(x), terms=200)
    for _ in range(2):
        result = compiled(WAYS[way](x))
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_empty_batch(dynamic):
    compiled = js.jit(cnn(), dynamic_batch=dynamic)
    for _ in range(2):
        result = compiled(image()[:0])
        assert result.shape == (0, 5) and result.dtype == np.float32
    assert compiled(image()).shape == (2, 5)
    with pytest.raises(js.ShapeError, match=r"model\.0"):
        compiled(np.zeros((0, 2, 8, 8), np.float32))


def test_empty_arrays_and_empty_values():
    assert js.jit(nn.Flatten())(np.zeros((2, 0, 4), np.float32)).shape == (2, 0)
    js.manual_seed(0)
    layer = nn.Linear(0, 3)
    x = np.zeros((2, 0), np.float32)
    np.testing.assert_array_equal(js.jit(layer)(x), layer(x))
    with pytest.raises(js.UnsupportedError, match="no elements"):
        js.jit(nn.Linear(4, 0))(np.zeros((2, 4), np.float32))


def test_one_image_without_a_batch():
    js.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    compiled, x = js.jit(model), image(3, 8, 8)
    assert compiled(x).shape == (8, 3, 3)
    assert_close(compiled(x), compiled(x[None])[0], terms=30)


SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinities_as_in_torch(dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 3, 8, 8)).astype(dtype)
    places = rng.integers(0, x.size, 20)
    x.reshape(-1)[places] = rng.choice(SPECIAL, 20)
    theirs, ours = (
        lib.Sequential(
            lib.Conv2d(3, 4, 3, padding=1), lib.ReLU(), lib.MaxPool2d(2), lib.Sigmoid()
        )
        for lib in (torch.nn, nn)
    )
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    theirs.to(torch.from_numpy(x).dtype), ours.to(dtype)
    with np.errstate(all="ignore"):
        expected = theirs(torch.from_numpy(x)).detach().numpy()
    assert np.isnan(expected).any()
    assert_close(js.jit(ours)(x), expected, magnitude=10.0, terms=27)


@pytest.mark.parametrize(
    "layer", [nn.ReLU(), nn.MaxPool2d(2), nn.Softmax(dim=3), nn.Tanh(), nn.Sigmoid()]
)
def test_nan_and_infinities_layer_by_layer(layer):
    torch = pytest.importorskip("torch")
    x = np.resize(np.array([*SPECIAL, 1.0, -2.0], np.float32), (2, 2, 4, 6))
    expected = eval(repr(layer), vars(torch.nn).copy())(torch.from_numpy(x))
    assert_close(js.jit(layer)(x), expected.numpy())


# Functions


def test_branching_on_a_traced_value():
    with pytest.raises(js.TraceError, match="needs the value of an array"):
        js.jit(lambda x: x if x > 0 else -x)(image())
    with pytest.raises(js.TraceError, match="needs the value"):
        js.jit(lambda x: x * float(x))(image())


@pytest.mark.parametrize("result", [None, "text", (), [], {}, {"a": ()}])
def test_functions_that_return_no_array(result):
    compiled = js.jit(lambda x: result)
    with pytest.raises(js.TraceError, match="returned"):
        compiled(image())
    assert compiled.cache_info().misses == 0


def test_functions_that_return_objects():
    with pytest.raises(js.DtypeError):
        js.jit(lambda x: object())(image())


@pytest.mark.parametrize(
    "use", [lambda x: x[0], lambda x: x.mean(), lambda x: np.sort(x), lambda x: x @ x]
)
def test_what_traced_values_do_not_have(use):
    with pytest.raises((js.JitseqError, TypeError)) as error:
        js.jit(use)(image())
    assert not isinstance(error.value, js.ShapeError)


Pair = namedtuple("Pair", "first second")


def test_containers_come_back_as_they_were_returned():
    x = image()
    result = js.jit(lambda x: {"pair": Pair(x, -x), "list": [x + 1.0, (x * 2.0,)]})(x)
    assert list(result) == ["pair", "list"] and type(result["pair"]) is Pair
    np.testing.assert_array_equal(result["pair"].second, -x)
    assert type(result["list"]) is list and type(result["list"][1]) is tuple
    np.testing.assert_array_equal(result["list"][1][0], x * 2)


def test_an_exception_of_the_users_own_leaves_no_trace_of_the_trace():
    model, fail = nn.Sequential(nn.ReLU()), True

    def function(x):
        if fail:
            raise KeyError("mine")
        return model(x) * 2.0

    compiled, x = js.jit(function), image()
    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            compiled(x)
    assert compiled.cache_info() == (0, 0, 0, 0, ())
    np.testing.assert_array_equal(model(x), np.maximum(x, 0))  # eager, not traced
    fail = False
    np.testing.assert_array_equal(compiled(x), np.maximum(x, 0) * 2)
    assert compiled.cache_info().misses == 1


def test_python_numbers_take_the_dtype_beside_them():
    x = image()
    compiled = js.jit(lambda x, scale: x * scale)
    for scale in (2.5, 3, np.float32(0.5)):
        np.testing.assert_array_equal(compiled(x, scale), x * np.float32(scale))
    with pytest.raises(js.DtypeError, match="different dtypes"):
        compiled(x, np.float64(2.5))


def test_the_length_of_a_batch_makes_programs_for_one_size():
    compiled = js.jit(lambda x: x * (1.0 / len(x)))
    for n in (2, 4, 2, 4):
        np.testing.assert_array_equal(compiled(image(n, 3)), image(n, 3) * (1 / n))
    assert compiled.cache_info().misses == 2 and compiled.cache_info().hits == 2


def test_a_sequential_of_something_else():
    with pytest.raises(TypeError, match="not a Module"):
        nn.Sequential(nn.ReLU(), F.relu)
