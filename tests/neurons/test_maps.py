"""Neurons on feature maps and sequences: which dimension holds them, and inhibition of neighbours.

The oracles are neurons on rows, (rows, K), which are tested elsewhere, and dense matrices.
"""

import pytest
import torch
from torch import nn

from ipvae_snn import IPVAENeuron, Recorder, surrogate
from ipvae_snn.neurons.currents import parts
from ipvae_snn.neurons.lateral import ConvLateral

K, MAP = 6, (2, 6, 5, 4)
MAKERS = {"shared": lambda **o: IPVAENeuron(K, **o),
          "between places": lambda **o: IPVAENeuron(ConvLateral(K), **o)}  # fmt: skip


@pytest.fixture(params=MAKERS)
def make(request):
    def make_one(**options):
        torch.manual_seed(0)
        return MAKERS[request.param](**{"mem_init": -0.5, "step": 0.5, "dim": 1, **options})

    return make_one


def as_rows(maps):
    """(..., K, H, W) to (..., rows, K)."""
    return maps.movedim(-3, -1).flatten(-4, -2)


def test_channels_of_a_place_are_rows_of_a_flat_layer():
    torch.manual_seed(0)
    neuron, x = (
        IPVAENeuron(K, mem_init=torch.linspace(-2, 0, K), step=0.5, dim=1),
        torch.randn(9, *MAP),
    )
    flat = IPVAENeuron(K, clamp=neuron.clamp)
    flat.load_state_dict(neuron.state_dict())
    torch.manual_seed(1)
    spk, mem = neuron.run(x)
    torch.manual_seed(1)
    wanted = flat.run(as_rows(x))
    assert spk.sum() > 0
    for found, rows in zip(
        (spk, mem, neuron.spk, neuron.mem), (*wanted, flat.spk, flat.mem), strict=True
    ):
        assert torch.equal(as_rows(found), rows)


@pytest.mark.parametrize(
    ("dim", "shape"),
    [
        (1, MAP),
        (-3, MAP),
        (-3, MAP[1:]),
        (0, MAP[1:]),
        (1, (2, K, 5)),
        (-1, (2, 5, K)),
        (1, (2, K)),
    ],
)
def test_dimensions_from_both_ends(dim, shape):
    x = torch.randn(3, *shape)
    axis = dim if dim < 0 else dim - len(shape)
    neuron = IPVAENeuron(K, dim=dim, mem_init=0.0)
    for out in (neuron(x[0]), neuron.run(x)):
        assert out[0].shape[axis] == K
    drive = torch.zeros(shape).movedim(axis, -1).index_fill(-1, torch.tensor(2), 30.0)
    spk, _ = IPVAENeuron(K, dim=dim, gram=torch.eye(K)).run(
        drive.movedim(-1, axis).expand(3, *shape)
    )
    active = spk.movedim(axis, -1).reshape(-1, K).sum(0)
    assert active[2] > 0.9 * active.sum() > 0


def test_a_map_with_neurons_elsewhere_is_refused():
    neuron = IPVAENeuron(K, dim=1)
    for shape in ((2, 5, K, K), (2, 5, 4, K), (K, 5), (3,)):
        with pytest.raises(ValueError, match="input_"):
            neuron(torch.rand(shape))
    with pytest.raises(ValueError, match="no dimension 5"):
        IPVAENeuron(K, dim=5)(torch.rand(MAP))
    for wrong in (1.0, True, "channels"):
        with pytest.raises(TypeError, match="dim must be an integer"):
            IPVAENeuron(K, dim=wrong)
        with pytest.raises(TypeError, match="dim must be an integer"):
            neuron.dim = wrong
    assert neuron.mem.shape == (0,)


def test_run_equals_steps(make):
    neuron, x = make(spike_grad=surrogate.rounded()), torch.randn(7, *MAP)
    spk, mem = neuron.run(x)
    neuron.reset_mem()
    for t, now in enumerate(x):
        z, u = neuron(now)
        torch.testing.assert_close(u, mem[t], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(z, spk[t])
    assert spk.sum() > 0


def test_batch_first_is_the_same_with_dimensions_exchanged():
    neuron, x = IPVAENeuron(K, mem_init=-0.5, spike_grad=surrogate.rounded()), torch.randn(4, 9, K)
    spk, mem = neuron.run(x, batch_first=True)
    last = neuron.mem
    wanted = neuron.run(x.transpose(0, 1).contiguous())
    assert torch.equal(spk, wanted[0].transpose(0, 1))
    assert torch.equal(mem[:, -1], last)
    with pytest.raises(ValueError, match="batch_first"):
        neuron.run(x[0], batch_first=True)


def test_a_constant_current_is_the_same_as_its_copies(make):
    neuron, x = make(spike_grad=surrogate.rounded()), torch.randn(MAP, requires_grad=True)
    spk, mem = neuron.run(x.expand(6, *MAP))
    (grad,) = torch.autograd.grad((spk + mem).sum(), x)
    spk_copies, mem_copies = neuron.run(x.expand(6, *MAP).clone())
    (wanted,) = torch.autograd.grad((spk_copies + mem_copies).sum(), x)
    assert torch.equal(spk, spk_copies)
    torch.testing.assert_close(mem, mem_copies)
    torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-4)


def test_each_timestep_of_an_expanded_leaf_has_its_gradient():
    x = torch.randn(1, 4, K).expand(6, 4, K).detach().requires_grad_()
    neuron = IPVAENeuron(K, mem_init=-0.5)
    neuron.run(x)[1].sum().backward()
    assert (x.grad.abs().sum((1, 2)) > 0).all()


def test_gradients_reach_all_parameters(make):
    neuron = make()
    spk, _ = neuron.run(torch.randn(6, *MAP, requires_grad=True))
    spk.square().sum().backward()
    for name, parameter in neuron.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_recorders_see_maps(make):
    neuron, x = make(), torch.randn(4, *MAP)
    with Recorder(neuron) as recorder:
        spk, _ = neuron.run(x)
        neuron(x[0])
    assert torch.equal(recorder.spk[:4], spk)
    assert recorder.mem.shape == (5, *MAP)
    with Recorder(neuron, neurons=[3, 0]) as recorder:
        spk, _ = neuron.run(x)
    assert torch.equal(recorder.spk, spk[:, :, [3, 0]])


def test_networks_of_convolutions_learn():
    """Convolution, batch norm, pooling and dropout around the layer, several timesteps a call."""
    torch.manual_seed(0)
    neuron = IPVAENeuron(K, dim=1, mem_init=-1.0)
    front = nn.Sequential(nn.Conv2d(1, K, 3), nn.BatchNorm2d(K))
    back = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.LazyLinear(2))
    x = torch.randn(64, 1, 8, 8)
    labels = (x.mean((1, 2, 3)) > 0).long()
    optimizer, losses = torch.optim.Adam([*front.parameters(), *neuron.parameters()], 2e-2), []
    for _ in range(45):
        spk, _ = neuron.run(front(x).expand(6, -1, -1, -1, -1))
        loss = nn.functional.cross_entropy(back(spk.mean(0)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


# -- inhibition between places --------------------------------------------------------------------


@pytest.mark.parametrize(("neighbours", "dimensions"), [(1, 2), (2, 2), (1, 1), (3, 1)])
def test_inhibition_between_places_is_a_dense_psd_matrix(neighbours, dimensions):
    """Against the sum over features that overlap, written out, on an enlarged canvas."""
    torch.manual_seed(0)
    lateral = ConvLateral(3, neighbours, dimensions=dimensions).double()
    places = (5, 4)[:dimensions]
    units = torch.eye(3 * torch.Size(places).numel()).double()
    matrix = lateral.inhibition(units.reshape(-1, *places, 3), lateral.gram()).flatten(1)

    convolve = (nn.functional.conv1d, nn.functional.conv2d)[dimensions - 1]
    canvas = units.reshape(-1, *places, 3).movedim(-1, 1)
    features = convolve(canvas, lateral.factor, padding=neighbours).flatten(1)
    torch.testing.assert_close(matrix, features @ features.T, rtol=1e-12, atol=1e-12)
    assert torch.linalg.eigvalsh(matrix)[0] > -1e-12
    itself = matrix.diagonal().reshape(-1, 3)
    torch.testing.assert_close(lateral.diagonal(lateral.gram()), itself[0])
    torch.testing.assert_close(itself, itself[:1].expand_as(itself))


def test_a_spike_silences_its_neighbours():
    lateral = ConvLateral(1)
    with torch.no_grad():
        lateral.factor.fill_(0.5)
    neuron = IPVAENeuron(lateral, dim=1, mem_init=0.0, bias=1e-6)
    spk = torch.zeros(1, 1, 7, 7)
    spk[..., 3, 3] = 1
    _, mem = neuron(torch.zeros(1, 1, 7, 7), spk, torch.zeros(1, 1, 7, 7))
    assert (mem[0, 0, 2:5, 2:5] < mem[0, 0, 0, 0]).all()
    assert mem[0, 0, 3, 3] == mem.min()
    assert torch.equal(mem[..., 0, :], mem[..., :1, :1].expand(1, 1, 1, 7)[..., 0, :])


def test_currents_of_maps_add_up(make):
    neuron, x = make(), torch.randn(5, *MAP)
    spk, mem = neuron.run(x)
    contributions = parts(neuron, x, spk, mem)
    change = torch.cat([neuron.initial_state(MAP).mem[None], mem]).diff(dim=0)
    torch.testing.assert_close(sum(contributions), change, rtol=1e-4, atol=1e-5)


def test_neighbours_need_maps():
    with pytest.raises(ValueError, match="needs maps of 2 dimensions"):
        IPVAENeuron(ConvLateral(K))(torch.rand(2, K))
    for wrong in ({"neighbours": 0}, {"dimensions": 3}, {"features": 0}):
        with pytest.raises(ValueError, match=r"at least 1|must be 1 or 2"):
            ConvLateral(**{"features": 3, **wrong})
    with pytest.raises(ValueError, match="factor must have shape"):
        ConvLateral(3).factor = nn.Parameter(torch.ones(3, 3))


@pytest.mark.parametrize("neuron", [IPVAENeuron(4, dim=1), IPVAENeuron(ConvLateral(4), dim=-3)])
def test_exports_refuse_maps_by_name(neuron):
    pytest.importorskip("nir", reason="the extra [nir] is not installed")
    from ipvae_snn import export

    with pytest.raises(ValueError, match="competes between the channels of a map"):
        export.to_nir(nn.Sequential(nn.Linear(3, 4), neuron), input_shape=(3,))
