"""Load scorers by name, folder or file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast, overload

from ..errors import CheckpointError, InputError
from ..files.json_file import read_json
from ..hub.file_specs import is_repo_id
from ..inputs.tokenizer import PromptTokenizer
from ..scoring.device import Device
from ..scoring.scorer_group import ScorerGroup
from ..scoring.scoring_model import ScoringModel
from .checkpoint import MAX_CONFIG_BYTES
from .judges.judge import Judge
from .judges.published import JUDGE_FAMILY, JudgeConfig, any_vlm
from .judges.templates import JudgeTemplate
from .load_group import load_group
from .load_options import NO_JUDGE, JudgeOptions, LoadOptions, PathLike
from .model_files import ModelFiles, files_digest, path_files, published_files
from .model_spec import WEIGHTS_FILE
from .registry import BUILT_IN, all_specs, family_of, find_spec, published_in, unknown_scorer

_REWARD_MODEL = BUILT_IN["ImageReward-v1.0"].family
_BLIP = BUILT_IN["BLIP"].family


class Family(Protocol):
    """A class of scorers, named by `ModelSpec.family`."""

    def load_files(self, files: ModelFiles, options: LoadOptions) -> ScoringModel:
        """Load a scorer from its files, in evaluation mode with frozen parameters."""

    def read_config(self, files: ModelFiles) -> Any:
        """Return the configuration."""

    def find_tokenizer(self, files: ModelFiles, config: Any, options: LoadOptions) -> PromptTokenizer:
        """Return the tokenizer."""


def available_models() -> list[str]:
    """Return the names that ``load`` knows, besides folders, files and hub ids."""
    return list(all_specs())


def available_scores() -> list[str]:
    """Return the names of the scorers that are not reward models of ImageReward (the original's call)."""
    return [name for name, spec in all_specs().items() if spec.family != _REWARD_MODEL]


@overload
def load(  # type: ignore[overload-overlap]  # a string is also a sequence of strings
    name_or_path: PathLike = ...,
    device: Device = ...,
    download_root: PathLike | None = ...,
    med_config: PathLike | dict[str, Any] | None = ...,
    *,
    files: PathLike | None = ...,
    precision: str = ...,
    revision: str | None = ...,
    local_files_only: bool = ...,
    server: str | None = ...,
    served_model: str | None = ...,
    template: PathLike | JudgeTemplate | None = ...,
    answer_cache: PathLike | bool = ...,
) -> ScoringModel: ...


@overload
def load(
    name_or_path: Sequence[PathLike],
    device: Device = ...,
    download_root: PathLike | None = ...,
    *,
    files: PathLike | None = ...,
    precision: str = ...,
    local_files_only: bool = ...,
    server: str | None = ...,
    served_model: str | None = ...,
    template: PathLike | JudgeTemplate | None = ...,
    answer_cache: PathLike | bool = ...,
) -> ScorerGroup: ...


def load(
    name_or_path: PathLike | Sequence[PathLike] = "ImageReward-v1.0",
    device: Device = None,
    download_root: PathLike | None = None,
    med_config: PathLike | dict[str, Any] | None = None,
    *,
    files: PathLike | None = None,
    precision: str = "exact",
    revision: str | None = None,
    local_files_only: bool = False,
    server: str | None = None,
    served_model: str | None = None,
    template: PathLike | JudgeTemplate | None = None,
    answer_cache: PathLike | bool = True,
) -> ScoringModel | ScorerGroup:
    """Load a scorer in evaluation mode with frozen parameters, or a group of scorers.

    A VLM judge has only the methods of ``Scorer``, and ``score_rows`` (docs/judges.md).

    Args:
        name_or_path: one of ``available_models()`` in upper or lower case, a saved folder, a .safetensors
            file, the original's .pt (with config.json and vocab.txt or tokenizer.json in the same folder), or
            the id of a hub repository with a saved folder. A list of these loads a `ScorerGroup`, which
            scores images with all of them and decodes each image once.
        device: device to compute on (default: "cuda" if available, else "mps", else "cpu").
        download_root: folder for downloads (default: the cache of the hub).
        med_config: BERT's configuration (a dict or a JSON file) to use instead of the model's.
        files: folder with local copies of the published files of a scorer with a name; nothing is
            downloaded, except the questions of VisionReward (1 kB) if they are missing.
        precision: "exact" computes in float32 and reproduces the original's scores. "fast" computes the
            encoders in 16 bits where that is faster (a GPU, a CPU with AMX or AVX512-BF16) and compiles steps
            that take much time (or call `ScoringModel.warm_up`). Rewards change by at most a few hundredths
            of their standard deviation (docs/performance.md). "int8" computes the encoders of reward models
            in 8 bits on a CPU with AMX-INT8, AVX512-VNNI or AVX-VNNI, which is faster and less exact. "auto"
            is "fast" on a GPU, else "exact".
        revision: branch, tag or commit of the hub repository.
        local_files_only: use local files only, never the network.
        server: for a VLM judge: URL of an OpenAI-compatible server of the model, such as
            http://localhost:8000/v1. Without it the model is loaded in this process.
        served_model: name of the model on the server (default: its hub id or name).
        template: for a VLM judge: name of a template, a .json or .yaml file, or a JudgeTemplate. With it,
            ``name_or_path`` may be any vision-language model.
        answer_cache: for a VLM judge: whether to store its answers on the disk, or a folder for them.

    Raises:
        InputError: an unknown name, device or precision, "int8" where it is not supported, a list with
            med_config or revision, or a list of several scorers with files.
        ServerError: the server of a VLM judge cannot be used.
        CheckpointError: damaged or missing files; KeyMismatchError if the weights do not match the model.
        HubError: a failed download.
    """
    judge = JudgeOptions(server, served_model, template, answer_cache)
    options = LoadOptions(
        device, download_root, med_config, precision, revision, local_files_only, files, judge
    )
    if not isinstance(name_or_path, (str, os.PathLike)):
        if not isinstance(name_or_path, Sequence):
            raise InputError(
                "Cannot load a model: expected a name, folder or file, or a list of them, got "
                f"{name_or_path!r:.80}. Run `reward-core models` for the names."
            )
        if any(option is not None for option in (med_config, revision)):
            raise InputError(
                "Cannot use med_config or revision with a list of scorers. Load each scorer by itself and "
                "put them into a ScorerGroup."
            )
        if files is not None:
            refuse_several(name_or_path)
        return load_group(name_or_path, lambda source: _load_one(source, options))
    return _load_one(name_or_path, options)


def refuse_several(names: Sequence[PathLike]) -> None:
    """Raise InputError if there are several scorers, which cannot share one folder of files."""
    if len(names) > 1:
        raise InputError(
            f"Cannot use files with {len(names)} models: they are those of one. Leave the other models out, "
            "or load each from its files in Python and put them into a ScorerGroup."
        )


def _load_one(name_or_path: PathLike, options: LoadOptions) -> ScoringModel:
    found, family = _find(name_or_path, options, _REWARD_MODEL)
    return family.load_files(found, options)


def load_score(
    name_or_path: PathLike = "BLIP",
    device: Device = None,
    download_root: PathLike | None = None,
    *,
    files: PathLike | None = None,
    precision: str = "exact",
    revision: str | None = None,
    local_files_only: bool = False,
) -> ScoringModel:
    """Load a scorer as ``load`` does; the original's call for its baselines.

    The only differences are the default name, and that weights without a model_type in a config.json beside
    them are BLIP's.
    """
    options = LoadOptions(device, download_root, None, precision, revision, local_files_only, files)
    found, family = _find(name_or_path, options, _BLIP)
    return family.load_files(found, options)


def model_digest(
    name_or_path: PathLike, judge: JudgeOptions = NO_JUDGE, files: PathLike | None = None
) -> str:
    """Return a SHA-256 of the files of a scorer: weights, configuration and tokenizer.

    For a VLM judge it is one of the model or server and the template. The files are downloaded if needed. The
    errors are as in ``load``.
    """
    options = LoadOptions(files=files, judge=judge)
    found, family = _find(name_or_path, options, _REWARD_MODEL)
    if isinstance(found.config, JudgeConfig):
        return cast(Judge, family.load_files(found, options)).digest()
    tokenizer = family.find_tokenizer(found, family.read_config(found), options)
    return files_digest(found, tokenizer.to_text())


def _find(name_or_path: PathLike, options: LoadOptions, usual_family: str) -> tuple[ModelFiles, Family]:
    """Return the files and the family of a scorer.

    Args:
        name_or_path: as in ``load``.
        options: as in ``load``.
        usual_family: family of weights without a model_type.
    """
    text = os.fsdecode(name_or_path)
    known = find_spec(name_or_path)
    if known is None and (options.judge.server or options.judge.template):
        known = text, any_vlm(text)
    given = options.judge.given
    if given and (known is None or known[1].family != JUDGE_FAMILY):
        raise InputError(f"Cannot use {given[0]} with {text!r}: it is not a VLM judge. Leave it out.")
    if known is not None:
        name, spec = known
        return published_files(name, spec, options), _imported(spec.family)
    if not os.path.exists(text) and not is_repo_id(text):
        raise unknown_scorer(text)
    _refuse_published(text)
    files = path_files(name_or_path, options)
    return files, _imported(_family_of_folder(files, usual_family))


def _family_of_folder(files: ModelFiles, usual_family: str) -> str:
    """Return the family of a folder by the model_type in its config.json.

    Raises:
        CheckpointError: the model_type is unknown.
    """
    path = files.parts.get("config")
    content = None if path is None else read_json(path, MAX_CONFIG_BYTES)
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if model_type is None:
        return usual_family
    family = family_of(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise CheckpointError(
            f"Cannot load '{path}': no scorer has model_type {model_type!r:.80}. If these are the authors' "
            'files of a scorer with a name, give both: --model NAME --files FOLDER, or load("PickScore", '
            "files=FOLDER). A vision-language model becomes a judge with a template."
        )
    return family


def _refuse_published(folder: str) -> None:
    """Raise CheckpointError if a folder has the published weights of a scorer instead of a saved model."""
    if not os.path.isdir(folder) or os.path.isfile(os.path.join(folder, WEIGHTS_FILE)):
        return
    if (published := published_in(folder)) is not None:
        name, file = published
        raise CheckpointError(
            f"Cannot load '{folder}': it has no {WEIGHTS_FILE}, but the published file {file!r} of {name}. "
            f"Use --model {name} --files {folder}, or load({name!r}, files={folder!r})."
        )


def _imported(family: str) -> Family:
    """Import "module:Object"."""
    module, _, name = family.partition(":")
    return cast(Family, getattr(import_module(module), name))
