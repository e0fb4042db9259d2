"""Image files: headers are read when a folder is opened, pixels when they are needed."""

import re
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ipvae_snn._utils.extras import require_extra
from ipvae_snn._utils.text import printable
from ipvae_snn.data.folders import files_below
from ipvae_snn.data.images import Images, Rows, Split
from ipvae_snn.data.pixels import (
    WHITE,
    Ground,
    Scale,
    also,
    extremes,
    find_scale,
    is_settled,
    to_colour,
    to_grey,
    to_unit,
    unfitting,
)
from ipvae_snn.data.splits import counts_of, divide, listed, part_of, words

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
# The formats of these suffixes. Pillow knows more, and starts other programs to read some of them.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
MAX_PIXELS_PER_BYTE = 2_000
"""How far any of these formats compresses an image that is not blank."""
MAX_UNCHECKED_PIXELS = 2**23
"""Images of no more pixels may be blank: they are read whatever their compression."""
PROBES = 16
"""How many files tell the range of values, and the ground for transparent pixels."""
PNG_TAIL = 2**16
"""Bytes at the end of a PNG in which EXIF data are looked for."""
PNG_METADATA = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"}
"""What Pillow calls those before the pixels."""
WIDTH, HEIGHT, PHOTOMETRIC, ORIENTATION, SUBFILE_TYPE = 256, 257, 262, 274, 254
DESCRIPTION, DEPTH = 270, 32997
"""Tags of TIFF and EXIF."""
_WARNINGS = threading.RLock()
"""Filters of warnings belong to the process: threads that overlap would leave those of images."""
BYTES = "8-bit"
KINDS = {"1": "1-bit", "F": "float"}
"""Kinds of pixel by Pillow's mode: all others are of 8 bits, or integers."""
DTYPES = {"1-bit": np.bool_, BYTES: np.uint8, "integer": np.int32, "float": np.float32}
USUAL = {"1-bit": Scale(), BYTES: Scale(0.0, 255), "integer": Scale(0.0, 65535), "float": Scale()}


def read_image(
    path: Path,
    scales: Mapping[str, Scale] | None = None,
    ground: float = WHITE,
    *,
    colour: bool = False,
) -> NDArray[Any]:
    """The image of a file, upright, in [0, 1]: grey (H, W), or (3, H, W) in colour.

    Args:
        path: the file.
        scales: of the set that it belongs to, by kind of pixel; by default its own.
        ground: grey value behind transparent pixels.
        colour: red, green and blue; three equal values of a grey image.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    pixels = read_pixels(path)[None, ...]
    scale = None if scales is None else scales.get(_kind_of(pixels.dtype))
    if scales is not None and scale is None:
        raise ValueError(f"{path} has other pixels than it had: load the folder again")
    convert = to_colour if colour else to_grey
    (image,) = convert(to_unit(pixels, lambda _: str(path), scale), str(path), ground)
    return np.asarray(image)


def read_pixels(path: Path) -> NDArray[Any]:
    """The stored pixels of a file, upright: (H, W), or (H, W, 3 or 4) with opacity as the fourth.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    with _opened(path) as image:
        inverted = _is_white_zero(image)
        image.load()
        pixels = _upright(_pixels_of(image), _orientation(image))
    if pixels.dtype == np.int32 and pixels.size and pixels.min() >= 0 and pixels.max() < 2**16:
        pixels = pixels.astype(np.uint16)  # Pillow widens some 16-bit files to 32 bits
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ValueError(f"{path} is no image: its pixels have shape {pixels.shape}")
    if inverted and pixels.dtype != np.uint16:
        raise ValueError(
            f"{path} holds {pixels.dtype} values of which the smallest is white: save it with the "
            "largest as white"
        )
    return 2**16 - 1 - pixels if inverted else pixels


def _pixels_of(image: Any) -> NDArray[Any]:
    transparency = image.info.get("transparency")
    if image.mode.startswith("I") or image.mode == "F":
        pixels = np.asarray(image)
        if type(transparency) is not int:
            return pixels
        opacity = np.where(pixels == transparency, 0, 2**16 - 1)
        return np.stack([pixels, pixels, pixels, opacity], -1).astype(np.int32)
    if _has_opacity(image):
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode in ("1", "L", "RGB") else image.convert("RGB"))


def _has_opacity(image: Any) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info


def _is_white_zero(image: Any) -> bool:
    """Whether the smallest value of a TIFF is white, and Pillow leaves it so: above 8 bits."""
    deep = image.mode.startswith("I") or image.mode == "F"
    return deep and image.format == "TIFF" and bool(image.tag_v2.get(PHOTOMETRIC) == 0)


def _orientation(image: Any) -> int:
    """1 … 8, of EXIF data; 1, upright, where there are none or they are damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a viewer would show the image all the same
        return 1
    return int(value) if value in range(1, 9) else 1


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn and mirror an image (H, W, ...) from one of the eight orientations of EXIF.

    >>> _upright(np.array([[1, 2]]), 6).tolist()  # a camera turned clockwise
    [[1], [2]]
    """
    if orientation > 4:  # rows are columns
        pixels = pixels.swapaxes(0, 1)
    down = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    across = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[down, across])


class Header(NamedTuple):
    """What the header of an image file says."""

    shape: tuple[int, int]
    """(H, W), upright."""
    kind: str
    """Of its pixels: ``1-bit``, ``8-bit``, ``integer`` or ``float``."""
    opacity: bool
    turned: bool


def read_header(path: Path) -> Header:
    """The header of an image file.

    Raises:
        ValueError: the file cannot be read as an image, or has several pages.
    """
    with _opened(path) as image:
        (width, height), orientation = image.size, _orientation_before_loading(image, path)
        if image.format == "TIFF":  # Pillow may have exchanged them
            tags = image.tag_v2
            width, height = int(tags.get(WIDTH, width)), int(tags.get(HEIGHT, height))
        shape = (width, height) if orientation > 4 else (height, width)
        opacity, mode = _has_opacity(image), image.mode
        kind = BYTES if mode == "1" and opacity else KINDS.get(mode, BYTES)
        kind = "integer" if mode.startswith("I") else kind
        return Header(shape, kind, opacity, orientation != 1)


def image_shape(path: Path) -> tuple[int, int]:
    """(H, W) of an image file, upright, from its header; raises what :func:`read_header` does."""
    return read_header(path).shape


def _orientation_before_loading(image: Any, path: Path) -> int:
    if image.format != "PNG" or set(image.info) & PNG_METADATA:
        return _orientation(image)
    # Pillow would decode all pixels in search of EXIF data behind them.
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - PNG_TAIL, 0))
        tail = file.read()
    return _orientation(image) if b"eXIf" in tail or b"tiff:Orientation" in tail else 1


def _kind_of(dtype: np.dtype[Any]) -> str:
    return {"b": "1-bit", "f": "float"}.get(dtype.kind, BYTES if dtype.itemsize == 1 else "integer")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image with Pillow; any error in the block becomes a ``ValueError`` about the file."""
    pillow, name = require_extra("PIL.Image", extra="data"), printable(str(path))
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            # Not by its name: Pillow would map the file, and then mangles some turned TIFFs.
            with path.open("rb") as file, pillow.open(file, formats=FORMATS) as image:
                _check_size(image.size, path.stat().st_size)
                _check_pages(image)
                yield image
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
        raise ValueError(
            f"{name} cannot be read as an image: its header promises more than "
            f"{pillow.MAX_IMAGE_PIXELS:,} pixels; cut it up or scale it down if it has so many"
        ) from error
    except pillow.UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise ValueError(
            f"{name} cannot be read as an image: it is none of {known}, or of a kind that Pillow "
            "does not read, such as a TIFF of 64 bits or five channels; save it as an .npy"
        ) from error
    except Exception as error:  # decoders fail in many ways on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{name} cannot be read as an image: {reason}") from error


def _check_size(size: tuple[int, int], file_bytes: int) -> None:
    """Check a header: some decoders allocate all pixels before they read the first."""
    if size[0] * size[1] > max(MAX_UNCHECKED_PIXELS, MAX_PIXELS_PER_BYTE * file_bytes):
        raise ValueError(
            f"its header promises {size[1]}×{size[0]} pixels, but {file_bytes:,} bytes cannot hold "
            "as many, unless all are blank"
        )


def _check_pages(image: Any) -> None:
    """Refuse stacks and films; previews and smaller copies of a single image are no pages."""
    if image.format == "MPO":
        return
    hidden = image.format == "TIFF" and _has_hidden_planes(image.tag_v2)
    if not (hidden or getattr(image, "is_animated", False)):
        return
    if image.format == "TIFF" and not hidden:
        page, frames = 1, image.n_frames
        while page < frames:
            image.seek(page)
            if not int(image.tag_v2.get(SUBFILE_TYPE, 0)) & 1:
                break
            page += 1
        image.seek(0)
        if page == frames:
            return
    raise ValueError(
        "it holds several pages or frames: save each as a file of its own, or all as one .npy of "
        "shape (N, H, W)"
    )


def _has_hidden_planes(tags: Any) -> bool:
    """Whether the page of a TIFF is a volume, or has others behind it, as large ImageJ stacks."""
    planes = re.match(r"ImageJ=.*?\nimages=(\d+)", str(tags.get(DESCRIPTION, "")), re.DOTALL)
    return int(tags.get(DEPTH, 1)) > 1 or (planes is not None and int(planes[1][:9]) > 1)


class FilesEncoding(NamedTuple):
    """How the stored pixels of the files of a set become grey values."""

    scales: dict[str, Scale]
    ground: float
    notes: tuple[str, ...]
    """What a description says of it."""
    usual: bool
    """Whether all is as the types of the pixels alone would say."""


def find_encoding(paths: Sequence[Path], headers: Sequence[Header]) -> FilesEncoding:
    """One scale for all files of a kind of pixel, and one ground for transparent pixels.

    Reads a few files where they leave no doubt, all where they do.

    Raises:
        ValueError: integers of no scale.
    """
    few = np.linspace(0, len(paths) - 1, min(len(paths), PROBES)).astype(int).tolist()
    ranges: dict[str, tuple[float, float]] = {}
    looked, ground = Counter[str](), Ground()
    largest: dict[tuple[str, Path], list[float]] = {}
    for row in dict.fromkeys([*few, *range(len(paths))]):
        kind, opacity = headers[row].kind, headers[row].opacity and looked["opacity"] < PROBES
        dtype = DTYPES[kind]
        doubt = kind not in ranges or not is_settled(dtype, *ranges[kind])
        if not (doubt or opacity or looked[kind] < PROBES):
            continue
        with suppress(ValueError):  # whoever reads it later names it
            pixels = read_pixels(paths[row])
            low, high = extremes(pixels)
            largest.setdefault((kind, paths[row].parent), []).append(high)
            ranges[kind] = (
                min(low, ranges.get(kind, (low, high))[0]),
                max(high, ranges.get(kind, (low, high))[1]),
            )
            if opacity and pixels.ndim == 3 and pixels.shape[-1] == 4:
                unit = to_unit(pixels[None, ...], str, Scale(0.0, max(ranges[kind][1], 1.0)))
                ground.look_at(unit, str(paths[row]))
                looked["opacity"] += 1
        looked[kind] += 1
    scales: dict[str, Scale] = {}
    notes: list[str] = []
    for kind in dict.fromkeys(header.kind for header in headers):
        low, high = ranges.get(kind, (0.0, 0.0))
        scale = find_scale(DTYPES[kind], low, high)
        if scale is None and kind in (BYTES, "integer"):
            rows = [row for row, header in enumerate(headers) if header.kind == kind]
            raise ValueError(
                f"{paths[rows[0]]} {unfitting(low, high)}{also(len(rows) - 1, len(paths))}"
            )
        scales[kind] = Scale() if scale is None else scale
        for (of_kind, folder), highs in largest.items():
            if of_kind == kind != "float" and len(highs) > 1 == max(highs) < scales[kind].high:
                raise ValueError(
                    f"{folder} holds values in 0…1, others there {scales[kind]}: bring them to one "
                    "scale, or load one of them alone"
                )
        if kind != "1-bit":
            notes.append(f"{kind} values from {low:g} to {high:g}, taken as {scales[kind]}")
    usual = all(scale == USUAL[kind] for kind, scale in scales.items())
    turned = sum(header.turned for header in headers)
    if turned:
        notes.append(f"{turned:,} turned upright")
    usual = usual and not turned and not ground.transparent
    return FilesEncoding(scales, ground.value, (*notes, *ground.notes), usual)


def read_headers(paths: Sequence[Path]) -> list[Header]:
    """The headers of files; an error names the first that is refused, and counts the others."""
    headers, problems = [], []
    for path in paths:
        try:
            headers.append(read_header(path))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(problems[0] + also(len(problems) - 1, len(paths)))
    return headers


class ImageFiles(Images):
    """The images of files; the constructor reads their headers, and pixels where they are needed.

    Args:
        paths: the files.
        headers: of the files, if they have been read.
        encoding: of the set that they belong to, by default their own.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        headers: Sequence[Header] | None = None,
        encoding: FilesEncoding | None = None,
    ) -> None:
        self.headers = read_headers(paths) if headers is None else headers
        super().__init__(len(paths), (header.shape for header in self.headers))
        self.paths = [str(path.absolute()) for path in paths]
        self.encoding = find_encoding(paths, self.headers) if encoding is None else encoding

    def name_of(self, row: int) -> str:
        return printable(self.paths[row])

    def shape_of(self, row: int) -> tuple[int, ...]:
        return self.headers[row].shape

    def stack(self, rows: Rows) -> NDArray[Any]:
        images, problems = [], []
        for row in rows:
            try:
                images.append(self._read(row))
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError(problems[0] + also(len(problems) - 1, len(rows)))
        return np.stack(images)

    def colour(self, row: int) -> NDArray[Any]:
        return self._read(row, colour=True)

    def _read(self, row: int, *, colour: bool = False) -> NDArray[Any]:
        path, header = Path(self.paths[row]), self.headers[row]
        image = read_image(path, self.encoding.scales, self.encoding.ground, colour=colour)
        if image.shape[-2:] != header.shape:
            raise ValueError(f"{path} has another size than it had: load the folder again")
        return image

    def fingerprint(self) -> str:
        """Number of the files, and a CRC-32 of all names and sizes and of up to 16 contents."""
        crc = 0
        for path in map(Path, self.paths):
            line = f"{path.name} {path.stat().st_size}\n"
            crc = zlib.crc32(line.encode(errors="surrogateescape"), crc)
        for row in np.linspace(0, len(self) - 1, min(len(self), 16)).astype(int):
            crc = zlib.crc32(Path(self.paths[row]).read_bytes(), crc)
        read_as = "" if self.encoding.usual else f", {'; '.join(self.encoding.notes)}"
        return f"{len(self)} image files {crc:08x}{read_as}"


def read_folder(folder: Path, paths: Sequence[Path]) -> Split:
    """All images of a folder and its subfolders, split by the names of folders or of files.

    Args:
        folder: the folder.
        paths: its :func:`image_paths`.

    Raises:
        ValueError: there is no image, one cannot be read, or the folder is split by half.
    """
    if not paths:
        endings = Counter(path.suffix or path.name for path in files_below(folder)).most_common()
        found = listed([ending for ending, _ in endings]) if endings else "no file"
        raise ValueError(
            f"{folder} holds no images: no files ending in {', '.join(SUFFIXES)}, but {found}"
        )
    train, test, others = _divide(paths, folder)
    headers = read_headers([*train, *test])
    encoding = find_encoding([*train, *test], headers)
    notes = counts_of(_folders(train, folder), _folders(test, folder))
    if others:
        notes.append(f"not read: {listed([str(p.relative_to(folder)) for p in others])}")
    return Split(
        ImageFiles(train, headers[: len(train)], encoding),
        ImageFiles(test, headers[len(train) :], encoding),
        notes=(*notes, *encoding.notes),
    )


def _divide(paths: Sequence[Path], folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Files to train on, held out, and neither: by the folders they are in, else by their names."""
    inside = {path: path.relative_to(folder) for path in paths}
    key_of = {path: _split_folder(inside[path]) for path in paths}
    names = divide(dict.fromkeys(key_of.values()), str(folder))
    if not names[0]:  # a folder "train" of held-out images is a class, if others are trained on
        for parent in {path.parent for path in inside.values()}:
            part_of(parent.as_posix())
    if not any(map(part_of, key_of.values())):
        whole = _are_all_named(paths)  # such as img_train_1.png, img_test_1.png
        key_of = {p: p.stem if whole else " ".join(words(p.stem)[:1]) for p in paths}
        found = {part_of(key) for key in key_of.values()}
        # A photograph of a train is no training image, unless others are test images.
        if "test" in found and len(found) > 1:
            key_of = {p: key if part_of(key) else _unnamed(p) for p, key in key_of.items()}
            names = divide(dict.fromkeys(key_of.values()), str(folder))
        else:
            return list(paths), [], []
    sets = [set(part) for part in names]
    train, test, others = ([p for p in paths if key_of[p] in part] for part in sets)
    return train, test, others


def _unnamed(path: Path) -> str:
    """What a refusal calls a file that does not begin with what it is for."""
    return "others" if part_of(path.name) else path.name


def _are_all_named(paths: Sequence[Path]) -> bool:
    """Whether each file says what it is for, and some are held out."""
    try:
        return {part_of(path.stem) for path in paths} == {"train", "test"}
    except ValueError:
        return False


def _split_folder(inside: Path) -> str:
    """The folders of a file down to that which says what it is for; the first, if none does."""
    folders = inside.parent.parts
    for depth, name in enumerate(folders, 1):
        if part_of(name):
            if part_of(name) == "train":
                part_of("/".join(folders))  # held-out images among those to train on
            return "/".join(folders[:depth])
    return folders[0] if folders else "images beside them"


def _folders(paths: Sequence[Path], folder: Path) -> Counter[str]:
    """How many files are in each folder."""
    parents = (path.parent.relative_to(folder).as_posix() for path in paths)
    return Counter(folder.absolute().name if parent == "." else parent for parent in parents)


def image_paths(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, but for hidden ones and figures of runs."""
    return sorted(
        path
        for path in files_below(folder, without=_is_of_run)
        if path.suffix.lower() in SUFFIXES
        # A link to nothing is an image that is missing: whoever reads it says so.
        and (path.is_file() or not path.exists())
    )


def _is_of_run(folder: Path) -> bool:
    """Whether a folder holds the figures of a run, complete or not, among the images."""
    of_run = any((folder.parent / name).is_file() for name in ("metrics.json", "checkpoint.pt"))
    return folder.name == "figures" and of_run
