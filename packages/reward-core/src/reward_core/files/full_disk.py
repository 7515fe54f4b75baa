"""A full disk as an error that says what to do."""

from __future__ import annotations

import errno
from pathlib import Path

from ..errors import DiskFullError


def raise_if_full(error: BaseException, folder: Path) -> None:
    """Raise DiskFullError if that is what an error, or one behind it, says."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"no space left for {folder}; what was done is kept. Free some and run the same command again"
            ) from error
        seen = seen.__cause__ or seen.__context__
