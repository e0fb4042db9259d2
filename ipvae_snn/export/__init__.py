"""Export of trained models to neuromorphic toolchains, with measured fidelity.

=====================  ============================================================================
:func:`to_nir`         a graph of the Neuromorphic Intermediate Representation; :func:`write`,
                       :func:`read`, :func:`from_nir`, :func:`calibrate`
:func:`to_fixed_point` inference in integers, for chips with graded spikes
:func:`to_xylo`        an int8 network for the Xylo chip
:func:`report`         the fidelity of each: R², zeros, spikes, agreement of spike counts
:data:`TARGETS`        what ``ipvae-snn export`` can write; add your own, see :class:`Target`
=====================  ============================================================================
"""

from ipvae_snn.export.constants import linear_gaussian
from ipvae_snn.export.fidelity import Fidelity, FidelityRow, report
from ipvae_snn.export.fixed_point.convert import to_fixed_point
from ipvae_snn.export.fixed_point.network import FixedPoint
from ipvae_snn.export.graphs.calibration import calibrate
from ipvae_snn.export.graphs.decode import from_nir
from ipvae_snn.export.graphs.encode import to_nir
from ipvae_snn.export.graphs.files import read, write
from ipvae_snn.export.graphs.network import GraphNetwork
from ipvae_snn.export.graphs.poisson import LEVELS, Portable
from ipvae_snn.export.sources import GraphSource, ModelSource, rounded_source
from ipvae_snn.export.targets import TARGETS, Target
from ipvae_snn.export.toolchains import InNorse as in_norse
from ipvae_snn.export.toolchains import InSinabs as in_sinabs
from ipvae_snn.export.toolchains import InXylosim as in_xylosim
from ipvae_snn.export.xylo.convert import to_xylo
from ipvae_snn.export.xylo.network import XyloNetwork

__all__ = [
    "LEVELS",
    "TARGETS",
    "Fidelity",
    "FidelityRow",
    "FixedPoint",
    "GraphNetwork",
    "GraphSource",
    "ModelSource",
    "Portable",
    "Target",
    "XyloNetwork",
    "calibrate",
    "from_nir",
    "in_norse",
    "in_sinabs",
    "in_xylosim",
    "linear_gaussian",
    "read",
    "report",
    "rounded_source",
    "to_fixed_point",
    "to_nir",
    "to_xylo",
    "write",
]
