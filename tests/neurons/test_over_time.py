"""``over_time`` against the loop over time that it replaces, and ``reset_on_call``."""

import pickle

import pytest
import snntorch as snn
import torch
from torch import nn

from ipvae_snn import IPVAENeuron, Recorder, over_time, reset, reset_on_call, surrogate


def ours(features, **options):
    return IPVAENeuron(
        features, init_hidden=True, mem_init=-0.5, spike_grad=surrogate.rounded(), **options
    )


NETWORKS = {
    "ours": lambda: nn.Sequential(nn.Linear(5, 6), ours(6), nn.Linear(6, 3), ours(3)),
    "mixed, nested": lambda: nn.Sequential(
        nn.Sequential(nn.Linear(5, 6), nn.Sequential(snn.Leaky(0.9, init_hidden=True))),
        nn.Linear(6, 4), ours(4), nn.Linear(4, 3), snn.Leaky(0.9, init_hidden=True, output=True),
    ),
    "ends in a layer": lambda: nn.Sequential(nn.Linear(5, 6), ours(6), nn.Linear(6, 2)),
    "ours with membranes": lambda: nn.Sequential(nn.Linear(5, 6), ours(6, output=True)),
    "maps": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 4, 2), ours(4, dim=1), nn.AvgPool1d(2), nn.Flatten(),
        nn.Linear(8, 3), ours(3),
    ),
    "no neurons": lambda: nn.Sequential(nn.Linear(5, 3)),
}  # fmt: skip


def parts(output):
    return output if isinstance(output, tuple) else (output,)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_it_equals_the_loop_over_time(make, constant):
    torch.manual_seed(0)
    net, x = make(), 2 * torch.randn(9, 3, 5)
    if constant:
        found, x = over_time(net, x[0], num_steps=9), x[:1].expand(9, 3, 5)
    else:
        found = over_time(net, x)
    reset(net)
    wanted = zip(*(parts(net(now)) for now in x), strict=True)
    for output, steps in zip(parts(found), wanted, strict=True):
        torch.testing.assert_close(output, torch.stack(steps), rtol=1e-4, atol=1e-4)


def test_it_starts_afresh_and_is_seen_by_recorders():
    net, x = NETWORKS["ours"](), torch.randn(4, 3, 5)
    first = over_time(net, x)
    with Recorder(net) as recorder:
        assert torch.equal(over_time(net, x), first)
    assert torch.equal(recorder["3"].spk, first)


def test_gradients_flow_to_all_layers():
    torch.manual_seed(0)
    net = NETWORKS["mixed, nested"]()
    over_time(net, torch.randn(4, 5), num_steps=20)[1].square().sum().backward()
    assert all(p.grad is not None for n, p in net.named_parameters() if "graded" not in n)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.neuron = ours(5)


def test_what_has_no_order_or_state_is_refused():
    x = torch.rand(4, 3, 5)
    for net, says in (
        (nn.Sequential(Inner()), "order is not known"),
        (nn.Sequential(IPVAENeuron(5)), "init_hidden=True"),
        (nn.Sequential(ours(5, output=True), nn.Linear(5, 2)), "only the last layer"),
    ):
        with pytest.raises(ValueError, match=says):
            over_time(net, x)
    with pytest.raises(TypeError, match="Sequential"):
        over_time(ours(5), x)
    with pytest.raises(ValueError, match=r"\(T, B, \.\.\.\)"):
        over_time(nn.Sequential(ours(5)), torch.rand(5))
    with pytest.raises(ValueError, match="num_steps"):
        over_time(nn.Sequential(ours(5)), x[0], num_steps=0)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = NETWORKS["ours"]()

    def forward(self, x):
        return torch.stack([self.net(x) for _ in range(6)])


def test_reset_on_call_lets_each_call_start_afresh():
    torch.manual_seed(0)
    outer, x = Outer(), 2 * torch.randn(4, 5)
    first = outer(x)
    assert not torch.equal(outer(x), first)
    handle = reset_on_call(outer)
    copied = pickle.loads(pickle.dumps(outer.to("cpu").requires_grad_(False)))
    for net in (outer, outer, copied, copied):
        assert torch.equal(net(x), first)
    for _ in range(2):
        outer.requires_grad_()(x).sum().backward()
    handle.remove()
    outer(x)
    assert not torch.equal(outer(x), first)
    with pytest.raises(TypeError, match="net must be"):
        reset_on_call("net")
