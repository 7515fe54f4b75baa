"""Prompts in the wrong encoding for their field: read if it is certain, otherwise refused."""

import struct
import zlib

import pytest
from tagged_images import PROMPT, sample_image, save, user_comment

from reward_core.errors import ImageError
from reward_core.metadata import SCORE_KEY, read_prompt, read_score, read_texts, write_score

SETTINGS = "\nNegative prompt: blurred\nSteps: 20, Sampler: Euler a, Seed: 1"
JAPANESE = "青い船 by the sea"


def with_text_chunk(path, keyword, content, kind=b"tEXt"):
    """Return a PNG file with these bytes in a text chunk."""
    data = save(path).read_bytes()
    body = kind + keyword + b"\0" + (b"\0" + zlib.compress(content) if kind == b"zTXt" else content)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data[:33] + chunk + data[33:])
    return path


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt"])
@pytest.mark.parametrize(
    ("content", "read"),
    [
        ((JAPANESE + SETTINGS).encode(), JAPANESE),
        ("a sailor’s café".encode(), "a sailor’s café"),
        ("ein süßer Köter, naïveté créée".encode("latin-1"), "ein süßer Köter, naïveté créée"),
    ],
)
def test_utf_8_in_latin_1_chunks_of_png(tmp_path, kind, content, read):
    path = with_text_chunk(tmp_path / "a.png", b"parameters", content, kind)
    assert read_prompt(path).text == read
    before = read_texts(path)["parameters"]
    write_score(path, SCORE_KEY, 0.5)
    assert read_prompt(path).text == read
    assert read_score(path, SCORE_KEY) == 0.5
    assert read_texts(path)["parameters"].startswith(before)
    assert content.split(b"\n")[0] in path.read_bytes() or kind == b"zTXt"


@pytest.mark.parametrize("encoding", ["cp1252", "shift-jis", "gbk"])
def test_legacy_encodings_in_png_are_refused(tmp_path, encoding):
    text = "a sailor’s “boat”" if encoding == "cp1252" else "青い船"
    path = with_text_chunk(tmp_path / "a.png", b"Description", text.encode(encoding))
    with pytest.raises(ImageError, match="description is in an unknown encoding"):
        read_prompt(path)


@pytest.mark.parametrize(
    ("code", "encoding"),
    [
        (b"UNICODE\0", "utf-8"),
        (b"UNICODE\0", "utf-8-sig"),
        (b"UNICODE\0", "utf-16"),
        (b"JIS\0\0\0\0\0", "iso2022_jp"),
        (b"JIS\0\0\0\0\0", "utf-8"),
        (b"JIS\0\0\0\0\0", "shift-jis"),
        (b"ASCII\0\0\0", "utf-8"),
        (bytes(8), "utf-16-le"),
        (bytes(8), "utf-16-be"),
        (b"", "utf-8"),
    ],
)
def test_user_comments_whose_encoding_differs_from_their_code(tmp_path, code, encoding):
    sample_image().save(tmp_path / "a.jpg", exif=user_comment(JAPANESE + SETTINGS, encoding, code))
    assert read_prompt(tmp_path / "a.jpg").text == JAPANESE
    write_score(tmp_path / "a.jpg", SCORE_KEY, 0.5)
    assert read_prompt(tmp_path / "a.jpg").text == JAPANESE
    assert read_score(tmp_path / "a.jpg", SCORE_KEY) == 0.5


def test_a_negative_prompt_in_an_unknown_encoding_is_kept_unchanged(tmp_path):
    content = b"a boat\nNegative prompt: " + "青い船".encode("shift-jis") + b"\nSteps: 20, Seed: 1"
    exif = user_comment("", "ascii", b"ASCII\0\0\0" + content)
    sample_image().save(tmp_path / "a.jpg", exif=exif)
    write_score(tmp_path / "a.jpg", SCORE_KEY, 0.5)
    assert read_prompt(tmp_path / "a.jpg").text == "a boat"
    assert content in (tmp_path / "a.jpg").read_bytes()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_captions_in_unicode(tmp_path, encoding):
    save(tmp_path / "a.png")
    for text in ("a red circle", JAPANESE, "a red circle\n"):
        (tmp_path / "a.txt").write_bytes(text.encode(encoding))
        assert read_prompt(tmp_path / "a.png").text == text.strip()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a sailor’s café".encode("cp1252"), "not UTF-8. Save it as UTF-8"),
        ("青い船".encode("shift-jis"), "not UTF-8. Save it as UTF-8"),
        ("青い船".encode("gbk"), "not UTF-8. Save it as UTF-8"),
        (b"a\0b\0\0c", "not UTF-8. Save it as UTF-8"),
        ("a sailor\ufffds boat".encode(), "replacement characters"),
    ],
)
def test_captions_in_an_unknown_encoding_are_refused(tmp_path, content, words):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ImageError, match=f"cannot read its caption 'a.txt': .*{words}"):
        read_prompt(tmp_path / "a.png")
    settings = f"{PROMPT}\nSteps: 20, Seed: 1"  # the image has them, so no caption is needed
    assert read_prompt(save(tmp_path / "a.png", {"parameters": settings})).text == PROMPT


@pytest.mark.parametrize("content", ["青い船".encode("shift-jis"), "a sailor\ufffds boat".encode()])
def test_no_replacement_characters_in_a_prompt(tmp_path, content):
    sample_image().save(tmp_path / "a.jpg", comment=content)
    with pytest.raises(ImageError, match="unknown encoding"):
        read_prompt(tmp_path / "a.jpg")
