"""The file name suffixes of images, one list for folders, tars and CSV manifests."""

from __future__ import annotations

from functools import cache

from PIL import Image

#: Formats that Pillow recognizes but cannot decode by itself.
NOT_DECODED = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes, lower case and without a dot, of the formats that Pillow decodes here."""
    known = Image.registered_extensions()  # loads Pillow's readers, so that Image.OPEN is complete
    return frozenset(
        suffix.removeprefix(".")
        for suffix, kind in known.items()
        if kind in Image.OPEN and kind not in NOT_DECODED
    )


def is_image_name(name: str) -> bool:
    """Return whether a file name ends in the suffix of an image."""
    return "." in name and name.lower().rpartition(".")[2] in image_suffixes()
