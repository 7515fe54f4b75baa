"""The image formats that are read, and the file name suffixes of them: one list for all inputs."""

from __future__ import annotations

from functools import cache

from PIL import Image

#: Raster formats that Pillow decodes by itself. Not among them: EPS, for which Pillow starts Ghostscript;
#: WMF, BUFR, GRIB, HDF5 and MPEG, which need another program; IPTC, which opens any image inside it.
RASTER_FORMATS = frozenset({
    "AVIF", "BLP", "BMP", "CUR", "DCX", "DDS", "DIB", "FITS", "FLI", "FTEX", "GBR", "GIF", "ICNS", "ICO",
    "IM", "IMT", "JPEG", "JPEG2000", "MCIDAS", "MPO", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD",
    "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
})  # fmt: skip
#: Formats whose header does not bound what decoding takes: images inside the image, or unpacked in Python.
UNBOUNDED_BY_HEADER = frozenset({"BLP", "CUR", "DCX", "FITS", "FTEX", "ICNS", "ICO"})


@cache
def readable_formats() -> tuple[str, ...]:
    """Return the formats that Pillow decodes here, in the order in which Pillow tries them."""
    Image.init()
    return tuple(name for name in Image.ID if name in RASTER_FORMATS)


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of these formats, lower case and without a dot."""
    formats = {*readable_formats(), "MPO"}  # MPO is opened as JPEG
    known = Image.registered_extensions()
    return frozenset(suffix.removeprefix(".") for suffix, kind in known.items() if kind in formats)


def is_image_name(name: str) -> bool:
    """Return whether a file name ends in the suffix of an image."""
    return "." in name and name.lower().rpartition(".")[2] in image_suffixes()
