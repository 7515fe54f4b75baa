"""A benchmark run: images, scores, tables and files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reward_core.errors import InputError
from reward_core.files.atomic_write import write_text
from reward_core.files.full_disk import raise_if_full
from reward_core.models.load_options import NO_JUDGE, JudgeOptions
from reward_core.runs.run_lock import folder_lock

from .environment import environment
from .results import SuiteSummary
from .run_files import (
    LOCK_FILE,
    MARKDOWN_FILE,
    SCORES_FILE,
    SUMMARY_FILE,
    RunSettings,
    check_settings,
    read_summary,
    write_groups,
    write_summary,
)
from .score_store import ScoreStore
from .score_suite import score_suite
from .scorers import load_bundle, may_be_judge
from .suites import SUITES, Part, SuiteOptions, build_suite
from .summary import summarize
from .tables import report_markdown


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run.

    Attributes:
        suite: name of the suite: table1, table3 or shapes.
        out: output folder; the run writes to its subfolder named after the suite.
        data: folder of the images; None: ``out/SUITE/data``.
        scorers: names of the scorers; None: those of the suite.
        generators: generators of Table 1; "default" for the paper's six, "all" for all in the data folder.
        limit: maximum number of prompts; None: all.
        device: comma-separated device names; None: the default device.
        precision: precision of the scorers.
        batch_size: images per batch; None: the scorer's default.
        offline: use local files only.
        judge: options of the scorers that are VLM judges.
    """

    suite: str
    out: Path
    data: Path | None = None
    scorers: tuple[str, ...] | None = None
    generators: tuple[str, ...] = ("default",)
    limit: int | None = None
    device: str | None = None
    precision: str = "exact"
    batch_size: int | None = None
    offline: bool = False
    judge: JudgeOptions = NO_JUDGE

    @property
    def folder(self) -> Path:
        """The folder of this run, ``out/SUITE``."""
        return self.out / self.suite

    @property
    def data_folder(self) -> Path:
        """The folder of the images, absolute."""
        return (self.data or self.folder / "data").resolve()


def run(config: RunConfig) -> SuiteSummary:
    """Run a suite, or resume an interrupted run.

    Returns:
        The summary, which is also written to ``out/SUITE/summary.json``.

    Raises:
        InputError: an unknown name, no image could be scored, or the folder has scores of other settings.
        OutputError: another run is using the folder.
        DiskFullError: no space is left; finished scores are kept.
        HubError, CheckpointError: data or a model cannot be loaded.
    """
    if config.suite not in SUITES:
        raise InputError(f"Cannot run the suite {config.suite!r}: unknown. Use one of {', '.join(SUITES)}.")
    try:
        with folder_lock(config.folder, LOCK_FILE):
            return _run(config)
    except OSError as error:
        raise_if_full(error, config.folder)
        raise


def _run(config: RunConfig) -> SuiteSummary:
    folder, data = config.folder, config.data_folder
    with ScoreStore(folder / SCORES_FILE) as store:
        settings = RunSettings(config.precision, str(data), _judge_setting(config))
        check_settings(folder, settings, bool(store.rows))
        parts = build_suite(config.suite, SuiteOptions(data, config.limit, config.generators, config.offline))
        scorers = _scorers(config, parts)
        load = partial(load_bundle, precision=config.precision, offline=config.offline, judge=config.judge)
        devices = config.device.split(",") if config.device else [None]
        sources = score_suite(parts, scorers, store, load, devices, config.batch_size)
        rows = dict(store.rows)
    try:
        tables = summarize(parts, scorers, rows)
    except ValueError as error:
        raise InputError(f"{error} The suite is {config.suite!r}.") from error
    run_environment = environment(config.device, config.precision) | _weights(folder, scorers, sources)
    summary = SuiteSummary(config.suite, config.limit, str(data), run_environment, tables)
    write_groups(folder, parts)
    write_summary(folder, summary)
    write_text(folder / MARKDOWN_FILE, report_markdown(summary))
    return summary


def _judge_setting(config: RunConfig) -> str | None:
    """Return what the scores of VLM judges depend on, if it was given.

    Raises:
        InputError: no scorer of the run can be a judge.
    """
    judge = config.judge
    if not judge.given:
        return None
    if not any(map(may_be_judge, config.scorers or ())):
        raise InputError(
            f"Cannot use {judge.given[0]}: none of the scorers is a VLM judge. Name one with --scorers."
        )
    parts = {"model": judge.served_model, "template": judge.template, "server": judge.server}
    return ", ".join(f"{name} {value}" for name, value in parts.items() if value is not None) or None


def _weights(folder: Path, scorers: list[str], loaded: dict[str, str]) -> dict[str, str]:
    """Return "weights of SCORER" -> origin. Scorers that were not loaded again keep that of the last run."""
    before = read_summary(folder).environment if (folder / SUMMARY_FILE).is_file() else {}
    keys = {name: f"weights of {name}" for name in scorers}
    known = {name: loaded.get(name) or before.get(key) for name, key in keys.items()}
    return {keys[name]: source for name, source in known.items() if source}


def _scorers(config: RunConfig, parts: list[Part]) -> list[str]:
    scorers = list(dict.fromkeys(config.scorers or SUITES[config.suite]))
    for part in parts:
        if part.reference_scorer and part.reference_scorer not in scorers:
            scorers.insert(0, part.reference_scorer)  # its ranks are the reference
    return scorers
