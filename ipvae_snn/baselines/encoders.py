"""Encoder networks of amortised inference: from an image to the parameters of its posterior."""

from collections.abc import Sequence

from torch import nn

from ipvae_snn._utils.checks import require_integer

ENCODERS = ("linear", "mlp", "conv")


def make_encoder(
    kind: str,
    in_features: int,
    out_features: int,
    *,
    width: int = 512,
    image_shape: Sequence[int] | None = None,
) -> nn.Module:
    """A network (B, in_features) → (B, out_features).

    ``"linear"``: one affine map. ``"mlp"``: two hidden layers. ``"conv"``: three convolutions with
    strides 1, 2, 2 over images, and an affine map. SiLU between layers.

    Args:
        kind: one of ``ENCODERS``.
        in_features, out_features: lengths of input and output.
        width: neurons of a hidden layer of the MLP; channels of the convolutions are width / 16,
            width / 8 and width / 8.
        image_shape: (H, W) with H · W = in_features, for ``"conv"``.

    Raises:
        ValueError: unknown kind, or a missing or wrong ``image_shape``.

    >>> import torch
    >>> make_encoder("conv", 64, 10, width=32, image_shape=(8, 8))(torch.rand(5, 64)).shape
    torch.Size([5, 10])
    """
    require_integer(width, "width", least=16)
    if kind == "linear":
        return nn.Linear(in_features, out_features)
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(in_features, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, out_features),
        )  # fmt: skip
    if kind != "conv":
        raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got {kind!r}")
    if image_shape is None or image_shape[0] * image_shape[1] != in_features:
        raise ValueError(
            f"a conv encoder needs image_shape=(H, W) with H · W = {in_features}, got {image_shape}"
        )
    height, full_width = image_shape
    few, many = width // 16, width // 8
    reduced = -(-height // 4) * -(-full_width // 4)  # two strides of 2, each rounding up
    return nn.Sequential(
        nn.Unflatten(1, (1, height, full_width)),
        nn.Conv2d(1, few, 3, padding=1), nn.SiLU(),
        nn.Conv2d(few, many, 3, stride=2, padding=1), nn.SiLU(),
        nn.Conv2d(many, many, 3, stride=2, padding=1), nn.SiLU(),
        nn.Flatten(),
        nn.Linear(many * reduced, out_features),
    )  # fmt: skip
