"""The peers of the IPVAE: each small, true to its paper, with a linear decoder as the IPVAE has.

===========================  =========  ==============================================
class                        code       inference
===========================  =========  ==============================================
``IGVAE``                    Gaussian   iterative: natural gradient
``IGVAE(relu=True)``         rectified  the same
``LCA``                      sparse     iterative: sparse coding by competition
``GaussianVAE``              Gaussian   amortised: an encoder network
``PoissonVAE``               counts     the same
``IterativeAmortisedVAE``    Gaussian   a network refines its guess by its gradient
``SemiAmortisedVAE``         Gaussian   an encoder's guess, then gradient steps
===========================  =========  ==============================================

Trained by :func:`ipvae_snn.fit`, evaluated by :func:`ipvae_snn.evaluate`.
"""

from ipvae_snn.baselines.amortised import GaussianVAE, PoissonVAE
from ipvae_snn.baselines.base import Baseline
from ipvae_snn.baselines.hybrids import IterativeAmortisedVAE, SemiAmortisedVAE
from ipvae_snn.baselines.igvae import IGVAE
from ipvae_snn.baselines.lca import LCA

__all__ = [
    "IGVAE",
    "LCA",
    "Baseline",
    "GaussianVAE",
    "IterativeAmortisedVAE",
    "PoissonVAE",
    "SemiAmortisedVAE",
]
