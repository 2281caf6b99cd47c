"""Photos inside the folder that decode are accepted; all others are refused with the reason."""

import os
import struct
import zlib
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmrec.data.images import check_photo, check_photos, load_photo
from mmrec.errors import PhotoError

LIMIT = 10_000


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    root.mkdir()
    Image.new("RGB", (40, 30), "red").save(root / "a.jpg")
    return root


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_content_decides_and_not_the_suffix(folder, kind):
    Image.new("RGB", (40, 30), "red").save(folder / "photo.txt", kind)
    assert check_photo("photo.txt", folder, LIMIT) == (folder / "photo.txt").resolve()


def test_files_of_other_formats_are_refused(folder):
    Image.new("RGB", (4, 3)).save(folder / "bmp.jpg", "BMP")
    (folder / "svg.jpg").write_text("<svg/>")
    (folder / "empty.jpg").touch()
    for name in ("bmp.jpg", "svg.jpg", "empty.jpg"):
        with pytest.raises(PhotoError, match="not a JPEG, PNG, WebP or GIF"):
            check_photo(name, folder, LIMIT)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("absent.jpg", "no such file"),
        ("pipe.jpg", "not a regular file"),
        (".", "not a regular file"),
        ("../secret.jpg", "outside the folder"),
        ("../photos_more/a.jpg", "outside the folder"),
        ("/etc/passwd", "outside the folder"),
        ("a.jpg/b.jpg", "no such file"),
        ("a\x00.jpg", "not a usable path"),
        ("x" * 5000, "not a usable path"),
        ("\udcff.jpg", "not a usable path"),
    ],
)
def test_unusable_paths_are_refused(folder, path, reason):
    Image.new("RGB", (4, 3)).save(folder.parent / "secret.jpg")
    os.mkfifo(folder / "pipe.jpg")  # opening it would wait for ever
    with pytest.raises(PhotoError, match=reason):
        check_photo(path, folder, LIMIT)


def test_a_link_may_not_leave_the_folder(folder):
    Image.new("RGB", (4, 3)).save(folder.parent / "secret.jpg")
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "in.jpg").symlink_to(folder / "a.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    with pytest.raises(PhotoError, match="outside the folder"):
        check_photo("out.jpg", folder, LIMIT)
    with pytest.raises(PhotoError):
        check_photo("loop.jpg", folder, LIMIT)
    assert check_photo("in.jpg", folder, LIMIT) == (folder / "a.jpg").resolve()


def test_the_folder_may_be_a_link(folder):
    (folder.parent / "link").symlink_to(folder, target_is_directory=True)
    assert check_photo("a.jpg", folder.parent / "link", LIMIT) == (folder / "a.jpg").resolve()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_truncated_photo_is_refused(folder, kind):
    whole = folder / "whole"
    Image.effect_noise((90, 90), 80).convert("RGB").save(whole, kind)
    (folder / "half").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(PhotoError):
        check_photo("half", folder, LIMIT)


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


def test_exactly_the_limit_is_allowed_and_a_missing_photo_is_refused(folder):
    Image.new("L", (100, 100)).save(folder / "b.png")
    assert load_photo(folder / "b.png", LIMIT).size == (100, 100)
    with pytest.raises(PhotoError):
        load_photo(folder / "absent.jpg", LIMIT)


def test_a_photo_is_loaded_upright_and_in_rgb(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (40, 30)).save(folder / "turned.jpg", exif=exif)
    photo = load_photo(folder / "turned.jpg", LIMIT)
    assert photo.size == (30, 40)
    assert photo.mode == "RGB"
    Image.new("RGBA", (4, 3)).save(folder / "clear.png")
    assert load_photo(folder / "clear.png", LIMIT).mode == "RGB"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    magic=st.sampled_from(
        [b"", b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8X"]
    ),
    data=st.binary(max_size=200),
)
def test_any_bytes_are_decoded_or_refused(folder, magic, data):
    (folder / "hostile").write_bytes(magic + data)
    with suppress(PhotoError):
        check_photo("hostile", folder, LIMIT)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 600), byte=st.integers(0, 255))
def test_a_damaged_photo_is_decoded_or_refused(folder, at, byte):
    data = bytearray((folder / "a.jpg").read_bytes())
    data[at % len(data)] = byte
    (folder / "changed.jpg").write_bytes(data)
    with suppress(PhotoError):
        check_photo("changed.jpg", folder, LIMIT)


def test_many_photos_are_checked_once_each(folder, monkeypatch):
    calls = []

    def counted(path, root, max_pixels):
        calls.append(path)
        return check_photo(path, root, max_pixels)

    monkeypatch.setattr("mmrec.data.images.check_photo", counted)
    checked = check_photos([("a.jpg", folder), ("b.jpg", folder), ("a.jpg", folder)], LIMIT)
    assert sorted(calls) == ["a.jpg", "b.jpg"]
    assert checked["a.jpg", folder] == (folder / "a.jpg").resolve()
    assert str(checked["b.jpg", folder]) == "no such file"
