"""The memory of a PIL image as an array, without a copy.

Copying pixels out of Pillow holds Python's lock. With many decoding threads that would limit all of them
together. Pillow 11.3 and later export their memory in Arrow's C format instead.
"""

from __future__ import annotations

import ctypes

import numpy as np
from PIL import Image


class _ArrowArray(ctypes.Structure):
    """Arrow's C data interface (https://arrow.apache.org/docs/format/CDataInterface.html)."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
    ("dictionary", ctypes.c_void_p),
    ("release", ctypes.c_void_p),
    ("private_data", ctypes.c_void_p),
]

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def rgb_memory(image: Image.Image) -> np.ndarray:
    """Return the levels of a decoded RGB image, without a copy if possible.

    Returns:
        (H, W, 3) uint8, or (H, W, 4) with an unused fourth channel. Valid as long as the image.
    """
    memory = _rgbx_view(image)
    return np.asarray(image) if memory is None else memory


def _rgbx_view(image: Image.Image) -> np.ndarray | None:
    """Return Pillow's memory of an RGB image, (H, W, 4) uint8; None if it is not available as one block.

    The array is valid as long as the image.
    """
    export = getattr(image, "__arrow_c_array__", None)
    if export is None:
        return None
    try:
        _, capsule = export()
    except (ValueError, MemoryError):  # several blocks of memory
        return None
    pixels = _ArrowArray.from_address(_pointer_of(capsule, b"arrow_array"))
    if pixels.length != image.width * image.height or pixels.n_children != 1 or pixels.offset:
        return None
    levels = pixels.children[0].contents
    shape = (image.height, image.width, 4)
    if levels.length != shape[0] * shape[1] * 4 or levels.n_buffers != 2 or levels.offset:
        return None
    view = np.frombuffer((ctypes.c_uint8 * levels.length).from_address(levels.buffers[1]), dtype=np.uint8)
    return view.reshape(shape)
