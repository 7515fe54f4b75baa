"""A full disk as an error that says what to do."""

from __future__ import annotations

import errno
from pathlib import Path

from ..errors import DiskFullError

# No space on the disk, the user's quota is used up, or a file is larger than the disk or a limit allows.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def raise_if_full(error: BaseException, folder: Path) -> None:
    """Raise DiskFullError if an error, or one of its causes, is that of a full disk.

    Args:
        folder: where a run writes.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            raise DiskFullError(
                f"Cannot write to '{folder}': no space left ({seen.strerror}). What is finished is kept: "
                "free some space, then run the same command again."
            ) from error
        seen = seen.__cause__ or seen.__context__
