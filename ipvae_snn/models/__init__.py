"""Generative models whose inference is a spike train, and what every model is.

:class:`~ipvae_snn.models.base.Model` is the protocol that training, evaluation, reports and
commands rely on; ``MODELS``, ``DECODERS`` and ``LIKELIHOODS`` name what can be saved.
"""

from ipvae_snn.models.base import MODELS, BaseModel, Model, load_model, require_model
from ipvae_snn.models.code_prior import Bound, CodePrior, Sampled, interpolate
from ipvae_snn.models.convolutional import ConvIPVAE
from ipvae_snn.models.decoders import ConvDecoder, MapDecoder, NetworkDecoder
from ipvae_snn.models.deep import DeepIPVAE
from ipvae_snn.models.generative import DECODERS, Decoder, Feedback, LinearDecoder
from ipvae_snn.models.image_code import ImageCode, decode_image, encode_image
from ipvae_snn.models.image_stream import ImageStream
from ipvae_snn.models.imputation import Imputed, impute
from ipvae_snn.models.ipvae import IPVAE
from ipvae_snn.models.labelled import FilledLabels, fill_in_labels, join_labels
from ipvae_snn.models.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    Gaussian,
    Joint,
    Likelihood,
    NegativeBinomial,
    OfPixels,
    Poisson,
    StudentT,
)
from ipvae_snn.models.map_model import MapModel
from ipvae_snn.models.unrolled import unrolled
from ipvae_snn.models.whitening import Whitening

__all__ = [
    "DECODERS",
    "IPVAE",
    "LIKELIHOODS",
    "MODELS",
    "BaseModel",
    "Bernoulli",
    "Bound",
    "Categorical",
    "CodePrior",
    "ConvDecoder",
    "ConvIPVAE",
    "Decoder",
    "DeepIPVAE",
    "Feedback",
    "FilledLabels",
    "Gaussian",
    "ImageCode",
    "ImageStream",
    "Imputed",
    "Joint",
    "Likelihood",
    "LinearDecoder",
    "MapDecoder",
    "MapModel",
    "Model",
    "NegativeBinomial",
    "NetworkDecoder",
    "OfPixels",
    "Poisson",
    "Sampled",
    "StudentT",
    "Whitening",
    "decode_image",
    "encode_image",
    "fill_in_labels",
    "impute",
    "interpolate",
    "join_labels",
    "load_model",
    "require_model",
    "unrolled",
]
