"""A compiled torch module sees every change of the torch module, whatever made it."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import jitseq as js

torch = pytest.importorskip("torch")

from interop.torch_models import (  # noqa: E402
    Around,
    assert_same,
    expected,
    images,
    small_model,
)

from jitseq.interop.torch import from_torch  # noqa: E402

F = torch.nn.functional

# tensors and arrays


def test_tensors_for_tensors_and_arrays_for_arrays() -> None:
    model = small_model()
    compiled = js.trace(model, images(2, 6))
    x = images(2, 6).requires_grad_()
    for _ in range(2):
        result = compiled(x)
        assert_same(result, expected(model, x))
        assert not result.requires_grad
        array = compiled(x.detach().numpy())
        assert type(array) is np.ndarray
        assert np.array_equal(array, result.numpy())
    assert compiled.cache_info().misses == 1


def test_inputs_are_left_alone() -> None:
    model = torch.nn.Sequential(torch.nn.ReLU(inplace=True)).eval()
    x = images(4)
    before = x.clone()
    js.jit(model)(x)
    assert torch.equal(x, before)


def test_eager_backend_and_pickle() -> None:
    model, x = small_model(), images(2, 6)
    for compiled in (js.jit(model, backend="eager"), js.jit(js.jit(model))):
        assert_same(compiled(x), expected(model, x))
        model[0].bias.data.add_(1)
        assert_same(compiled(x), expected(model, x))
    loaded = pickle.loads(pickle.dumps(js.jit(model)))
    twin = loaded.target.module
    assert twin is not model
    assert_same(loaded(x), expected(model, x))
    twin[0].bias.data.add_(1)
    assert_same(loaded(x), expected(twin, x))


# following


def through_data(model):
    model[0].weight.data.copy_(model[0].weight.data * 2)


def through_numpy(model):
    model[2].weight.detach().numpy()[0, 0] += 1


def through_no_grad(model):
    with torch.no_grad():
        model[0].bias.sub_(0.5)


def new_data(model):
    model[0].weight.data = model[0].weight.data * 3


def transposed_data(model):
    model[0].weight.data = (model[0].weight.data * 2).t().contiguous().t()


def from_vector(model):
    count = sum(p.numel() for p in model.parameters())
    torch.nn.utils.vector_to_parameters(torch.ones(count), model.parameters())


def load_state_dict(model):
    model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})


def _step(model, optimizer, **options):
    made = optimizer(model.parameters(), lr=0.1, **options)
    model(images(5, 6)).sum().backward()
    made.step()


def sgd_step(model):
    _step(model, torch.optim.SGD, momentum=0.9)


def fused_adam_step(model):
    _step(model, torch.optim.Adam, fused=True)


def new_parameter(model):
    model[0].bias = torch.nn.Parameter(torch.ones(4))


def new_layer(model):
    model[2] = torch.nn.Linear(4, 7)


def one_layer_more(model):
    model.append(torch.nn.Tanh())


def one_layer_less(model):
    del model[1]


def other_layer_type(model):
    model[1] = torch.nn.Sigmoid()


def double(model):
    model.double()


CHANGES = (
    through_data, through_numpy, through_no_grad, new_data, transposed_data,
    from_vector, load_state_dict, sgd_step, fused_adam_step, new_parameter, new_layer,
    one_layer_more, one_layer_less, other_layer_type, double,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_are_seen(change) -> None:
    model = small_model()
    x = images(2, 6)
    compiled = js.jit(model)
    first = compiled(x)
    compiled(x)
    change(model)
    x = x.to(model[0].weight.dtype)
    reference = expected(model, x)
    assert not torch.equal(reference, first.to(reference.dtype))
    assert_same(compiled(x), reference)
    assert_same(compiled(x), reference)


def test_a_single_bit_is_seen_and_values_do_not_recompile() -> None:
    model, x = small_model(), images(2, 6)
    compiled = js.jit(model)
    for tensor in model.parameters():
        compiled(x)
        tensor.data.view(torch.int32).view(-1)[-1] ^= 1
        compiled(x)
        twin = compiled.target.twin.state_dict()
        assert all(np.array_equal(twin[k], v) for k, v in model.state_dict().items())
    assert compiled.cache_info().misses == 1


def test_options_and_hooks_are_seen() -> None:
    model = torch.nn.Sequential(torch.nn.LeakyReLU(0.1)).eval()
    x = images(5)
    compiled = js.jit(model)
    assert_same(compiled(x), expected(model, x))
    model[0].negative_slope = 0.7
    assert_same(compiled(x), expected(model, x))
    handle = model[0].register_forward_hook(lambda module, args, result: result + 1)
    with pytest.raises(js.UnsupportedError, match="forward hooks"):
        compiled(x)
    handle.remove()
    assert_same(compiled(x), expected(model, x))


def test_attributes_of_a_forward_are_seen() -> None:
    model = Around(lambda m, x: m.shift + x * m.factor, factor=2.0).eval()
    model.shift = torch.tensor(0.25)
    compiled, x = js.jit(model), images(5)
    assert_same(compiled(x), expected(model, x))
    model.factor = 3.0
    assert_same(compiled(x), expected(model, x))
    model.shift.fill_(4.0)
    assert_same(compiled(x), expected(model, x))


def test_training_flags_are_followed() -> None:
    model = Around(lambda m, x: x * 2 if m.training else x * 3)
    compiled, x = js.jit(model), images(4)
    for training in (True, False, True):
        model.train(training)
        assert_same(compiled(x), expected(model, x))
        assert compiled.target.twin.training is training


def normalised(m, x):
    own = F.batch_norm(x, m.mean, m.var, training=m.training, momentum=0.5)
    return m.norm(own)


def test_batch_norm_in_training_mode_changes_torchs_statistics() -> None:
    norm = torch.nn.BatchNorm1d(4, momentum=None)
    model = Around(normalised, norm=norm)
    model.register_buffer("mean", torch.zeros(4))
    model.register_buffer("var", torch.ones(4))
    twin = copy.deepcopy(model)
    compiled, copied = js.jit(model, backend="eager"), from_torch(model)
    before = copied.state_dict()
    for step in range(3):
        x = images(5, 4) + step
        assert_same(compiled(x), twin(x).detach())
        for name, value in twin.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value)
    for name, value in copied.state_dict().items():
        np.testing.assert_array_equal(value, before[name])
    js.vjp(model, x)
    assert int(norm.num_batches_tracked) == 4
    model.eval(), twin.load_state_dict(model.state_dict()), twin.eval()
    assert_same(compiled(x), twin(x).detach())
    norm.running_mean.fill_(2.0), twin.norm.running_mean.fill_(2.0)
    assert_same(compiled(x), twin(x).detach())


def test_a_copy_in_training_mode_has_statistics_of_its_own() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4))
    before = copy.deepcopy(model.state_dict())
    copied, x = from_torch(model), images(5, 4)
    copied(x.numpy())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    model(x)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(copied.state_dict()[name], value.numpy(), 1e-5)


@pytest.mark.parametrize("kind", ["Dropout2d", "Dropout3d", "AlphaDropout"])
def test_dropout_of_channels_is_refused_in_training(kind) -> None:
    model, x = torch.nn.Sequential(getattr(torch.nn, kind)(0.5)), images(2, 4, 3, 3)
    with pytest.raises(js.UnsupportedError, match="in training mode"):
        from_torch(model)(x)
    assert_same(from_torch(model.eval())(x), model(x))


def test_dropout_in_place_in_training_is_a_visible_change() -> None:
    model = Around(lambda m, x: x + m.drop(x), drop=torch.nn.Dropout(0.5, True))
    with pytest.raises(js.UnsupportedError, match="in place"):
        from_torch(model)
    from_torch(model.eval())


def test_a_change_that_is_not_covered_is_refused_until_it_is_undone() -> None:
    model, x = small_model(), images(2, 6)
    compiled = js.jit(model)
    before = compiled(x)
    kept = model[1]
    model[1] = torch.nn.LayerNorm(4)
    for _ in range(2):
        with pytest.raises(js.UnsupportedError, match="LayerNorm"):
            compiled(x)
    model[1] = kept
    assert torch.equal(compiled(x), before)


def test_inside_of_another_function_it_is_refused() -> None:
    inner = js.jit(small_model())
    with pytest.raises(js.UnsupportedError, match="inside of another"):
        js.jit(lambda x: inner(x) * 2)(images(2, 6).numpy())
