# SPDX-License-Identifier: Apache-2.0
"""SpikingNetwork and if_forward as a user meets them: inputs of every kind, and every documented error."""

from __future__ import annotations

import array
import copy
import gc
import itertools
import math
import pickle
import weakref

import numpy as np
import pytest
import torch

import snnfast as sf
from snnfast import _core, backends
from snnfast.spec import NetworkSpec, NeuronSpec


@pytest.fixture(params=["cpu", "reference"])
def net(request: pytest.FixtureRequest) -> sf.SpikingNetwork:
    generator = torch.Generator().manual_seed(0)
    sizes = (3, 5, 2)
    weights = [torch.randn(b, a, generator=generator) for a, b in itertools.pairwise(sizes)]
    return sf.SpikingNetwork(weights, [torch.randn(5, generator=generator), None], backend=request.param)


X = torch.tensor([[0.5, -1.0, 2.0], [0.25, 0.0, -0.5]])

# torch warns of its own nested tensors, once.
of_nested = pytest.mark.filterwarnings("ignore:.*API of nested tensors:UserWarning")


def test_same_kind_and_shape_out_as_in(net: sf.SpikingNetwork) -> None:
    out = net(X)
    assert out.shape == (2, 2)
    assert out.dtype == torch.float32
    assert torch.equal(net(X[0]), out[0])
    array = net(X.numpy())
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float32
    assert np.array_equal(array, out.numpy())
    assert np.array_equal(net(X[1].numpy()), out[1].numpy())
    assert net(X[:0]).shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int32, torch.uint8])
def test_other_real_dtypes_are_converted(net: sf.SpikingNetwork, dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 2, 0], [3, 0, 1]]).to(dtype)
    assert torch.equal(net(x), net(x.float()))
    assert np.array_equal(net(x.numpy()), net(x.float()).numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.bool, torch.complex64])
def test_other_dtypes_are_refused(net: sf.SpikingNetwork, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="observations must be float32, float64 or integers, got"):
        net(X.to(dtype))
    if dtype != torch.bfloat16:
        with pytest.raises(TypeError, match="observations must be float32, float64 or integers, got"):
            net(X.to(dtype).numpy())


@pytest.mark.parametrize("bad", [[[0.1, 0.2, 0.3]], None, 1.0, "x"])
def test_other_kinds_are_refused(net: sf.SpikingNetwork, bad: object) -> None:
    with pytest.raises(TypeError, match="observations must be a torch tensor or a numpy array, got"):
        net(bad)  # type: ignore[call-overload]


@pytest.mark.parametrize("shape", [(2,), (4,), (1, 4), (3, 2), (1, 1, 3), ()])
def test_wrong_shapes_are_refused(net: sf.SpikingNetwork, shape: tuple[int, ...]) -> None:
    for call in (net, net.simulate):
        with pytest.raises(ValueError, match=r"observations must have shape \(B, 3\) or \(3,\), got"):
            call(torch.zeros(shape))  # type: ignore[operator]


def test_not_contiguous_inputs_are_read_rightly_and_left_alone(net: sf.SpikingNetwork) -> None:
    wide = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    views = [wide[:, ::2], wide[:, :3], wide[::2, :3], wide[:, :3].t().contiguous().t(), X[:1].expand(7, 3)]
    for view in views:
        before = view.clone()
        assert torch.equal(net(view), net(view.clone(memory_format=torch.contiguous_format)))
        assert torch.equal(view, before)
        assert np.array_equal(net(view.numpy()), net(view).numpy())
    backwards = X.numpy()[:, ::-1]
    assert np.array_equal(net(backwards), net(backwards.copy()))
    big_endian = X.numpy().astype(">f4")
    assert np.array_equal(net(big_endian), net(X.numpy()))
    read_only = X.numpy().copy()
    read_only.flags.writeable = False
    assert np.array_equal(net(read_only), net(X.numpy()))
    negated_view = torch.complex(X, -X).conj().imag  # a view that torch has marked as "read me negated"
    assert negated_view.is_neg()
    assert torch.equal(net(negated_view), net(X))


@of_nested
def test_devices_layouts_and_gradients_that_are_refused(net: sf.SpikingNetwork) -> None:
    with pytest.raises(ValueError, match="observations must be on the CPU, where this network runs, got device meta"):
        net(X.to("meta"))
    with pytest.raises(TypeError, match="observations must be a dense tensor"):
        net(X.to_sparse())
    nested = torch.nested.nested_tensor([X[0], X[1]])
    for call in (net, net.act, net.simulate):
        with pytest.raises(TypeError, match="observations must be a dense tensor, got a nested one"):
            call(nested)
    with pytest.raises(NotImplementedError, match=r"observations must not require a gradient"):
        net(X.clone().requires_grad_())
    with torch.no_grad():
        assert torch.equal(net(X.clone().requires_grad_()), net(X))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_with_their_place(net: sf.SpikingNetwork, value: float) -> None:
    x = X.clone()
    x[1, 2] = value
    with pytest.raises(ValueError, match=rf"observations must be finite, got {value} at sample 1, feature 2"):
        net(x)
    with pytest.raises(ValueError, match="observations must be finite"):
        net(torch.tensor([[1e300, 0.0, 0.0]], dtype=torch.float64))
    with pytest.raises(ValueError, match="observations must be finite, got inf"):
        net(np.full((1, 3), 1e300))


def test_tensors_that_only_stand_for_others_are_refused() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    net = sf.SpikingNetwork([torch.ones(2, 3)])
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(X)
    with pytest.raises(TypeError, match="observations must be a plain torch tensor, got FakeTensor"):
        net(fake)
    with pytest.raises(ValueError, match="observations must be a plain tensor with data of its own"):
        net(torch._efficientzerotensor(2, 3))
    assert torch.equal(torch.func.functionalize(lambda x: net(x))(X), net(X))  # by the operator
    with pytest.raises(NotImplementedError, match=r"got one that a transform of torch\.func has made"):
        torch.func.functionalize(lambda x: net.simulate(x).output)(X)
    parameter = torch.nn.Parameter(X.clone(), requires_grad=False)
    assert torch.equal(net(parameter), net(X))


def test_a_decay_that_is_zero_in_float32_is_zero_everywhere() -> None:
    # The current overflows; 0 * inf would be no number, so it matters whether the term is left out.
    for order in ("immediate", "delayed"):
        neuron = sf.NeuronSpec(alpha=1e-46, order=order)
        nets = [
            sf.SpikingNetwork([[[3.0]], [[1.0]]], neuron=neuron, timesteps=8, backend=b) for b in ("cpu", "reference")
        ]
        x = torch.tensor([[3e38]])
        assert torch.equal(nets[0](x), nets[1](x))
        assert float(nets[0](x)) > 0


def test_a_subclass_may_decide_in_its_own_way() -> None:
    class Contrary(sf.SpikingNetwork):
        def act(self, observation: object, *, seed: int = 0) -> int:
            return 7

    assert Contrary([torch.ones(2, 3)]).act(X[0]) == 7


def of_another_process(array: np.ndarray) -> np.ndarray:
    """The same, with a dtype that is an object of its own."""
    sent: np.ndarray = pickle.loads(pickle.dumps(array))
    assert sent.dtype is not array.dtype
    return sent


def test_arrays_give_the_bits_of_tensors(net: sf.SpikingNetwork) -> None:
    batch = torch.randn(161, 3, generator=torch.Generator().manual_seed(1))
    want, rows = net(batch).numpy(), batch.numpy()
    wide = np.zeros((161, 6), np.float32)
    wide[:, ::2] = rows
    shifted = np.frombuffer(b"\0" + rows.tobytes(), np.uint8)[1:].view(np.float32).reshape(161, 3)  # not aligned
    locked = rows.copy()
    locked.setflags(write=False)
    kinds = (rows, rows.astype(float), np.asfortranarray(rows), wide[:, ::2], shifted, locked, rows.astype(">f4"))
    for given in (*kinds, of_another_process(rows), of_another_process(rows.astype(">f4"))):
        for n in (0, 1, 2, 15, 16, 17, 161):
            got = net(given[:n])
            assert type(got) is np.ndarray
            np.testing.assert_array_equal(got, want[:n], strict=True)
        np.testing.assert_array_equal(net(given[3]), want[3], strict=True)
    got = net(rows)
    got += 1.0  # it is the caller's own
    np.testing.assert_array_equal(net(rows), want, strict=True)
    np.testing.assert_array_equal(net(rows, original_units=True), net(batch, original_units=True).numpy(), strict=True)


def test_a_plain_observation_takes_the_quick_way_to_a_decision() -> None:
    net = sf.SpikingNetwork([torch.randn(16, 3), torch.randn(2, 16)], [None, None], backend="cpu")
    assert isinstance(net._executable, backends.CpuExecutable)
    act = _core.fast_act(net._executable.plan, lambda *_, **__: "the general way", torch.Tensor)
    row, wide = X[0], torch.zeros(6)
    wide[::2] = row
    want = int(net(row).argmax())
    plain = row.numpy()
    for given in (plain, plain.astype(float), of_another_process(plain), row, X[:, :3][0], X.reshape(-1)[:3]):
        assert act(given) == want
    learned = row.clone().requires_grad_()
    for other in (wide[::2], row.double(), learned, torch.nn.Parameter(row), row[:2], X, plain[::-1], plain.tolist()):
        assert act(other) == "the general way"
    with torch.no_grad():
        negative = torch._neg_view(row)
    assert act(negative) == "the general way"
    assert act(torch.tensor([0.0, math.nan, 0.0])) == "the general way"
    assert act(row, seed=1) == "the general way"
    assert net.act(wide[::2]) == want
    with pytest.raises(NotImplementedError, match="must not require a gradient"):
        net.act(learned)
    for bad in (row[:2], X, torch.zeros(())):
        with pytest.raises(ValueError, match=r"observation(s)? must have shape"):
            net.act(bad)


def test_a_single_tensor_takes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    net = sf.SpikingNetwork([torch.randn(16, 3), torch.randn(2, 16)], [None, None], backend="cpu")
    want = net(X)
    monkeypatch.setattr(net, "_run", None)
    got = net(X[1])
    assert got.shape == (2,)
    assert torch.equal(got, want[1])
    got += 1.0
    assert torch.equal(net(X), want)


def test_float64_is_rounded_as_torch_rounds_it(net: sf.SpikingNetwork) -> None:
    random = np.random.default_rng(0)
    fine = random.standard_normal((400, 3)) * 10.0 ** random.integers(-42, 5, (400, 3))  # denormals in float32 as well
    want = net(torch.from_numpy(fine).float()).numpy()
    np.testing.assert_array_equal(net(fine), want, strict=True)
    assert [net.act(row) for row in fine] == want.argmax(1).tolist()
    for huge in (np.full((2, 3), 1e39), np.array([[0.0, 1.0, 2.0], [0.0, -1e300, 0.0]])):
        with pytest.raises(ValueError, match="observations must be finite"):
            net(huge)
        with pytest.raises(ValueError, match="observations must be finite"):
            net.act(huge[1])


def test_a_plain_array_takes_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    net = sf.SpikingNetwork([torch.randn(16, 3), torch.randn(2, 16)], [None, None], backend="cpu")
    rows = X.numpy()
    want = [net(rows), net(rows[0]), net(rows), net(rows)]

    def general(*_: object) -> None:
        raise AssertionError("the general way")

    monkeypatch.setattr(net, "_run", general)
    for given, expected in zip((rows, rows[0], of_another_process(rows), rows.astype(float)), want, strict=True):
        np.testing.assert_array_equal(net(given), expected, strict=True)
    for other in (rows.astype(np.int64), rows.copy(order="F"), rows.astype(">f4"), rows.view(np.recarray)):
        with pytest.raises(AssertionError, match="the general way"):
            net(other)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 5), np.float32), r"observations must have shape \(B, 3\) or \(3,\), got \(3, 5\)"),
        (np.zeros((1, 2, 3), np.float32), r"got \(1, 2, 3\)"),
        (np.zeros((), np.float32), r"got \(\)"),
        (np.full((2, 3), np.nan, np.float32), "observations must be finite, got nan at sample 0, feature 0"),
        (np.array([[0, 0, 1], [0, np.inf, 2]], np.float32), "observations must be finite, got inf at sample 1"),
    ],
)
def test_arrays_of_other_kinds_are_refused(net: sf.SpikingNetwork, bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        net(bad)


def test_huge_but_finite_observations_stay_exact() -> None:
    # The current overflows to infinity; such a neuron fires for ever, in every implementation.
    weights = [torch.tensor([[3.0], [-3.0]]), torch.tensor([[1.0, 2.0]])]
    for order in ("immediate", "delayed"):
        outs = [
            sf.SpikingNetwork(weights, neuron=sf.NeuronSpec(order=order), timesteps=9, backend=b)(
                torch.tensor([[3e38]])
            )
            for b in ("cpu", "reference")
        ]
        assert torch.equal(*outs)
        assert float(outs[0]) == (9.0 if order == "immediate" else 6.0)


def test_act_is_the_first_largest_output(net: sf.SpikingNetwork) -> None:
    for row in X:
        assert net.act(row.numpy()) == net.act(row) == int(net(row).argmax())
    tie = sf.SpikingNetwork([torch.zeros(3, 1)], timesteps=1)
    assert tie.act(np.zeros(1)) == 0
    with pytest.raises(ValueError, match=r"observation must have shape \(3,\)"):
        net.act(X)


def test_act_takes_what_the_network_takes(net: sf.SpikingNetwork) -> None:
    want = [int(net(row).argmax()) for row in X]
    wide = np.zeros((2, 6), np.float32)
    wide[:, ::2] = X.numpy()
    for row, action in enumerate(want):
        plain = X.numpy()[row].copy()
        sent = pickle.loads(pickle.dumps(plain))  # its dtype is an object of its own
        shifted = np.frombuffer(b"\0" + plain.tobytes(), np.uint8)[1:].view(np.float32)  # not aligned, read-only
        assert sent.dtype is not plain.dtype
        assert not shifted.flags.aligned
        for kind in (
            X[row],
            X[row].double(),
            plain,
            plain.astype(float),
            wide[row, ::2],
            sent,
            shifted,
            plain[::-1][::-1],
        ):
            assert net.act(kind) == action
        assert net.act(plain[::-1]) == net.act(plain[::-1].copy())
        assert net.act(observation=X[row], seed=3) == action
    for bad in (X.numpy()[0, :2], np.zeros((1, 3), np.float32)):
        with pytest.raises(ValueError, match="observation"):
            net.act(bad)
    with pytest.raises(ValueError, match="observations must be finite, got nan at sample 0, feature 1"):
        net.act(np.array([0, math.nan, 0], np.float32))
    for kind in (b"abcdefghijkl", array.array("f", [0.0, 0.0, 0.0]), [0.0, 0.0, 0.0], None, np.zeros(3, np.float16)):
        with pytest.raises(TypeError, match="observations must be"):
            net.act(kind)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        net.act()  # type: ignore[call-arg]


class Sevens(sf.SpikingNetwork):
    """Made of other arguments, decides otherwise, and has something of its own."""

    def __init__(self, net: sf.SpikingNetwork, note: str) -> None:
        super().__init__(net.weights, net.biases, net.neuron, net.timesteps, backend=net.backend)
        self.note = note

    def act(self, observation: object, *, seed: int = 0) -> int:
        return 7


def test_a_subclass_stays_what_it_is_when_copied_or_sent(net: sf.SpikingNetwork) -> None:
    one = Sevens(net, "mine")
    for twin in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert type(twin) is Sevens
        assert twin.note == "mine"
        assert twin.act(X[0]) == 7
        assert torch.equal(twin(X), net(X))


class Tagged:
    __slots__ = ("tag",)


class Slotted(sf.SpikingNetwork, Tagged):
    """A subclass that keeps what it has in slots, of its own and of another base."""

    __slots__ = ("__hidden", "empty", "note")

    def hide(self, value: str) -> None:
        self.__hidden = value

    def shown(self) -> str:
        return self.__hidden


def test_a_subclass_keeps_its_slots_when_copied_or_sent(net: sf.SpikingNetwork) -> None:
    one = Slotted(net.weights, net.biases, net.neuron, net.timesteps, backend=net.backend)
    one.note, one.tag = "mine", 7
    one.hide("this")
    for twin in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert type(twin) is Slotted
        assert (twin.note, twin.tag, twin.shown()) == ("mine", 7, "this")
        assert not hasattr(twin, "empty")
        assert torch.equal(twin(X), net(X))


class Restored(Sevens):
    """One that knows how it is restored."""

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)


def test_a_subclass_may_restore_itself_from_a_dictionary(net: sf.SpikingNetwork) -> None:
    one = Restored(net, "mine")
    for twin in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert (type(twin), twin.note) == (Restored, "mine")


def test_networks_can_be_copied_sent_and_forgotten(net: sf.SpikingNetwork) -> None:
    for twin in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(X), net(X))
        assert twin.act(X[0]) == net.act(X[0])
        assert (twin.backend, twin.exact, twin.output_scale) == (net.backend, net.exact, net.output_scale)
    one = sf.SpikingNetwork(net.weights, net.biases, backend=net.backend)
    gone = weakref.ref(one)
    act = one.act
    del one
    gc.collect()
    assert gone() is None
    assert act(X.numpy()[0]) == net.act(X[0])


def test_errors_name_what_the_user_has_called(net: sf.SpikingNetwork) -> None:
    with pytest.raises(TypeError, match=r"act\(\) missing 1 required positional argument: 'observation'"):
        net.act()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"act\(\) takes 1 positional argument but 2 were given"):
        net.act(X[0], 3)  # type: ignore[misc]
    with pytest.raises(ValueError, match=r"record must be one of 'spikes', 'potentials', got \['spikes'\]"):
        net.simulate(X, record=[["spikes"]])  # type: ignore[list-item]
    for call in (net, net.act, net.simulate):
        with pytest.raises(TypeError, match="observations must be a plain array, got one with a mask"):
            call(np.ma.masked_less(X[0].numpy(), 1))


def test_simulate_returns_counts_and_records(net: sf.SpikingNetwork) -> None:
    plain = net.simulate(X)
    assert plain.spikes is None
    assert plain.potentials is None
    full = net.simulate(X, record=("spikes", "potentials"))
    assert full.spikes is not None
    assert full.potentials is not None
    assert [tuple(s.shape) for s in full.spikes] == [(100, 2, 5)]
    assert [tuple(p.shape) for p in full.potentials] == [(100, 2, 5), (100, 2, 2)]
    assert torch.equal(full.spikes[0].sum(0), full.spike_counts[0])
    assert torch.equal(plain.spike_counts[0], full.spike_counts[0])
    assert torch.equal(full.potentials[-1][-1], full.output)
    assert torch.equal(full.output, net(X))
    assert torch.equal(net.simulate(X[0]).output, full.output[:1])
    assert net.simulate(X, record="spikes").spikes is not None
    with pytest.raises(ValueError, match="record must be one of 'spikes', 'potentials', got 'currents'"):
        net.simulate(X, record=("currents",))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="record must be a collection of names, got NoneType"):
        net.simulate(X, record=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_out_of_range_are_refused(net: sf.SpikingNetwork, seed: int) -> None:
    with pytest.raises(ValueError, match="seed must be from 0 to"):
        net(X, seed=seed)


@pytest.mark.parametrize("seed", [1.5, "1", True, None, "", 0.0, False])
def test_seeds_of_other_kinds_are_refused(net: sf.SpikingNetwork, seed: object) -> None:
    with pytest.raises(TypeError, match="seed must be an integer"):
        net(X, seed=seed)  # type: ignore[call-overload]


def test_poisson_depends_on_the_seed_alone() -> None:
    net = sf.SpikingNetwork([torch.eye(3)], encoding="poisson", timesteps=50)
    x = torch.full((4, 3), 0.5)
    assert torch.equal(net(x, seed=7), net(x, seed=7))
    assert not torch.equal(net(x, seed=7), net(x, seed=8))
    assert torch.equal(net(x), net(x, seed=0))


def test_original_units(net: sf.SpikingNetwork) -> None:
    scaled = sf.SpikingNetwork(net.weights, net.biases, output_scale=0.25)
    assert torch.equal(scaled(X, original_units=True), scaled(X) * 0.25)
    assert np.array_equal(scaled(X[0].numpy(), original_units=True), scaled(X[0].numpy()) * np.float32(0.25))


def test_weights_come_back_and_are_private() -> None:
    weights, bias = torch.randn(2, 3), torch.randn(2)
    net = sf.SpikingNetwork([weights], [bias])
    before = net(X)
    kept = weights.clone()
    weights.zero_()
    net.weights[0].zero_()
    assert torch.equal(net(X), before)
    assert torch.equal(net.weights[0], kept)
    assert torch.equal(net.biases[0], bias)  # type: ignore[arg-type]
    assert net.sizes == (3, 2)
    assert (net.n_in, net.n_out, net.timesteps) == (3, 2, 100)
    assert "3-2" in repr(net)


W = np.ones((2, 3), dtype=np.float32)


class OwnCode(sf.RateCode):
    pass


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(weights=[]), ValueError, "weights must have at least one layer, got none"),
        (dict(weights=W), TypeError, "weights must be a sequence of arrays, one per layer, got ndarray"),
        (dict(weights=None), TypeError, "weights must be a sequence"),
        (dict(weights=[W[0]]), ValueError, r"weights\[0\] must have 2 dimensions, got shape \(3,\)"),
        (dict(weights=[W[:0]]), ValueError, r"weights\[0\] must not be empty"),
        (dict(weights=[W, W]), ValueError, r"weights\[1\] must have 2 columns, the outputs of layer 0, got shape"),
        (dict(weights=[W * np.nan]), ValueError, r"weights\[0\] must be finite .*nan.* at index \(0, 0\)"),
        (dict(weights=[W.astype(np.float64) * 1e300]), ValueError, r"weights\[0\] must be finite in float32"),
        (dict(weights=[W.astype(complex)]), TypeError, r"weights\[0\] must hold real numbers, got complex128"),
        (dict(weights=[[["a"]]]), TypeError, r"weights\[0\] must hold real numbers"),
        (dict(weights=[torch.ones(2, 3).to_sparse()]), TypeError, r"weights\[0\] must be a dense tensor"),
        (dict(weights=[torch.ones(2, 3, device="meta")]), TypeError, r"weights\[0\] must be a dense tensor with data"),
        (dict(biases=[]), ValueError, r"biases must have one entry per layer \(1\), got 0"),
        (dict(biases=W[0]), TypeError, "biases must be a sequence, one entry per layer, or None, got ndarray"),
        (dict(biases=[W[0]]), ValueError, r"biases\[0\] must have shape \(2,\), got \(3,\)"),
        (dict(biases=[np.array([1, np.inf])]), ValueError, r"biases\[0\] must be finite"),
        (dict(neuron={}), TypeError, "neuron must be a NeuronSpec, got dict"),
        (dict(timesteps=0), ValueError, "timesteps must be from 1 to 16777216, got 0"),
        (dict(timesteps=2**24 + 1), ValueError, "timesteps must be from 1 to 16777216"),
        (dict(timesteps=1.5), TypeError, "timesteps must be an integer, got 1.5"),
        (dict(timesteps=True), TypeError, "timesteps must be an integer, got True"),
        (dict(encoding="rate"), ValueError, "encoding must be one of 'constant', 'equidistant', 'poisson', got 'rate'"),
        (dict(decoding="max"), ValueError, "'parabolic_potential', 'spikes', 'first_spike', got 'max'"),
        (dict(exact=1), TypeError, "exact must be True or False, got 1"),
        (dict(split_inputs="yes"), TypeError, "split_inputs must be True or False, got 'yes'"),
        (dict(weights=[W[:, :1]], bias_input=True), ValueError, "must have at least 2 columns when bias_input is set"),
        (dict(output_scale=math.inf), ValueError, "output_scale must be finite"),
        (dict(weights=[torch.ones(2, 3).to(torch.float8_e4m3fn)]), TypeError, r"weights\[0\] must hold real"),
        (dict(weights=[torch.ones(2, 3, dtype=torch.complex64).conj()]), TypeError, r"weights\[0\] must hold real"),
        (dict(weights=[[[1, 2, 3], [4]]]), ValueError, r"weights\[0\] must be an array, got list that is none"),
        (dict(weights=[np.ma.masked_less(W, 2)]), TypeError, r"weights\[0\] must be a plain array, got one with"),
        (dict(timesteps=10**5000), ValueError, "timesteps must be from 1 to 16777216, got a number of 16610 bits"),
        (dict(encoding=np.array(["constant"])), ValueError, "encoding must be one of 'constant'"),
        (dict(encoding=np.array(["constant", "poisson"])), ValueError, "encoding must be one of 'constant'"),
        (dict(code=OwnCode(copies=2)), TypeError, "code must be a RateCode, .* got OwnCode"),
        (dict(conversion=5), TypeError, "conversion must be a mapping, got int"),
        (dict(conversion=[("a", 1)]), TypeError, "conversion must be a mapping, got list"),
    ],
)  # fmt: skip
def test_bad_networks_are_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sf.SpikingNetwork(**{"weights": [W], **arguments})  # type: ignore[arg-type]


@of_nested
def test_weights_that_only_stand_for_numbers() -> None:
    with pytest.raises(TypeError, match=r"weights\[0\] must be a dense tensor with data, got one on cpu \(nested\)"):
        sf.SpikingNetwork([torch.nested.nested_tensor([torch.ones(3)])])
    negated = torch.complex(X, X).conj().imag
    assert torch.equal(sf.SpikingNetwork([negated]).weights[0], -X)


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ([[1.0], [1.0, 2.0]], ValueError, "bounds must be an array, got list that is none"),
        (["1", "2"], TypeError, "bounds must hold real numbers, got <U1"),
        ([None], TypeError, "bounds must hold real numbers, got object"),
        ([1j], TypeError, "bounds must hold real numbers, got complex128"),
        (5, ValueError, "bounds must be one number per step"),
        ([-1.0], ValueError, "bounds must be one number per step, none negative"),
    ],
)
def test_bad_bounds_are_refused(bounds: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        sf.EarlyExit("calibrated", bounds)  # type: ignore[arg-type]


def test_bounds_may_be_a_tensor_and_infinite() -> None:
    exits = sf.EarlyExit("calibrated", torch.tensor([math.inf, 1.0], requires_grad=True))  # type: ignore[arg-type]
    assert exits.bounds is not None
    assert exits.bounds.tolist() == [math.inf, 1.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(threshold=10**400), ValueError, "threshold must be finite and within the range of float32, got inf"),
        (dict(alpha=-0.1), ValueError, "alpha must be at least 0"),
        (dict(alpha=math.nan), ValueError, "alpha must be finite"),
        (dict(beta="1"), TypeError, "beta must be a number, got '1'"),
        (dict(beta=True), TypeError, "beta must be a number"),
        (dict(threshold=0), ValueError, "threshold must be positive"),
        (dict(threshold=1e-60), ValueError, "threshold must be positive"),
        (dict(threshold=math.inf), ValueError, "threshold must be finite"),
        (dict(threshold=1e39), ValueError, "threshold must be finite and within the range of float32"),
        (dict(initial_potential=math.inf), ValueError, "initial_potential must be finite"),
        (dict(initial_potential=1e30, threshold=1e30), ValueError, "initial_potential [*] threshold must be finite"),
        (dict(reset="soft"), ValueError, "reset must be one of 'subtraction', 'zero', got 'soft'"),
        (dict(order="now"), ValueError, "order must be one of 'immediate', 'delayed', got 'now'"),
    ],
)
def test_bad_neurons_are_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        NeuronSpec(**arguments)  # type: ignore[arg-type]


def test_initial_potential_is_for_hidden_layers_only() -> None:
    spec = NeuronSpec(initial_potential=0.5, threshold=2.0)
    net = sf.SpikingNetwork([torch.zeros(1, 1), torch.zeros(1, 1)], neuron=spec, timesteps=3)
    potentials = net.simulate(torch.zeros(1, 1), record=("potentials",)).potentials
    assert potentials is not None
    assert potentials[0].flatten().tolist() == [1.0, 1.0, 1.0]
    assert potentials[1].flatten().tolist() == [0.0, 0.0, 0.0]


@of_nested
def test_layer_over_time_errors() -> None:
    current, v0 = torch.zeros(4, 2, 3), torch.zeros(2, 3)
    with pytest.raises(TypeError, match="current must be a torch tensor, got ndarray"):
        sf.if_forward(current.numpy(), v0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"v0 must be a dense float32 tensor, got torch\.float64"):
        sf.if_forward(current, v0.double())
    with pytest.raises(TypeError, match=r"current must be a dense float32 tensor, got torch\.float32, nested"):
        sf.if_forward(torch.nested.nested_tensor([v0, v0]), v0)
    with pytest.raises(ValueError, match=r"current must have shape \(T, B, N\), got \(2, 3\)"):
        sf.if_forward(v0, v0)
    with pytest.raises(ValueError, match=r"v0 must have shape \(2, 3\), as current asks, got \(3, 2\)"):
        sf.if_forward(current, v0.t())
    with pytest.raises(ValueError, match="current must be on the CPU, got device meta"):
        sf.if_forward(current.to("meta"), v0)
    with pytest.raises(ValueError, match="threshold must be positive"):
        sf.if_forward(current, v0, 0.0)
    with pytest.raises(ValueError, match="order must be one of"):
        sf.if_forward(current, v0, 1.0, "later")  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="current must not require a gradient"):
        sf.if_forward(current.clone().requires_grad_(), v0)


def test_layer_over_time_leaves_its_inputs_alone_and_reads_views() -> None:
    current = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(2)).transpose(1, 2)
    v0 = torch.rand(5, 4, generator=torch.Generator().manual_seed(3)).t()
    kept = current.clone(), v0.clone()
    spikes, v = sf.if_forward(current, v0, 0.5)
    assert torch.equal(current, kept[0])
    assert torch.equal(v0, kept[1])
    again = sf.if_forward(current.contiguous(), v0.contiguous(), 0.5, backend="reference")
    assert torch.equal(spikes, again[0])
    assert torch.equal(v, again[1])


def test_layer_over_time_reads_negative_views() -> None:
    # The imaginary part of a conjugate is one; of one number it is contiguous, and its memory holds the other sign.
    current, v0 = torch.full((1, 1, 1), 1.25), torch.full((1, 1), -0.5)
    views = [torch.complex(x, -x).conj().imag for x in (current, v0)]
    assert all(view.is_neg() and view.is_contiguous() for view in views)
    want = sf.if_forward(current, v0, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(sf.if_forward(*views, 0.5), want, strict=True))


def test_saved_networks_come_back_with_every_option(tmp_path: object) -> None:
    path = f"{tmp_path}/net.safetensors"
    net = sf.SpikingNetwork(
        [torch.randn(3, 5), torch.randn(2, 3)],
        [None, torch.randn(2)],
        sf.NeuronSpec(0.5, 0.9, 1.5, "zero", "delayed", 0.25),
        timesteps=17,
        encoding="equidistant",
        decoding="first_spike",
        split_inputs=True,
        bias_input=True,
        output_scale=0.5,
        conversion={"preset": "hand", "percentile": 99.0},
    )
    net.save(path)
    back = sf.SpikingNetwork.load(path)
    x = torch.rand(20, 4)
    assert torch.equal(net(x), back(x))
    assert back.neuron == net.neuron
    assert back.output_scale == 0.5
    assert back.conversion == net.conversion
    for name in ("timesteps", "encoding", "decoding", "split_inputs", "bias_input", "sizes"):
        assert getattr(back.spec, name) == getattr(net.spec, name)
    assert sf.SpikingNetwork.load(path, backend="reference").backend == "reference"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: m.pop("neuron"), "'neuron' is missing"),
        (lambda t, m: t.pop("weights.1"), r"'weights\.1' is missing"),
        (lambda t, m: m.update(sizes=[4, 3, 2]), "do not match the weights"),
        (lambda t, m: m.update(sizes=3), "does not describe a spiking network"),
        (lambda t, m: m["neuron"].update(threshold=-1.0), "threshold must be positive"),
        (lambda t, m: m["neuron"].update(tau=1.0), "unexpected keyword argument 'tau'"),
        (lambda t, m: m.update(timesteps="many"), "timesteps must be an integer"),
        (lambda t, m: t.update({"weights.9": np.ones((1, 1), np.float32)}), "unexpected tensors"),
    ],
)
def test_checkpoints_that_describe_no_network_are_refused(tmp_path: object, change: object, message: str) -> None:
    from snnfast import checkpoint

    path = f"{tmp_path}/net.safetensors"
    sf.SpikingNetwork([torch.ones(3, 5), torch.ones(2, 3)]).save(path)
    tensors, metadata = checkpoint.load(path, "spiking-network")
    change(tensors, metadata)  # type: ignore[operator]
    checkpoint.save(path, "spiking-network", tensors, metadata)
    with pytest.raises(sf.CheckpointError, match=f"(?s){path}.*{message}"):
        sf.SpikingNetwork.load(path)


def test_spec_is_usable_by_itself() -> None:
    spec = NetworkSpec((W,), (None,), NeuronSpec(), 3, split_inputs=True)
    assert spec.encoded_weights.shape == (2, 6)
    assert (spec.n_in, spec.n_out, spec.sizes, spec.spiking_layers) == (3, 2, (3, 2), 0)


def test_the_default_dtype_and_device_of_the_program_change_nothing() -> None:
    network = sf.SpikingNetwork([torch.eye(4), torch.eye(4)], timesteps=7)
    observations = torch.tensor([[1.0, 2.0, 3.0, 0.5], [0.25, 0.0, 0.75, 1.0]])
    want, counts = network(observations), network.simulate(observations).spike_counts
    previous = torch.get_default_dtype()
    for dtype in (torch.float64, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            for got in (
                network(observations),
                network(observations, seed=1),
                network(observations.double()),
                torch.from_numpy(network(observations.numpy())),
                network.simulate(observations, record=("spikes", "potentials")).output,
                sf.SpikingNetwork(network.weights, timesteps=7, backend="reference")(observations),
            ):
                assert got.dtype == torch.float32
                assert torch.equal(got, want)
            assert network.act(observations[0].double()) == 0
            assert torch.equal(network.simulate(observations).spike_counts[0], counts[0])
        finally:
            torch.set_default_dtype(previous)
    with torch.device("meta"):
        assert torch.equal(network(observations.double()), want)


def test_a_network_made_under_flush_to_zero_is_the_same_network() -> None:
    weights = [torch.eye(4) * 2, torch.full((3, 4), 1e-40)]
    observations = torch.ones(9, 4)
    want = sf.SpikingNetwork(weights, timesteps=5)(observations)
    assert want.abs().max() > 0
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals to zero")
    try:
        network = sf.SpikingNetwork(weights, timesteps=5)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(network(observations), want)
