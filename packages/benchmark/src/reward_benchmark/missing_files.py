"""The files that a run needs and this machine does not have: sizes, addresses and target paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reward_core.hub.file_specs import HubFile, WebFile
from reward_core.hub.local_files import address, copy_target, download_command, local_path
from reward_core.models.registry import find_spec

from .download import PROMPTS, RANKINGS, TextFile, zip_file
from .suites import SuiteOptions, table1, table3


@dataclass(frozen=True)
class MissingFile:
    """A file to download elsewhere. size: such as "1.79 GB", empty if unknown."""

    address: str
    size: str
    target: Path
    command: str = ""  # that fills the hub's cache

    def __str__(self) -> str:
        command = f" (`{self.command}`)" if self.command else ""
        return f"{self.size or 'size unknown'}: {self.address}{command} -> {self.target}"


def missing_files(suite: str, options: SuiteOptions, scorers: Sequence[str]) -> list[MissingFile]:
    """Return every file that is missing for a suite and its scorers, each once."""
    files = [*_data_files(suite, options), *_model_files(scorers)]
    return list(dict.fromkeys(files))


def _data_files(suite: str, options: SuiteOptions) -> Iterator[MissingFile]:
    downloads = options.data / "downloads"
    if suite == "table1":
        yield from _text_file(PROMPTS, options.data)
        for name in table1.generator_names(options):
            if name in table1.paper.TABLE1 and table1.find_generator_folder(name, options) is None:
                yield from _file(zip_file(f"generations/{name}.zip"), downloads)
    elif suite == "table3":
        yield from _text_file(RANKINGS, options.data)
        if not (options.data / table3.FOLDER).is_dir():
            yield from _file(zip_file("test_images.zip"), downloads)


def _model_files(scorers: Sequence[str]) -> Iterator[MissingFile]:
    for name in scorers:
        known = find_spec(name)
        for file in known[1].downloads() if known is not None else []:
            yield from _file(file)


def _text_file(file: TextFile, folder: Path) -> Iterator[MissingFile]:
    yield from _file(WebFile(file.address, file.name, file.sha256, size=file.size), folder)


def _file(file: HubFile | WebFile, folder: Path | None = None) -> Iterator[MissingFile]:
    if local_path(file, folder) is not None:
        return
    command = download_command([file]) if isinstance(file, HubFile) and folder is None else ""
    yield MissingFile(address(file), file.size, copy_target(file, folder), command)
