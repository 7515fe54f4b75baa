"""pyarrow, or an error that says how to install it."""

from __future__ import annotations

from ..errors import InputError


def load_pyarrow():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError('a .parquet file needs pyarrow: pip install "reward-core[parquet]"') from error
    return pyarrow
