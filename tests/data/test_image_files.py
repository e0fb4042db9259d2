"""Image files as cameras and programs write them: turned, transparent, inverted, in pages."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from ipvae_snn import data
from ipvae_snn.data.image_files import _opened, image_shape, read_image

UPRIGHT = np.zeros((16, 24), np.uint8)
UPRIGHT[:6, :8], UPRIGHT[10:, :3], UPRIGHT[2:4, 15:20] = 220, 120, 60
STORED = {
    1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.T,
    6: np.rot90(UPRIGHT), 7: UPRIGHT[::-1, ::-1].T, 8: np.rot90(UPRIGHT, -1),
}  # fmt: skip
"""How a camera held in each of EXIF's orientations stores the upright image."""
GLYPH = np.zeros((16, 16), np.uint8)
GLYPH[4:12, 6:9] = 255


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def save_turned(path, orientation, pixels=None):
    pixels = STORED[orientation] if pixels is None else pixels
    image, name = Image.fromarray(np.ascontiguousarray(pixels)), path.name
    if name.endswith("late.png"):  # as some programs write it: behind the pixels
        file = io.BytesIO()
        image.save(file, "png")
        tags = exif(orientation).tobytes().removeprefix(b"Exif\0\0")
        checksum = struct.pack(">I", zlib.crc32(b"eXIf" + tags))
        chunk = struct.pack(">I", len(tags)) + b"eXIf" + tags + checksum
        path.write_bytes(file.getvalue()[:-12] + chunk + file.getvalue()[-12:])
    elif name.endswith("tif"):
        packed = {"compression": "tiff_lzw"} if "lzw" in name else {}
        image.save(path, tiffinfo={0x0112: orientation}, **packed)
    elif name.endswith("webp"):
        image.convert("RGB").save(path, lossless=True, exif=exif(orientation))
    else:
        image.save(path, exif=exif(orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "name", ["a.jpg", "a.png", "late.png", "a.tif", "lzw.tif", "deep.tif", "colour.tif", "a.webp"]
)
def test_photographs_are_upright(tmp_path, name, orientation):
    pixels = STORED[orientation]
    if name == "deep.tif":
        pixels = pixels.astype(np.uint16) * 257
    elif name == "colour.tif":
        pixels = np.stack([pixels] * 3, -1)
    save_turned(tmp_path / name, orientation, pixels)
    assert image_shape(tmp_path / name) == (16, 24)
    error = np.abs(read_image(tmp_path / name) * 255 - UPRIGHT)
    assert error.mean() < 2


def test_turned_photographs_are_counted_and_fit_upright_ones(tmp_path):
    for index, orientation in enumerate([1, 6, 8, 3, 1]):
        save_turned(tmp_path / f"{index}.jpg", orientation)
    dataset = data.load(tmp_path)
    assert dataset.shape == (16, 24)
    assert "; 3 turned upright" in dataset.description


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_is_upright(tmp_path, value):
    tags = Image.Exif()
    tags[0x0112] = value
    Image.fromarray(UPRIGHT).save(tmp_path / "a.png", exif=tags)
    assert np.array_equal(read_image(tmp_path / "a.png"), UPRIGHT / np.float32(255))


# -- opacity --------------------------------------------------------------------------------------


def save_glyph(path, colour):
    """A glyph of one colour on transparent ground."""
    pixels = np.full((16, 16, 4), colour, np.uint8)
    pixels[..., 3] = GLYPH
    image, options = Image.fromarray(pixels), {}
    if "la" in path.name:
        image = image.convert("LA")
    elif "rgba" not in path.name:
        levels = np.where(GLYPH, 1, 0).astype(np.uint8)
        other = 255 - colour if "inverse" in path.name else colour
        image = Image.fromarray(levels)
        image.putpalette([other] * 3 + [colour] * 3)
        options = {"transparency": 0}
    if path.suffix == ".webp":
        options = {"lossless": True, "exact": True}
    image.save(path, **options)


@pytest.mark.parametrize(
    ("colour", "ground"), [(0, "white"), (40, "white"), (200, "black"), (255, "black")]
)
@pytest.mark.parametrize(
    "name", ["rgba.png", "la.png", "p.png", "inverse.png", "p.gif", "rgba.webp", "rgba.tif"]
)
def test_glyphs_on_transparent_ground_are_seen(tmp_path, name, colour, ground):
    for index in range(4):
        save_glyph(tmp_path / f"{index}{name}", colour)
    dataset = data.load(tmp_path)
    expected = np.where(GLYPH, colour / 255, ground == "white")
    images = torch.cat([dataset.train, dataset.test]).reshape(4, 16, 16)
    assert np.allclose(images, expected, atol=1e-6)
    assert f"; transparent pixels on {ground}" in dataset.description


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_levels_named_transparent(tmp_path, dtype):
    levels = (255 - GLYPH).astype(dtype) * (np.iinfo(dtype).max // 255)
    for index in range(4):
        white = int(levels.max())
        Image.fromarray(levels).save(tmp_path / f"{index}.png", transparency=white)
    dataset = data.load(tmp_path, hold_out=False)
    assert np.array_equal(dataset.test[0].reshape(16, 16), (255 - GLYPH) / np.float32(255))
    assert "; transparent pixels on white" in dataset.description


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize(("colour", "ground"), [(0, "white"), (255, "black")])
def test_opacity_of_arrays(tmp_path, colour, ground, first, stream):
    pixels = np.full((8, 16, 16, 4), colour, np.uint8)
    pixels[..., 3] = GLYPH
    np.save(tmp_path / "a.npy", np.moveaxis(pixels, -1, 1) if first else pixels)
    dataset = data.load(tmp_path / "a.npy", stream=stream, hold_out=False)
    images = dataset.test.read(torch.arange(8)) if stream else dataset.test
    expected = np.where(GLYPH, colour / 255, ground == "white")
    assert np.allclose(images.reshape(8, 16, 16), expected, atol=1e-6)
    assert f"; transparent pixels on {ground}" in dataset.description


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("first", [False, True])
def test_whole_images_in_colour(tmp_path, channels, first):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 70, 80, channels), np.uint8)
    np.save(tmp_path / "a.npy", np.moveaxis(pixels, -1, 1) if first else pixels)
    whole = data.load(tmp_path / "a.npy", treat="colour", hold_out=False)
    assert "in colour" in whole.description
    expected = np.moveaxis(pixels[..., : min(channels, 3)], -1, 1) / 255
    if channels == 4:
        opacity = np.moveaxis(pixels[..., 3:], -1, 1) / 255
        ground = float("white" in whole.description)
        expected = expected * opacity + ground * (1 - opacity)
    expected = np.broadcast_to(expected, (4, 3, 70, 80))
    for image, wanted in zip(whole.test.images, expected, strict=True):
        assert np.allclose(image, wanted, atol=1e-6)


@pytest.mark.parametrize("name", ["natural", "digits"])
def test_installed_images_have_no_colour(name):
    with pytest.raises(ValueError, match="grey"):
        data.load(name, treat="colour")


def test_a_photograph_is_read_grey_or_in_colour(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    colour = data.read_photograph(tmp_path / "a.png", 3)
    assert np.allclose(colour, np.moveaxis(pixels, -1, 0) / 255, atol=1e-6)
    grey = data.read_photograph(tmp_path / "a.png")
    assert grey.shape == (1, 9, 11)
    assert float(grey.min()) >= float(colour.min())
    with pytest.raises(FileNotFoundError, match="is no file"):
        data.read_photograph(tmp_path / "b.png")
    with pytest.raises(ValueError, match="1 or 3"):
        data.read_photograph(tmp_path / "a.png", 2)


def test_opaque_images_need_no_ground(tmp_path):
    for index in range(4):
        Image.fromarray(GLYPH).convert("RGBA").save(tmp_path / f"{index}.png")
    assert "transparent" not in data.load(tmp_path).description


# -- inverted, other depths -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["1 bit", "8 bits", "16 bits", "lzw, 16 bits"])
def test_tiffs_whose_zero_is_white(tmp_path, kind):
    path = tmp_path / "a.tif"
    stored = 255 - GLYPH
    image = Image.fromarray(stored.astype(np.uint16) * 257 if "16" in kind else stored)
    image = image.convert("1") if kind == "1 bit" else image
    image.save(path, **({"compression": "tiff_lzw"} if "lzw" in kind else {}))
    content = bytearray(path.read_bytes())
    photometric = content.index(struct.pack("<HHI", 262, 3, 1))
    content[photometric + 8] = 0
    path.write_bytes(content)
    assert np.array_equal(read_image(path), GLYPH / np.float32(255))


def test_floats_whose_zero_is_white_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(GLYPH / np.float32(255)).save(path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<HHI", 262, 3, 1)) + 8] = 0
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tif holds float32 values of which the smallest is"):
        read_image(path)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "RGBX", "LA", "1", "I;16", "I", "F"])
def test_modes_show_the_same_image(tmp_path, mode):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("Pillow reads the YCbCr TIFFs that it writes from 13.0 on")
    image = Image.fromarray(GLYPH)
    if mode in ("I;16", "I"):
        image = Image.fromarray(GLYPH.astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    else:
        image = image.convert("RGB").convert("YCbCr") if mode == "YCbCr" else image.convert(mode)
    suffix = "png" if mode in ("LA", "1") else "tif"
    image.save(tmp_path / f"a.{suffix}")
    for index in range(3):
        Image.fromarray(GLYPH).save(tmp_path / f"{index}.png")
    samples = data.load(tmp_path, hold_out=False).test
    assert (samples - torch.from_numpy(GLYPH.reshape(1, -1) / 255.0)).abs().max() < 0.02


# -- pages ----------------------------------------------------------------------------------------


def save_pages(path, pages=3):
    frames = [Image.fromarray(np.roll(GLYPH, n, 1)).convert("RGB") for n in range(pages)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize("suffix", ["tif", "gif", "webp", "png"])
def test_stacks_and_films_are_refused_with_their_number_and_the_cure(tmp_path, suffix):
    for index in range(5):
        save_pages(tmp_path / f"{index}.{suffix}", 1 if index == 0 else 3)
    cure = r"several pages or frames: .* shape \(N, H, W\) \(and 3 more like it, of 5 read\)"
    with pytest.raises(ValueError, match=rf"1\.{suffix} cannot be read as an image: .*{cure}"):
        data.load(tmp_path)
    assert read_image(tmp_path / f"0.{suffix}").shape == (16, 16)


def test_previews_in_a_file_are_no_pages(tmp_path):
    image = Image.fromarray(GLYPH).convert("RGB")
    small = image.resize((4, 4))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    image.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    image.save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=[small])
    for name in ("a.tif", "b.jpg"):
        assert read_image(tmp_path / name).shape == (16, 16)


@pytest.mark.parametrize(
    "tags", [{270: "ImageJ=1.53t\nimages=30\nslices=30\n"}, {32997: 16}], ids=["ImageJ", "volume"]
)
def test_planes_behind_a_single_page_are_not_lost(tmp_path, tags):
    tagged = ImageFileDirectory_v2()
    for tag, value in tags.items():
        tagged[tag] = value
    Image.fromarray(GLYPH).save(tmp_path / "a.tif", tiffinfo=tagged)
    with pytest.raises(ValueError, match=r"a\.tif cannot be .* several pages or frames: save each"):
        read_image(tmp_path / "a.tif")
    tagged[270], tagged[32997] = "ImageJ=1.53t\nimages=1\n", 1
    Image.fromarray(GLYPH).save(tmp_path / "b.tif", tiffinfo=tagged)
    assert read_image(tmp_path / "b.tif").shape == (16, 16)


# -- refusals among many files --------------------------------------------------------------------


def write_photographs(folder, count=6, shape=(90, 80)):
    folder.mkdir(exist_ok=True)
    for index in range(count):
        pixels = np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def test_small_pictures_among_photographs_are_named_and_counted(tmp_path):
    write_photographs(tmp_path)
    for name in "xyz":
        Image.fromarray(UPRIGHT).save(tmp_path / f"{name}.png")
    cause = r"of 16×24 pixels is too small for patches of 16×16, which need 32×32"
    with pytest.raises(ValueError, match=rf"[xyz]\.png {cause}( \(and \d more like it)?"):
        data.load(tmp_path, patches=(20, 5))
    with pytest.raises(ValueError, match=rf"x\.png {cause} \(and 2 more like it, of 9 read\)"):
        data.load(tmp_path, patches=(20, 5), hold_out=False)


def test_images_of_another_size_are_named(tmp_path):
    write_photographs(tmp_path)
    Image.fromarray(UPRIGHT).save(tmp_path / "small.png")
    with pytest.raises(ValueError, match=r"small\.png has 16×24 pixels, while 6 of 7 have 90×80"):
        data.load(tmp_path, treat="samples")


def test_files_that_are_no_images_are_counted(tmp_path):
    write_photographs(tmp_path)
    for index in (2, 3, 5):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"2\.png cannot be .* \(and 2 more like it, of 6 read\)"):
        data.load(tmp_path)


def test_files_with_damaged_pixels_are_counted(tmp_path):
    write_photographs(tmp_path, shape=(9, 9))
    for index in (2, 3):
        path = tmp_path / f"{index}.png"
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"2\.png cannot be .* \(and 1 more like it, of 6 read\)"):
        data.load(tmp_path, hold_out=False)


def test_threads_that_read_images_leave_the_filters_of_warnings(tmp_path):
    Image.fromarray(GLYPH).save(tmp_path / "a.png")
    before = list(warnings.filters)
    entered, left = threading.Event(), threading.Event()

    def overlap():
        with _opened(tmp_path / "a.png"):
            entered.set()
            left.wait(1)

    thread = threading.Thread(target=overlap)
    with _opened(tmp_path / "a.png"):
        thread.start()
        entered.wait(0.02)  # in vain: it has to wait
    left.set()
    thread.join()
    assert warnings.filters == before


@pytest.mark.parametrize("suffix", ["pbm", "pnm", "jfif", "JPG", "Tiff"])
def test_other_suffixes(tmp_path, suffix):
    kind = {"pbm": "ppm", "pnm": "ppm", "jfif": "jpeg", "JPG": "jpeg", "Tiff": "tiff"}[suffix]
    for index in range(4):
        image = Image.fromarray(GLYPH)
        image.convert("1" if suffix == "pbm" else "L").save(tmp_path / f"{index}.{suffix}", kind)
    assert data.load(tmp_path).train.shape == (2, 256)
