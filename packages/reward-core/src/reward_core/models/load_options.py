"""Options for loading a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..scoring.device import Device
from ..scoring.precision import check_precision

PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class JudgeOptions:
    """Options of ``load`` for VLM judges, where they are documented."""

    server: str | None = None
    served_model: str | None = None
    template: Any = None
    answer_cache: PathLike | bool = True

    @property
    def given(self) -> list[str]:
        """Names of the options that were given."""
        names = [name for name in ("server", "served_model", "template") if getattr(self, name) is not None]
        return names if self.answer_cache is True else [*names, "answer_cache"]


NO_JUDGE = JudgeOptions()


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
    judge: JudgeOptions = NO_JUDGE

    def __post_init__(self) -> None:
        check_precision(self.precision)
