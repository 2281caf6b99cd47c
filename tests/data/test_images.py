"""Photos inside the folder that decode are accepted; all others are refused with the reason."""

import io
import os
import struct
import zlib
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrec.data.images import check_photo, check_photos, encode_thumbnail, load_photo
from mmrec.errors import PhotoError

LIMIT = 10_000


@pytest.fixture
def folder(tmp_path):
    """Photos beside a secret one, with links, a pipe, and files that are no photos."""
    root = tmp_path / "photos"
    root.mkdir()
    for path in (root / "a.jpg", tmp_path / "secret.jpg"):
        Image.new("RGB", (40, 30), "red").save(path)
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "in.jpg").symlink_to(root / "a.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    os.mkfifo(root / "pipe.jpg")  # opening it would wait for ever
    Image.new("RGB", (4, 3)).save(root / "bmp.jpg", "BMP")
    (root / "svg.jpg").write_text("<svg/>")
    (root / "empty.jpg").touch()
    return root


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_content_decides_and_a_truncated_photo_is_refused(folder, kind):
    whole = folder / "photo.txt"
    Image.effect_noise((90, 90), 80).convert("RGB").save(whole, kind)
    assert check_photo("photo.txt", folder, LIMIT) == whole.resolve()
    (folder / "half").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(PhotoError):
        check_photo("half", folder, LIMIT)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        *[(name, "not a JPEG, PNG, WebP or GIF") for name in ("bmp.jpg", "svg.jpg", "empty.jpg")],
        *[(name, "no such file") for name in ("absent.jpg", "a.jpg/b.jpg")],
        *[(name, "not a regular file") for name in ("pipe.jpg", ".")],
        *[(name, "outside the folder") for name in ("../secret.jpg", "../photos_more/a.jpg", "/etc/passwd")],
        ("out.jpg", "outside the folder"),
        ("loop.jpg", "no such file|not a usable path"),
        *[(name, "not a usable path") for name in ("a\x00.jpg", "x" * 5000, "\udcff.jpg")],
    ],
)
def test_unusable_paths_are_refused_but_links_inside_of_the_folder_are_not(folder, path, reason):
    with pytest.raises(PhotoError, match=reason):
        check_photo(path, folder, LIMIT)
    for link, root in (("in.jpg", folder), ("a.jpg", folder.parent / "link")):
        assert check_photo(link, root, LIMIT) == (folder / "a.jpg").resolve()


def _bomb(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(101, 100), (9_000, 9_000), (60_000, 60_000)])
def test_pixels_are_counted_before_decoding(folder, size):
    (folder / "bomb.png").write_bytes(_bomb(*size))
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(PhotoError, match="pixels"):
        check_photo("bomb.png", folder, LIMIT)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_photo_of_exactly_the_limit_is_loaded_upright_and_in_rgb(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (125, 80)).save(folder / "turned.jpg", exif=exif)
    photo = load_photo(folder / "turned.jpg", LIMIT)
    assert (photo.size, photo.mode) == ((80, 125), "RGB")
    Image.new("RGBA", (4, 3)).save(folder / "clear.png")
    assert load_photo(folder / "clear.png", LIMIT).mode == "RGB"
    with pytest.raises(PhotoError):
        load_photo(folder / "absent.jpg", LIMIT)


def _dark_mark(mode):
    """A dark mark in the middle of a photo that is else transparent, or white where nothing can be."""
    image = Image.new("RGBA", (90, 60), (0, 0, 0, 0))
    image.paste((20, 20, 20, 255), (30, 20, 60, 40))
    if mode == "I;16 on black":  # which counts as transparent
        grey = np.full((60, 90), 3, np.uint16)
        grey[20:40, 30:60] = 5_000
        image = Image.fromarray(grey)
        image.info["transparency"] = 3
        return image
    if mode == "I;16":
        grey = np.full((60, 90), 65_000, np.uint16)
        grey[20:40, 30:60] = 5_000
        return Image.fromarray(grey)
    if mode == "RGB":  # one colour counts as transparent
        image = Image.new("RGB", (90, 60), (1, 2, 3))
        image.paste((20, 20, 20), (30, 20, 60, 40))
        image.info["transparency"] = (1, 2, 3)
        return image
    return image.convert(mode) if mode != "P" else image.quantize(8)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *[(mode, "PNG") for mode in ("RGBA", "LA", "P", "RGB", "I;16", "I;16 on black")],
        ("RGBA", "WEBP"),
        ("RGBA", "GIF"),
    ],
)
def test_a_photo_is_as_people_see_it_on_white(folder, mode, kind):
    mark = _dark_mark(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    if "transparency" in mark.info:
        options["transparency"] = mark.info["transparency"]
    mark.save(folder / "mark", kind, **options)
    for photo in (
        load_photo(folder / "mark", LIMIT),
        Image.open(io.BytesIO(encode_thumbnail(folder / "mark", LIMIT))),
        Image.open(io.BytesIO(encode_thumbnail(folder / "mark", LIMIT, side=30))),
    ):
        width, height = photo.size
        assert photo.mode == "RGB"
        assert min(photo.getpixel((2, 2))) > 240
        assert max(photo.getpixel((width // 2, height // 2))) < 40


def test_a_thumbnail_is_upright_and_small(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for kind in ("JPEG", "PNG", "WEBP"):
        Image.new("RGB", (3000, 1500), "red").save(folder / "turned", kind, exif=exif)
        with Image.open(io.BytesIO(encode_thumbnail(folder / "turned", 10**7))) as small:
            assert (small.size, small.format) == ((320, 640), "JPEG")
            assert not small.getexif()
            assert small.getpixel((5, 5))[0] > 240
    with pytest.raises(PhotoError, match="pixels"):
        encode_thumbnail(folder / "turned", LIMIT)


MAGIC = [b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8X"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(magic=st.sampled_from(MAGIC), data=st.binary(max_size=200), position=st.integers(0, 600))
def test_any_bytes_and_any_damaged_photo_are_decoded_or_refused(folder, magic, data, position):
    photo = bytearray((folder / "a.jpg").read_bytes())
    photo[position % len(photo)] = len(data)
    for content in (magic + data, photo):
        (folder / "hostile").write_bytes(content)
        with suppress(PhotoError):
            check_photo("hostile", folder, LIMIT)


def test_many_photos_are_checked_once_each(folder, monkeypatch):
    check = Mock(side_effect=check_photo)
    monkeypatch.setattr("mmrec.data.images.check_photo", check)
    checked = check_photos([("a.jpg", folder), ("b.jpg", folder), ("a.jpg", folder)], LIMIT)
    assert sorted(call.args[0] for call in check.call_args_list) == ["a.jpg", "b.jpg"]
    assert checked["a.jpg", folder] == (folder / "a.jpg").resolve()
    assert str(checked["b.jpg", folder]) == "no such file"
