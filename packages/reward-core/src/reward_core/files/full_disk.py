"""Conversion of errors of a full disk to DiskFullError."""

from __future__ import annotations

import errno
from pathlib import Path

from ..errors import DiskFullError

# The disk is full, the quota of the user is used up, or a file is larger than allowed.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def raise_if_full(error: BaseException, folder: Path) -> None:
    """Raise DiskFullError if an error or one of its causes comes from a full disk.

    Args:
        error: the error to check.
        folder: folder that a run writes to.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            raise DiskFullError(
                f"Cannot write to '{folder}': no space left ({cause.strerror}). Finished work is kept. Free "
                "some space, then run the same command again."
            ) from error
        cause = cause.__cause__ or cause.__context__
