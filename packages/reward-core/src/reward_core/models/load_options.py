"""Options for loading a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..scoring.device import Device
from ..scoring.precision import check_precision

PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class LoadOptions:
    """Options of ``load`` and ``load_score``, where they are documented.

    Raises:
        InputError: an unknown precision.
    """

    device: Device = None
    download_root: PathLike | None = None
    med_config: PathLike | dict[str, Any] | None = None
    precision: str = "exact"
    revision: str | None = None
    local_files_only: bool = False
    files: PathLike | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
