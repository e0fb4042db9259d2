"""Models to compare the IPVAE with: each as in its paper, with a linear decoder like the IPVAE's.

===========================  =========  ==============================================
class                        code       inference
===========================  =========  ==============================================
``IGVAE``                    Gaussian   iterative: natural gradient
``IGVAE(relu=True)``         rectified  iterative: natural gradient
``LCA``                      sparse     iterative: sparse coding by competition
``ConvLCA``                  sparse     the same, of whole images
``GaussianVAE``              Gaussian   amortised: an encoder network
``PoissonVAE``               counts     amortised: an encoder network
``IterativeAmortisedVAE``    Gaussian   a network refines its estimate from the gradient
``SemiAmortisedVAE``         Gaussian   an encoder's estimate, then gradient descent
===========================  =========  ==============================================

Trained by :func:`ipvae_snn.fit`, evaluated by :func:`ipvae_snn.evaluate`.
"""

from ipvae_snn.baselines.amortised import GaussianVAE, PoissonVAE
from ipvae_snn.baselines.base import Baseline
from ipvae_snn.baselines.conv_lca import ConvLCA
from ipvae_snn.baselines.hybrids import IterativeAmortisedVAE, SemiAmortisedVAE
from ipvae_snn.baselines.igvae import IGVAE
from ipvae_snn.baselines.lca import LCA

__all__ = [
    "IGVAE",
    "LCA",
    "Baseline",
    "ConvLCA",
    "GaussianVAE",
    "IterativeAmortisedVAE",
    "PoissonVAE",
    "SemiAmortisedVAE",
]
