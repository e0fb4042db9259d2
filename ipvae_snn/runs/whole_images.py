"""Whole images of a run: whitened before a model sees them, by what it carries along."""

from typing import Any

from ipvae_snn import data
from ipvae_snn.models import MapModel, Whitening
from ipvae_snn.models.base import BaseModel

KIND = "images"
"""Of a :class:`~ipvae_snn.data.Dataset` of whole images."""


def require_model_for(kind: str, cls: type[BaseModel]) -> None:
    """Raise ``ValueError`` unless models of a class take samples of this kind."""
    if (kind == KIND) != issubclass(cls, MapModel):
        raise ValueError(
            "whole images (--as images) and convolutional models (--decoder conv) belong "
            f"together, got {kind} for a {cls.__name__}"
        )


def fit_whitening(dataset: data.Dataset) -> Whitening:
    """The whitening of the images to train on."""
    assert isinstance(dataset.train, data.Crops)
    return Whitening.fit(dataset.train.images)


def whitened(dataset: data.Dataset, model: BaseModel, *parts: str) -> data.Dataset:
    """A data set with these ``parts``, ``"train"`` or ``"test"``, whitened as ``model`` takes them.

    Samples of other models stay as they are.
    """
    if not isinstance(model, MapModel) or model.whitening is None:
        return dataset
    changed: Any = {name: getattr(dataset, name).changed(model.whitening) for name in parts}
    return dataset._replace(**changed)
