"""What all models with a layer of Poisson neurons are to the rest of the package."""

from typing import Any

import torch
from torch import Tensor, nn

from ipvae_snn._utils.checks import require_number
from ipvae_snn.models.base import BaseModel
from ipvae_snn.neurons import MEM_INIT_MAX, IPVAENeuron
from ipvae_snn.neurons.inference import draws_by_row
from ipvae_snn.surrogate.relaxed import Relaxed


class NeuronModel(BaseModel):
    """A model whose codes are the counts of its ``neuron``, a layer of Poisson neurons."""

    neuron: IPVAENeuron
    kl_form: str
    takes_sample_seeds = takes_graph = emits_counts = takes_mask = learns_locally = True

    @property
    def like(self) -> Tensor:
        return self.neuron.mem_init

    @property
    def draws_by_row(self) -> bool:  # type: ignore[override]
        return draws_by_row(self.neuron)

    @property
    def generator(self) -> torch.Generator | None:
        return getattr(self.neuron.spike_grad, "generator", None)

    def drawing(self) -> tuple[Any, ...]:
        return (self.neuron.spike_grad,)

    @property
    def clamp(self) -> float:  # type: ignore[override]
        clamp: float = self.neuron.clamp
        return clamp

    def gradient_probe(self) -> nn.Parameter | None:
        """log b: on the NLL, tonic inhibition acts through spikes alone."""
        return self.neuron.log_bias  # type: ignore[return-value]

    def annealed(self) -> dict[str, float]:
        """The clamp, and the temperature of a relaxed estimator."""
        spike_grad = self.neuron.spike_grad
        relaxed = {"temp": spike_grad.temp} if isinstance(spike_grad, Relaxed) else {}
        return {"clamp": self.neuron.clamp, **relaxed}

    def anneal(self, name: str, value: float) -> None:
        setattr(self.neuron if name == "clamp" else self.neuron.spike_grad, name, value)

    def mean_code(self, mem: Tensor) -> Tensor:
        """Expected counts of a membrane: the rates e^u, in its shape."""
        return mem.exp()

    # -- files ------------------------------------------------------------------------------

    def _current(self) -> dict[str, Any]:
        own = {
            name: getattr(self.neuron, name) for name in ("form", "clamp", "leak", "lateral_scale")
        }
        return {**own, "kl_form": self.kl_form, "spike_grad": self.neuron.spike_grad}

    def unsaved(self) -> dict[str, Any]:
        return {
            f"neuron.{name}": getattr(self.neuron, name)
            for name in ("state_quant", "surrogate_disable")
            if getattr(self.neuron, name)
        }

    def check_loaded(self) -> None:
        rest = float(self.neuron.mem_init.detach().abs().max())
        require_number(rest, "the largest |mem_init|", most=MEM_INIT_MAX)
