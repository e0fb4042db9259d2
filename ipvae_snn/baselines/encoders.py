"""Encoder networks for amortised inference: from an image to the parameters of its posterior."""

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
    strides 1, 2, 2, then an affine map. SiLU between layers.

    Args:
        kind: one of ``ENCODERS``.
        in_features, out_features: lengths of input and output.
        width: neurons per hidden layer of the MLP; the convolutions have width / 16, width / 8 and
            width / 8 channels.
        image_shape: (H, W) with H · W = in_features, for ``"conv"``.

    Raises:
        ValueError: unknown ``kind``, or missing or wrong ``image_shape``.

    >>> import torch
    >>> make_encoder("conv", 64, 10, width=32, image_shape=(8, 8))(torch.rand(5, 64)).shape
    torch.Size([5, 10])
    """
    require_integer(width, "width", least=16)
    if kind == "linear":
        return nn.Linear(in_features, out_features)
    if kind == "mlp":
        hidden = [nn.Linear(in_features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
        return nn.Sequential(*hidden, nn.Linear(width, out_features))
    if kind != "conv":
        raise ValueError(f"encoder must be one of {', '.join(ENCODERS)}, got {kind!r}")
    if image_shape is None or image_shape[0] * image_shape[1] != in_features:
        raise ValueError(
            f"a conv encoder needs image_shape=(H, W) with H · W = {in_features}, got {image_shape}"
        )
    height, full_width = image_shape
    few, many = width // 16, width // 8
    reduced = -(-height // 4) * -(-full_width // 4)  # two strides of 2, each rounding up
    layers: list[nn.Module] = [nn.Unflatten(1, (1, height, full_width))]
    for channels_in, channels_out, stride in ((1, few, 1), (few, many, 2), (many, many, 2)):
        layers += [nn.Conv2d(channels_in, channels_out, 3, stride, padding=1), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(many * reduced, out_features))
