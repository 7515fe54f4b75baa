"""Read prompt files, download the original's prompts, and shuffle them for training."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reward_core.files.foreign_bytes import NotReadableError, read_regular
from reward_core.files.json_file import MAX_JSON_BYTES, parse_json
from reward_core.files.tables import TableBudget

from ..errors import ConfigError, PromptFileError

if TYPE_CHECKING:
    import numpy as np

ORIGINAL_ADDRESS = "https://raw.githubusercontent.com/zai-org/ImageReward/main/data/refl_data.json"
ORIGINAL_SHA256 = "47cc5f5c0faa36167c5bd10cdc3aee0b1072147b44d3ae18f77bd98f377ecbb8"
KEYS = ("text", "prompt", "caption")


def read_prompts(file: str | os.PathLike[str]) -> list[str]:
    """Return the prompts of a file in its order, without empty ones.

    Args:
        file: .json (a list of prompts, or of objects with "text", "prompt" or "caption", as in the original),
            .jsonl (one of these per line), .csv or .tsv (with a column of one of these names), or text with
            one prompt per line.

    Raises:
        PromptFileError: the file is missing, empty, or in another format.
    """
    path = Path(file)
    try:
        text = (
            read_regular(path, MAX_JSON_BYTES).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        )
    except NotReadableError as error:
        raise _unreadable(file, f"{error}.") from error
    except OSError as error:
        raise _unreadable(file, f"{error.strerror}.") from error
    except UnicodeDecodeError as error:
        problem = f"it is not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
        raise _unreadable(file, problem) from error
    try:
        # splitlines() would also split at characters such as U+2028, which prompts may contain.
        if path.suffix == ".json":
            entries = parse_json(text)
        elif path.suffix == ".jsonl":
            budget = TableBudget()
            entries = [parse_json(line, budget) for line in text.split("\n") if line.strip()]
        elif path.suffix.lower() in (".csv", ".tsv"):
            _check_size(text)
            entries = _column(file, text, "," if path.suffix.lower() == ".csv" else "\t")
        else:
            _check_size(text)
            entries = text.split("\n")
    except PromptFileError:
        raise
    except ValueError as error:
        kind = "it is not valid JSON: " if path.suffix in (".json", ".jsonl") else ""
        raise _unreadable(file, f"{kind}{error}.") from error
    if not isinstance(entries, list):
        raise _unreadable(file, f"it must contain a list of prompts, contains {type(entries).__name__}.")
    prompts = [_prompt(file, number, entry) for number, entry in enumerate(entries, start=1)]
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise _unreadable(file, "it contains no prompts.")
    return prompts


def _unreadable(file: str | os.PathLike[str], problem: str) -> PromptFileError:
    return PromptFileError(f"Cannot read prompts from '{os.fspath(file)}': {problem}")


def _check_size(text: str) -> None:
    """Raise ValueError if a prompt file has too many lines or cells."""
    TableBudget().take(8 * text.count("\n") + text.count(",") + text.count("\t"), len(text))


def _column(file: str | os.PathLike[str], text: str, delimiter: str) -> list[str]:
    """Return the prompt column of a table with a header."""
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        keys = [key for key in KEYS if key in (rows.fieldnames or ())]
        if not keys:
            header = ", ".join(rows.fieldnames or ()) or "nothing"
            raise _unreadable(
                file, f"its first line must name a column {' or '.join(KEYS)}, it names {header}."
            )
        return [row[keys[0]] or "" for row in rows]
    except csv.Error as error:
        raise _unreadable(file, f"{error} (after line {rows.line_num}).") from error


def _prompt(file: str | os.PathLike[str], number: int, entry: object) -> str:
    if isinstance(entry, dict):
        values = [entry[key] for key in KEYS if key in entry]
        if not values:
            raise _unreadable(file, f"entry {number} has none of {', '.join(KEYS)}.")
        entry = values[0]
    if not isinstance(entry, str):
        raise _unreadable(file, f"entry {number} must be a string, got {type(entry).__name__}.")

    return entry.strip()


def download_prompts(out: str | os.PathLike[str], address: str = ORIGINAL_ADDRESS) -> Path:
    """Download the original's 10,000 prompts, check their sha256, and return the file's path.

    Raises:
        reward_core.errors.HubError: the download failed, or the file has another sha256.
    """
    from reward_core.hub.downloads import fetch
    from reward_core.hub.file_specs import WebFile

    path = Path(out)
    return fetch(WebFile(address, path.name, ORIGINAL_SHA256), path.parent)


@dataclass(frozen=True)
class DataOrder:
    """An endless sequence of ``count`` indices, reshuffled in each epoch. It has no state.

    Attributes:
        count: number of indices, at least 1.
        seed: seed of the shuffles.
    """

    count: int
    seed: int

    def __getitem__(self, index: int) -> int:
        """Return the index at a position of the sequence."""
        epoch, offset = divmod(index, self.count)
        return int(self._permutation(epoch)[offset])

    def _permutation(self, epoch: int) -> np.ndarray:
        import numpy as np  # slow to import, and most commands only read prompts

        cached = _PERMUTATIONS.get((self.count, self.seed))
        if cached is None or cached[0] != epoch:
            order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.count)
            cached = _PERMUTATIONS[self.count, self.seed] = (epoch, order)
        return cached[1]


@dataclass(frozen=True)
class Batches:
    """Which samples and prompts each microstep uses, on every rank.

    Sample i of the endless sequence uses prompt ``order[i // group]``.

    Attributes:
        prompts: the training prompts.
        seed: seed of their order.
        batch_size: images per process and microstep.
        accumulation: microsteps per optimizer step.
        ranks: number of processes.
        rank: number of this process.
        group: images in a row of the same prompt.

    Raises:
        ConfigError: the images of a step are not a multiple of the group.
    """

    prompts: Sequence[str]
    seed: int
    batch_size: int
    accumulation: int = 1
    ranks: int = 1
    rank: int = 0
    group: int = 1

    def __post_init__(self) -> None:
        if self.images % self.group:
            raise ConfigError(
                f"Cannot train with {self.images} images per step (run.batch_size={self.batch_size} x "
                f"run.accumulation={self.accumulation} x {self.ranks} processes): they must be a multiple of "
                f"strategy.group={self.group}. Change one of these settings."
            )

    @property
    def images(self) -> int:
        """Images per optimizer step on all ranks."""
        return self.batch_size * self.accumulation * self.ranks

    def indices(self, step: int, micro: int, batch_size: int = 0) -> list[int]:
        """Return this rank's sample indices of a microstep; of another batch size if one is given."""
        batch_size = batch_size or self.batch_size
        first = ((step * self.accumulation + micro) * self.ranks + self.rank) * batch_size
        return list(range(first, first + batch_size))

    def prompts_of(self, indices: Sequence[int]) -> list[str]:
        """Return the prompts of samples."""
        order = DataOrder(len(self.prompts), self.seed)
        return [self.prompts[order[index // self.group]] for index in indices]


_PERMUTATIONS: dict[tuple[int, int], tuple[int, np.ndarray]] = {}  # that of the latest epoch
