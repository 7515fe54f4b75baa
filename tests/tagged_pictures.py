"""Small pictures with texts in their metadata, and files taken apart by hand."""

import struct

from PIL import Image, PngImagePlugin

INFOTEXT = (
    "a red circle, <lora:shapes:0.8> (very round:1.3),\nsharp\nNegative prompt: blue: yes, ugly\n"
    'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 8x8, Lora hashes: "a: 1, b: 2", Version: 1.10'
)
PROMPT = "a red circle, very round, sharp"
OTHER = "Grüße, 世界"  # no Latin-1


def picture():
    image = Image.effect_noise((40, 24), 80).convert("RGB")
    image.paste((200, 30, 60), (4, 4, 20, 20))
    return image


def user_comment(text, encoding="utf-16-be", code=b"UNICODE\0", extra=()):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = code + text.encode(encoding)
    for tag, value in extra:
        exif[tag] = value
    return exif


def save(path, texts=None, **options):
    """A picture with texts in the way its format has them."""
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        for key, text in (texts or {}).items():
            if text.isascii():
                info.add_text(key, text)
            else:
                info.add_itxt(key, text, "de", key)
        picture().save(path, pnginfo=info, **options)
    else:
        picture().save(path, exif=user_comment(texts["parameters"]) if texts else Image.Exif(), **options)
    return path


def parts(path):
    """The chunks or segments of a file, taken apart by hand, and what stands behind them."""
    data, found = path.read_bytes(), []
    if path.suffix == ".png":
        place, size, tail = 8, 4, 12
    elif path.suffix == ".webp":
        place = 12
    else:
        place = 2
    while place < len(data):
        if path.suffix == ".png":
            (length,) = struct.unpack_from(">I", data, place)
            found.append((data[place + 4 : place + 8], data[place + size : place + tail + length]))
            place += 12 + length
            if found[-1][0] == b"IEND":
                break
        elif path.suffix == ".webp":
            (length,) = struct.unpack_from("<I", data, place + 4)
            found.append((data[place : place + 4], data[place + 8 : place + 8 + length]))
            place += 8 + length + length % 2
        else:
            if data[place + 1] == 0xDA:
                break
            (length,) = struct.unpack_from(">H", data, place + 2)
            found.append((data[place + 1], data[place : place + 2 + length]))
            place += 2 + length
    return found, data[place:]


def changed_parts(before, after):
    """Parts that are not in both files, in the order of the file; all others must stand in the same order."""
    (old, old_rest), (new, new_rest) = before, after
    assert old_rest == new_rest
    gone, come = [p for p in old if p not in new], [p for p in new if p not in old]
    assert [p for p in old if p in new] == [p for p in new if p in old]
    return gone, come


def pixels(path):
    with Image.open(path) as image:
        return image.convert("RGBA").tobytes()
