"""The image formats that are read, and their file name suffixes."""

from __future__ import annotations

from functools import cache

from PIL import Image

#: Raster formats that Pillow decodes without other programs. Excluded are EPS (starts Ghostscript), WMF,
#: BUFR, GRIB, HDF5 and MPEG (need another program) and IPTC (opens any image inside it).
RASTER_FORMATS = frozenset({
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO",
    "IM", "IMT", "JPEG", "JPEG2000", "MCIDAS", "MPO", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD",
    "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
})  # fmt: skip
FREQUENT_FORMATS = frozenset({"JPEG", "PNG", "WEBP"})
#: Formats whose header does not limit the memory of decoding: they contain images or are unpacked in Python.
UNBOUNDED_BY_HEADER = frozenset({"BLP", "CUR", "DCX", "FITS", "FTEX", "ICNS", "ICO"})


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the formats that the installed Pillow decodes, the most frequent first.

    Pillow tries one format after the other. For some it has to parse the file and catch an exception.
    """
    Image.init()
    installed = [name for name in Image.ID if name in RASTER_FORMATS]
    return tuple(sorted(installed, key=lambda name: name not in FREQUENT_FORMATS))


@cache
def image_suffixes() -> frozenset[str]:
    """Return the file suffixes of these formats, in lower case and without a dot."""
    formats = {*readable_formats(), "MPO"}  # MPO is opened as JPEG
    known = Image.registered_extensions()
    return frozenset(suffix.removeprefix(".") for suffix, kind in known.items() if kind in formats)


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return "." in name and name.lower().rpartition(".")[2] in image_suffixes()
