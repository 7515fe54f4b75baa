"""Small images with texts in their metadata, and manual parsers of image files."""

import io
import struct

from PIL import Image, PngImagePlugin

INFOTEXT = (
    "a red circle, <lora:shapes:0.8> (very round:1.3),\nsharp\nNegative prompt: blue: yes, ugly\n"
    'Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 8x8, Lora hashes: "a: 1, b: 2", Version: 1.10'
)
PROMPT = "a red circle, very round, sharp"
OTHER = "Grüße, 世界"  # not Latin-1


def sample_image():
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
    """Save an image with texts in the metadata of its format."""
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        for key, text in (texts or {}).items():
            if text.isascii():
                info.add_text(key, text)
            else:
                info.add_itxt(key, text, "de", key)
        sample_image().save(path, pnginfo=info, **options)
    else:
        sample_image().save(
            path, exif=user_comment(texts["parameters"]) if texts else Image.Exif(), **options
        )
    return path


def parts(path):
    """Return the chunks or segments of a file, parsed manually, and the bytes after them."""
    data, found = path.read_bytes(), []
    if path.suffix == ".png":
        offset, size, tail = 8, 4, 12
    elif path.suffix == ".webp":
        offset = 12
    else:
        offset = 2
    while offset < len(data):
        if path.suffix == ".png":
            (length,) = struct.unpack_from(">I", data, offset)
            found.append((data[offset + 4 : offset + 8], data[offset + size : offset + tail + length]))
            offset += 12 + length
            if found[-1][0] == b"IEND":
                break
        elif path.suffix == ".webp":
            (length,) = struct.unpack_from("<I", data, offset + 4)
            found.append((data[offset : offset + 4], data[offset + 8 : offset + 8 + length]))
            offset += 8 + length + length % 2
        else:
            if data[offset + 1] == 0xDA:
                break
            (length,) = struct.unpack_from(">H", data, offset + 2)
            found.append((data[offset + 1], data[offset : offset + 2 + length]))
            offset += 2 + length
    return found, data[offset:]


def changed_parts(before, after):
    """Return the parts that only one file has, in order; all other parts must have the same order."""
    (old, old_rest), (new, new_rest) = before, after
    assert old_rest == new_rest
    removed, added = [p for p in old if p not in new], [p for p in new if p not in old]
    assert [p for p in old if p in new] == [p for p in new if p in old]
    return removed, added


def pixels(path):
    with Image.open(path) as image:
        return image.convert("RGBA").tobytes()


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg_bytes(size, seed, **options):
    stream = io.BytesIO()
    Image.effect_noise(size, 40 + 30 * seed).convert("RGB").save(stream, "JPEG", **options)
    return stream.getvalue()


def several_images(path, order="<", before=b"", behind=b"", count=2, trailer=b""):
    """Save a JPEG of several images, with segments before and after its MPF index; return the images."""
    first, *others = (jpeg_bytes((40 + 8 * i, 24), i) for i in range(count))
    header_size = 8 + 2 + 3 * 12 + 4
    start = len(first[:20] + before) + 8  # start of the TIFF header of the index
    first_size = len(first + before + behind) + 8 + header_size + 16 * count
    sizes, entries, position = [first_size, *map(len, others)], b"", 0
    for i, size in enumerate(sizes):
        entries += struct.pack(
            order + "IIIHH", 0x030000 if i == 0 else 0, size, position and position - start, 0, 0
        )
        position += size
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, 3)
    tiff += struct.pack(order + "HHI", 0xB000, 7, 4) + b"0100"
    tiff += struct.pack(order + "HHII", 0xB001, 4, 1, count)
    tiff += struct.pack(order + "HHIII", 0xB002, 7, len(entries), header_size, 0) + entries
    first = first[:20] + before + segment(0xE2, b"MPF\0" + tiff) + behind + first[20:]
    path.write_bytes(first + b"".join(others) + trailer)
    return [first, *others]


def indexed_images(path):
    """Return the bytes of every image at the position given in the file's MPF index."""
    data = path.read_bytes()
    start = data.index(b"MPF\0") + 4
    order = "<" if data[start : start + 2] == b"II" else ">"
    (directory,) = struct.unpack_from(order + "I", data, start + 4)
    (count,) = struct.unpack_from(order + "H", data, start + directory)
    for at in range(start + directory + 2, start + directory + 2 + 12 * count, 12):
        tag, _, length, position = struct.unpack_from(order + "HHII", data, at)
        if tag == 0xB002:
            break
    entries = struct.iter_unpack(order + "4xII4x", data[start + position : start + position + length])
    return [data[(at := offset and start + offset) : at + size] for size, offset in entries]


def frames(path):
    """Return the pixels of every image of a file, read with Pillow."""
    with Image.open(path) as image:
        found = []
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            found.append((image.size, image.convert("RGB").tobytes()))
        return found
