# SPDX-License-Identifier: Apache-2.0
"""Reading networks: what is accepted gives the network's own numbers, what is not is refused by name."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnfast.conversion.reading import read_network


def relu_forward(layers, x):
    for i, (weight, bias) in enumerate(layers):
        x = F.linear(F.relu(x) if i else x, torch.from_numpy(weight), None if bias is None else torch.from_numpy(bias))
    return x


class Functional(nn.Module):
    """ReLU as a function, in one of its spellings."""

    def __init__(self, relu=F.relu):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 5, bias=False)
        self.head = nn.Linear(5, 2)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.second(self.relu(self.first(x)))))


class Careful(nn.Module):
    """The small precautions that people write into a forward."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(6, 2)
        self.unused = nn.Sequential(nn.Linear(6, 1), nn.Tanh())
        self.eval()

    def forward(self, x):
        x = torch.as_tensor(x, dtype=torch.float32)
        if x.dim() == 1:
            x = x.unsqueeze(0)
        x = x.float().reshape(x.shape[0], -1).to(self.head.weight.device)
        return self.head(self.body(x.view(len(x), -1)))


class TwoSizes(nn.Module):
    """The first Linear module in the list of modules is not the first one that is used."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(7, 2)
        self.body = nn.Linear(3, 7)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))


class Parameters(nn.Module):
    """No Linear module at all, only the function."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, 3))
        self.v = nn.Parameter(torch.randn(2, 5))

    def forward(self, x):
        return F.linear(F.relu(F.linear(x, self.w)), self.v)


def shared():
    square = nn.Linear(4, 4)
    return nn.Sequential(square, nn.ReLU(), square)


ACCEPTED = {
    "sequential": lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)),
    "one layer": lambda: nn.Sequential(nn.Linear(4, 2)),
    "a Linear by itself": lambda: nn.Linear(4, 2),
    "nested": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))),
        nn.Linear(5, 2, bias=False),
        nn.Identity(),
    ),
    "dropout in evaluation mode": lambda: nn.Sequential(
        nn.Dropout(0.5), nn.Linear(4, 5), nn.ReLU(), nn.AlphaDropout(0.2), nn.Linear(5, 2)
    ).eval(),
    "dropout 0": lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.0), nn.ReLU(), nn.Linear(5, 2)),
    "relu twice": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.ReLU(), nn.Linear(5, 2)),
    "shared layer": shared,
    "F.relu": Functional,
    "torch.relu": lambda: Functional(torch.relu),
    "torch.relu_": lambda: Functional(torch.relu_),
    "Tensor.relu": lambda: Functional(Tensor.relu),
    "x.relu_()": lambda: Functional(lambda x: x.relu_()),
    "careful": Careful,
    "layers in another order": TwoSizes,
    "parameters": Parameters,
    "float64": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double(),
    "bfloat16": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).bfloat16(),
    "weight normalisation": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2)
    ),
    "large weights": lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), scaled_linear(64, 2, 1e6)),
}


def scaled_linear(n_in, n_out, factor):
    layer = nn.Linear(n_in, n_out)
    with torch.no_grad():
        layer.weight *= factor
    return layer


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_read_computes_what_the_network_computes(name):
    torch.manual_seed(3)
    policy = ACCEPTED[name]()
    layers = read_network(policy)
    assert all(w.dtype == np.float32 and (b is None or b.dtype == np.float32) for w, b in layers)
    parameter = next(policy.parameters())
    x = torch.randn(50, layers[0].weight.shape[1]) * 3
    with torch.no_grad():
        want = policy(x.to(parameter.dtype)).float()
    tolerance = {torch.bfloat16: 0.1}.get(parameter.dtype, 1e-5)
    torch.testing.assert_close(relu_forward(layers, x), want, rtol=tolerance, atol=tolerance)


def test_layers_arrive_in_order_with_their_biases():
    policy = Functional()
    layers = read_network(policy)
    assert [w.shape for w, _ in layers] == [(6, 4), (5, 6), (2, 5)]
    assert [b is None for _, b in layers] == [False, True, False]
    for (weight, _), module in zip(layers, (policy.first, policy.second, policy.head), strict=True):
        assert np.array_equal(weight, module.weight.detach().numpy())


def test_the_layers_are_copies():
    policy = nn.Sequential(nn.Linear(2, 2))
    before = policy[0].weight.detach().clone()
    read_network(policy)[0].weight[:] = 7
    assert torch.equal(policy[0].weight, before)


def hooks(module):
    names = [n for n in vars(module) if n.endswith("hooks")]
    return {(name, n): dict(getattr(m, n)) for name, m in module.named_modules() for n in names}


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_not_modified(training):
    torch.manual_seed(0)
    policy = Functional().train(training)
    policy.first.weight.requires_grad_(False)
    seen = []
    policy.second.register_forward_hook(lambda module, args, output: seen.append(1))
    (policy(torch.ones(1, 4)).sum()).backward()
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in policy.named_parameters()}
    state, flags = copy.deepcopy(policy.state_dict()), {n: m.training for n, m in policy.named_modules()}
    before, random = hooks(policy), torch.get_rng_state()
    read_network(policy)
    assert all(torch.equal(state[k], v) for k, v in policy.state_dict().items())
    assert {n: m.training for n, m in policy.named_modules()} == flags
    assert hooks(policy) == before
    assert [p.requires_grad for p in policy.parameters()] == [False, True, True, True, True]
    for name, p in policy.named_parameters():
        assert (p.grad is None) == (grads[name] is None)
        assert p.grad is None or torch.equal(p.grad, grads[name])
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_a_network_that_changes_whenever_it_is_called_is_refused_and_left_as_it_was(norm):
    torch.manual_seed(0)
    policy = nn.Sequential(norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 2)).train()
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(
        NotImplementedError, match=r"changes its buffer '0\..*_[uv]' whenever it is called, .*\.eval\(\)"
    ):
        read_network(policy)
    assert all(torch.equal(before[k], v) for k, v in policy.state_dict().items())
    assert len(read_network(policy.eval())) == 2


def test_a_bias_that_is_one_number_for_all_neurons():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(1))

        def forward(self, x):
            return nn.functional.linear(x, self.weight, self.bias)

    ((_, bias),) = read_network(Policy())
    assert bias.tolist() == [1.0, 1.0, 1.0]


def test_outputs_of_another_precision_are_noticed():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Linear(4, 2)

        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                return self.layers(x)

    with pytest.raises(NotImplementedError, match="the policy's outputs differ from those of its own Linear"):
        read_network(Policy())


def test_other_threads_may_run_the_network_meanwhile():
    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            self.meanwhile = []

        def forward(self, x):
            if threading.current_thread() is main and not self.meanwhile:
                with ThreadPoolExecutor(1) as other:
                    self.meanwhile.append(other.submit(self, torch.zeros(3, 4)).result())
            return self.layers(x)

    main, policy = threading.current_thread(), Policy()
    layers = read_network(policy)
    assert [w.shape for w, _ in layers] == [(8, 4), (2, 8)]
    assert torch.equal(policy.meanwhile[0], policy(torch.zeros(3, 4)))


def test_refusal_does_not_modify_either():
    policy = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    before = copy.deepcopy(policy.state_dict())
    with pytest.raises(NotImplementedError, match="BatchNorm1d"):
        read_network(policy)
    assert all(torch.equal(before[k], v) for k, v in policy.state_dict().items()), "running statistics changed"
    policy = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 2))
    random = torch.get_rng_state()
    with pytest.raises(NotImplementedError, match="Dropout"):
        read_network(policy)
    assert torch.equal(torch.get_rng_state(), random)


def with_forward(forward, **modules):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            for name, module in modules.items():
                self.add_module(name, module)

    Network.forward = forward
    return Network()


def between(layer):
    return nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 2))


LINEAR = {"a": (4, 4), "b": (4, 4), "c": (4, 2)}


def chain(forward):
    return with_forward(forward, **{name: nn.Linear(*size) for name, size in LINEAR.items()})


SB3 = r"activation_fn': torch\.nn\.ReLU"
REFUSED = {
    "Tanh": (lambda: between(nn.Tanh()), r"layer '1' \(Tanh\): train with ReLU.*" + SB3),
    "Sigmoid": (lambda: between(nn.Sigmoid()), r"layer '1' \(Sigmoid\).*" + SB3),
    "GELU": (lambda: between(nn.GELU()), r"layer '1' \(GELU\).*ReLU"),
    "ELU": (lambda: between(nn.ELU()), r"layer '1' \(ELU\).*ReLU"),
    "LeakyReLU": (lambda: between(nn.LeakyReLU()), r"layer '1' \(LeakyReLU\).*ReLU"),
    "ReLU6": (lambda: between(nn.ReLU6()), r"layer '1' \(ReLU6\).*ReLU"),
    "Hardtanh": (lambda: between(nn.Hardtanh()), r"layer '1' \(Hardtanh\).*ReLU"),
    "PReLU": (lambda: between(nn.PReLU()), r"layer '1' \(PReLU\).*ReLU"),
    "Softmax": (lambda: between(nn.Softmax(dim=1)), r"layer '1' \(Softmax\): convert the network without it"),
    "final Tanh": (lambda: nn.Sequential(nn.Linear(4, 2), nn.Tanh()), r"layer '1' \(Tanh\)"),
    "BatchNorm": (
        lambda: between(nn.BatchNorm1d(4)).eval(),
        r"layer '1' \(BatchNorm1d\): fold it.*fuse_linear_bn_eval",
    ),
    "LayerNorm": (lambda: between(nn.LayerNorm(4)), r"layer '1' \(LayerNorm\).*train without"),
    "Conv2d": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)), r"'0' \(Conv2d\)"),
    "Conv1d": (lambda: nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU()), r"layer '0' \(Conv1d\): convolution"),
    "MaxPool": (lambda: between(nn.MaxPool1d(1)), r"layer '1' \(MaxPool1d\): convolution and pooling"),
    "LSTM": (
        lambda: with_forward(lambda s, x: s.c(s.l(x)[0]), l=nn.LSTM(4, 4), c=nn.Linear(4, 2)),
        r"'l' \(LSTM\): rec",
    ),
    "GRU": (lambda: with_forward(lambda s, x: s.c(s.l(x)[0]), l=nn.GRU(4, 4), c=nn.Linear(4, 2)), r"'l' \(GRU\): rec"),
    "Unflatten": (lambda: between(nn.Unflatten(1, (2, 2))), r"'1' \(Unflatten\).*flat"),
    "Flatten that changes the shape": (lambda: between(nn.Flatten(0)), r"'1' \(Flatten\): it changes the shape"),
    "Dropout in training mode": (
        lambda: between(nn.Dropout(0.1)),
        r"'1' \(Dropout\): it is switched on: call \.eval\(\)",
    ),
    "nested name": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2)),
        r"'0\.1' \(Tanh\)",
    ),
    "no ReLU between": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)),
        r"layer '1' \(Linear\): there is no ReLU between it and layer '0' \(Linear\)",
    ),
    "ReLU last": (
        lambda: nn.Sequential(nn.Linear(4, 2), nn.ReLU()),
        r"layer '1' \(ReLU\): it comes after the last Linear layer",
    ),
    "ReLU first": (
        lambda: nn.Sequential(nn.ReLU(), nn.Linear(4, 2)),
        r"layer '0' \(ReLU\): it comes before the first Linear layer",
    ),
    "residual": (
        lambda: chain(lambda s, x: s.c(F.relu(s.a(x) + x))),
        r"torch\.Tensor\.add\(\) in the forward of the network \(Network\): it uses a value from before.*residual",
    ),
    "residual of the new value": (lambda: chain(lambda s, x: s.c(F.relu(s.a(x) + 1))), r"add\(\).*residual"),
    "in place": (lambda: chain(lambda s, x: s.c(F.relu(s.a(x).add_(1)))), r"add_\(\).*residual"),
    "two branches": (lambda: chain(lambda s, x: s.c(F.relu(s.a(x)) + F.relu(s.b(x)))), r"layer 'b' \(Linear\).*branch"),
    "scaled input": (lambda: chain(lambda s, x: s.c(F.relu(s.a(x / 255)))), r"div\(\).*fold the factor"),
    "scaled output": (lambda: chain(lambda s, x: 2 * s.c(F.relu(s.a(x)))), r"mul\(\).*fold the factor"),
    "matmul": (lambda: chain(lambda s, x: F.relu(s.a(x)) @ s.c.weight.T), r"matmul\(\).*torch\.nn\.Linear"),
    "tanh function": (lambda: chain(lambda s, x: s.c(torch.tanh(s.a(x)))), r"torch\.tanh\(\) in the forward of.*ReLU"),
    "clamp": (lambda: chain(lambda s, x: s.c(s.a(x).clamp(min=0))), r"clamp\(\).*train with ReLU"),
    "slice": (lambda: chain(lambda s, x: s.c(F.relu(s.a(x)))[:, :1]), r"__getitem__\(\)"),
    "reads values": (lambda: chain(lambda s, x: s.c(F.relu(s.a(x))) if x.sum() > 0 else s.a(x)), r"sum\(\)"),
    "goes through numpy": (lambda: chain(lambda s, x: s.c(torch.from_numpy(x.numpy()))), r"numpy\(\)"),
    "noise": (lambda: chain(lambda s, x: s.c(F.relu(s.a(x)) + torch.randn(1))), r"add\(\)"),
    "a layer left out of the output": (
        lambda: with_forward(lambda s, x: (s.a(x), s.b(x))[0], a=nn.Linear(4, 2), b=nn.Linear(4, 2)),
        r"'b' \(Linear\).*branches",
    ),
    "an earlier layer is the output": (
        lambda: with_forward(lambda s, x: (h := s.a(x), s.b(F.relu(h)))[0], a=nn.Linear(4, 4), b=nn.Linear(4, 2)),
        r"not that of its last layer, layer 'b' \(Linear\)",
    ),
    "several outputs": (lambda: chain(lambda s, x: (s.c(F.relu(s.a(x))), None)), r"one tensor of outputs, got tuple"),
    "no Linear": (lambda: with_forward(lambda s, x: x, p=nn.PReLU()), r"no Linear layer"),
    "random": (
        lambda: chain(lambda s, x: F.linear(x, s.c.weight * (1 + torch.randn(1).abs()))),
        r"outputs differ from those of its own Linear and ReLU layers",
    ),
    "depends on the batch size": (
        lambda: chain(lambda s, x: s.c(F.relu(s.a(x))) if len(x) > 1 else s.c(s.a(x))),
        r"outputs differ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_layer_and_what_to_do(name):
    torch.manual_seed(1)
    make, message = REFUSED[name]
    with pytest.raises(NotImplementedError, match=message):
        read_network(make())


def test_a_hook_that_changes_the_output_is_noticed():
    policy = nn.Sequential(nn.Linear(4, 2))
    policy.register_forward_hook(lambda module, args, output: torch.from_numpy(output.numpy() + 1))
    with pytest.raises(NotImplementedError, match="numpy"):
        read_network(policy)


@pytest.mark.parametrize("bad", [None, "policy", {"0.weight": torch.ones(2, 2)}, lambda x: x, nn.Linear])
def test_only_modules(bad):
    with pytest.raises(TypeError, match="policy must be a torch"):
        read_network(bad)


def test_torchscript_is_refused():
    class Script(torch.jit.ScriptModule):
        pass

    with pytest.raises(TypeError, match="TorchScript"):
        read_network(Script())


def test_a_compiled_module_is_read_through():
    policy = nn.Sequential(nn.Linear(4, 2))

    class OptimizedModule(nn.Module):  # what torch.compile returns, as far as this matters
        def __init__(self):
            super().__init__()
            self._orig_mod = policy

        def forward(self, x):
            raise AssertionError("compiles")

    assert np.array_equal(read_network(OptimizedModule())[0].weight, policy[0].weight.detach().numpy())


def test_weights_that_are_not_there():
    with pytest.raises(ValueError, match="lazy layers without weights"):
        read_network(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(ValueError, match="meta device"):
        read_network(nn.Sequential(nn.Linear(3, 2, device="meta")))
    with pytest.raises(ValueError, match="has no parameters"):
        read_network(nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match=r"layer '2' .* takes 5 features, but the layer before it gives 4"):
        read_network(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2)))


def test_a_forward_that_fails():
    recurrent = chain(lambda s, x, state: s.c(x))
    with pytest.raises(
        ValueError, match=r"policy must take a batch of flat .* called with \(96, 4\) it raised TypeError"
    ):
        read_network(recurrent)
    images = chain(lambda s, x: s.c(x.reshape(-1, 7)))
    with pytest.raises(ValueError, match=r"it raised RuntimeError: shape '\[-1, 7\]' is invalid"):
        read_network(images)


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "weights"), (float("inf"), "biases")])
def test_not_finite(value, what):
    policy = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        (policy[2].weight if what == "weights" else policy[2].bias).view(-1)[1] = value
    with pytest.raises(ValueError, match=rf"the {what} of layer '2' \(Linear\) must be finite in float32, 1 of"):
        read_network(policy)


def test_stable_baselines3_shape_of_policy():
    """SB3's QNetwork: a feature extractor, then the network; its preprocessing converts to float."""

    def forward(self, observations):
        return self.q_net(self.features_extractor(observations.float()))

    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    policy = with_forward(forward, features_extractor=nn.Sequential(nn.Flatten()), q_net=net)
    assert [w.shape for w, _ in read_network(policy)] == [(8, 4), (2, 8)]
