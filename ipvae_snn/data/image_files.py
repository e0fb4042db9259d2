"""Image files: their headers first, their pixels when they are needed."""

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipvae_snn._utils.extras import require_extra
from ipvae_snn.data.pictures import Images, Pictures, Ready
from ipvae_snn.data.pixels import to_grey, to_unit

IMAGE_SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm",
}  # fmt: skip
# What the suffixes promise. Pillow knows more, and for some of it starts other programs.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
PIXELS_PER_BYTE, FEW_PIXELS = 2_000, 2**23
"""What a byte of a file can hold of any image with anything on it; smaller images are not asked."""


def read_image(path: Path) -> NDArray:
    """One image file as grey (H, W) in [0, 1].

    Raises:
        ValueError: the file cannot be read as an image.
    """
    with _opened(path) as image:
        plain = image.mode in ("1", "L", "F", "RGB", "RGBA") or image.mode.startswith("I")
        pixels = np.asarray(image if plain else image.convert("RGB"))
    if pixels.dtype == np.int32 and pixels.size and pixels.min() >= 0 and pixels.max() < 2**16:
        pixels = pixels.astype(np.uint16)  # Pillow widens some 16-bit files to 32
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(f"{path} is no image: its pixels have shape {pixels.shape}")
    return to_grey(to_unit(pixels[None, ...], lambda _: str(path)), str(path))[0]


def image_shape(path: Path) -> tuple[int, int]:
    """(H, W) of an image file, from its header.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A file open in Pillow; whatever goes wrong in the block is the file's fault."""
    library = require_extra("PIL.Image", extra="data")
    too_large = library.DecompressionBombWarning, library.DecompressionBombError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            warnings.simplefilter("error", library.DecompressionBombWarning)
            with library.open(path, formats=FORMATS) as image:
                _require_credible(image.size, path.stat().st_size)
                yield image
    except too_large as error:
        raise ValueError(
            f"{path} cannot be read as an image: its header promises more than "
            f"{library.MAX_IMAGE_PIXELS:,} pixels; cut it up or scale it down if it has so many"
        ) from error
    except Exception as error:  # decoders fail in many ways on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as an image: {reason}") from error


def _require_credible(size: tuple[int, int], file_bytes: int) -> None:
    """Some decoders take the memory that a header asks for before they look at the rest."""
    if size[0] * size[1] > max(FEW_PIXELS, PIXELS_PER_BYTE * file_bytes):
        raise ValueError(
            f"its header promises {size[1]}×{size[0]} pixels, but {file_bytes:,} bytes cannot hold "
            "as many, unless all are blank"
        )


class ImageFiles(Pictures):
    """Images in files; opening reads their headers."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = [str(path.absolute()) for path in paths]
        self.shapes = frozenset(image_shape(path) for path in paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: NDArray[np.int64]) -> NDArray:
        return np.stack([self._read(Path(self.paths[row])) for row in rows])

    def _read(self, path: Path) -> NDArray:
        image = read_image(path)
        if image.shape not in self.shapes:
            raise ValueError(f"{path} has another size than it had: load the folder again")
        return image

    def fingerprint(self) -> str:
        """Of all names and sizes, and the bytes of a few files."""
        crc = 0
        for path in map(Path, self.paths):
            crc = zlib.crc32(f"{path.name} {path.stat().st_size}\n".encode(), crc)
        for row in np.linspace(0, len(self) - 1, min(len(self), 16)).astype(int):
            crc = zlib.crc32(Path(self.paths[row]).read_bytes(), crc)
        return f"{len(self)} image files {crc:08x}"


def read_folder(folder: Path) -> Images:
    """All images of a folder; with subfolders ``train`` and ``test``, split as they are.

    Raises:
        ValueError: there is no image, or one cannot be read.
    """
    if all((folder / part).is_dir() for part in ("train", "test")):
        train, test = (_image_files(folder / part) for part in ("train", "test"))
    else:
        train, test = _image_files(folder), []
    if not train:
        raise ValueError(
            f"{folder} holds no images: expected files ending in "
            + ", ".join(sorted(IMAGE_SUFFIXES))
        )
    return Images(ImageFiles(train), ImageFiles(test) if test else Ready())


def _image_files(folder: Path) -> list[Path]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted(p for p in found if not _is_foreign(p, folder))


def _is_foreign(path: Path, folder: Path) -> bool:
    """Hidden, or among the figures of a run that was written into the folder of its data."""
    between = [p for p in path.parents if p.is_relative_to(folder)]
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return hidden or any((p / "metrics.json").is_file() for p in between)
