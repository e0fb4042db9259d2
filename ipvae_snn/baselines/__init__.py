"""The peers of the IPVAE: each small, true to its paper, with a linear decoder as the IPVAE has.

Trained by :func:`ipvae_snn.fit`, evaluated by :func:`ipvae_snn.evaluate`.
"""

from ipvae_snn.baselines.base import Baseline
from ipvae_snn.baselines.gaussian import IGVAE
from ipvae_snn.baselines.lca import LCA

__all__ = ["IGVAE", "LCA", "Baseline"]
