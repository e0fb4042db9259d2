"""Image files: headers are read when a folder is opened, pixels when they are needed."""

import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipvae_snn._utils.extras import require_extra
from ipvae_snn.data.images import Images, Rows, Split
from ipvae_snn.data.pixels import to_grey, to_unit

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# The formats of these suffixes. Pillow knows more, and starts other programs to read some of them.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
MAX_PIXELS_PER_BYTE = 2_000
"""How far any of these formats compresses an image that is not blank."""
MAX_UNCHECKED_PIXELS = 2**23
"""Images of no more pixels may be blank: they are read whatever their compression."""


def read_image(path: Path) -> NDArray[Any]:
    """The image of a file, grey (H, W) in [0, 1].

    Raises:
        ValueError: the file cannot be read as an image.
    """
    with _opened(path) as image:
        plain = image.mode in ("1", "L", "F", "RGB", "RGBA") or image.mode.startswith("I")
        pixels = np.asarray(image if plain else image.convert("RGB"))
    if pixels.dtype == np.int32 and pixels.size and pixels.min() >= 0 and pixels.max() < 2**16:
        pixels = pixels.astype(np.uint16)  # Pillow widens some 16-bit files to 32 bits
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(f"{path} is no image: its pixels have shape {pixels.shape}")
    (grey,) = to_grey(to_unit(pixels[None, ...], lambda _: str(path)), str(path))
    return np.asarray(grey)


def image_shape(path: Path) -> tuple[int, int]:
    """(H, W) of an image file, from its header.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image with Pillow; any error in the block becomes a ``ValueError`` about the file."""
    pillow = require_extra("PIL.Image", extra="data")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path, formats=FORMATS) as image:
                _check_size(image.size, path.stat().st_size)
                yield image
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image: its header promises more than "
            f"{pillow.MAX_IMAGE_PIXELS:,} pixels; cut it up or scale it down if it has so many"
        ) from error
    except Exception as error:  # decoders fail in many ways on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as an image: {reason}") from error


def _check_size(size: tuple[int, int], file_bytes: int) -> None:
    """Check a header: some decoders allocate all pixels before they read the first."""
    if size[0] * size[1] > max(MAX_UNCHECKED_PIXELS, MAX_PIXELS_PER_BYTE * file_bytes):
        raise ValueError(
            f"its header promises {size[1]}×{size[0]} pixels, but {file_bytes:,} bytes cannot hold "
            "as many, unless all are blank"
        )


class ImageFiles(Images):
    """The images of files; the constructor reads their headers only."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__(len(paths), map(image_shape, paths))
        self.paths = [str(path.absolute()) for path in paths]

    def stack(self, rows: Rows) -> NDArray[Any]:
        images = [read_image(Path(self.paths[row])) for row in rows]
        for row, image in zip(rows, images, strict=True):
            if image.shape not in self.shapes:
                path = self.paths[row]
                raise ValueError(f"{path} has another size than it had: load the folder again")
        return np.stack(images)

    def fingerprint(self) -> str:
        """Number of the files, and a CRC-32 of all names and sizes and of up to 16 contents."""
        crc = 0
        for path in map(Path, self.paths):
            crc = zlib.crc32(f"{path.name} {path.stat().st_size}\n".encode(), crc)
        for row in np.linspace(0, len(self) - 1, min(len(self), 16)).astype(int):
            crc = zlib.crc32(Path(self.paths[row]).read_bytes(), crc)
        return f"{len(self)} image files {crc:08x}"


def read_folder(folder: Path) -> Split:
    """All images of a folder and its subfolders; if these are ``train`` and ``test``, split so.

    Raises:
        ValueError: there is no image, or one cannot be read.
    """
    own_split = (folder / "train").is_dir() and (folder / "test").is_dir()
    train = _image_paths(folder / "train" if own_split else folder)
    test = _image_paths(folder / "test") if own_split else []
    if not train:
        raise ValueError(f"{folder} holds no images: no files ending in {', '.join(SUFFIXES)}")
    return Split(ImageFiles(train), ImageFiles(test))


def _image_paths(folder: Path) -> list[Path]:
    paths = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p for p in paths if not _is_foreign(p, folder))


def _is_foreign(path: Path, folder: Path) -> bool:
    """True for hidden files, and for figures of a run that was written into the data folder."""
    inside = path.relative_to(folder)
    hidden = any(part.startswith(".") for part in inside.parts)
    return hidden or any((folder / p / "metrics.json").is_file() for p in inside.parents)
