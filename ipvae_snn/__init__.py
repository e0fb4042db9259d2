"""The iterative Poisson VAE as snnTorch neurons: variational inference as a spiking network.

>>> import torch, ipvae_snn
>>> model = ipvae_snn.IPVAE(in_features=256, latents=64)
>>> model.run(torch.rand(2, 256), num_steps=5).spk.shape
torch.Size([5, 2, 64])
"""

from types import ModuleType

from ipvae_snn import baselines, functional, models, recipes, surrogate
from ipvae_snn._utils import moved
from ipvae_snn.metrics.evaluation import Evaluation, evaluate
from ipvae_snn.models import IPVAE, load_model
from ipvae_snn.models.streaming import Stream
from ipvae_snn.neurons import IPVAENeuron
from ipvae_snn.neurons.conversion import from_snntorch
from ipvae_snn.neurons.over_time import over_time
from ipvae_snn.neurons.recorder import Recorder
from ipvae_snn.neurons.states import detach, reset, reset_on_call, tbptt
from ipvae_snn.training import TrainConfig, fit, tune
from ipvae_snn.version import __version__

__all__ = [
    "IPVAE",
    "Evaluation",
    "IPVAENeuron",
    "Recorder",
    "Stream",
    "TrainConfig",
    "__version__",
    "baselines",
    "detach",
    "evaluate",
    "fit",
    "from_snntorch",
    "functional",
    "load_model",
    "models",
    "over_time",
    "recipes",
    "reset",
    "reset_on_call",
    "surrogate",
    "tbptt",
    "tune",
]

moved.install()


def __getattr__(name: str) -> ModuleType:
    return moved.import_moved(name)
