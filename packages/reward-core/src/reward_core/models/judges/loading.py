"""Load judges: the model on a server or in this process, the template, the stored answers."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import cast

from ...errors import InputError
from ...hub.downloads import fetch_repository
from ...hub.file_specs import HubFile, is_repo_id
from ...hub.local_files import local_path
from ...scoring.model_source import ModelSource
from ..load_options import LoadOptions
from ..model_files import ModelFiles
from ..scorer_facts import License
from .answer_cache import AnswerCache
from .answers import VLM
from .built_in import TEMPLATES
from .judge import Judge, PointwiseJudge
from .local_vlm import LocalVLM
from .pairwise import PairwiseJudge
from .published import JudgeConfig
from .server import ServerVLM, served_model
from .server_requests import ServerRequests
from .templates import PAIRWISE, JudgeTemplate, find_template

logger = logging.getLogger(__name__)

# Weights, configurations, tokenizers, processors and chat templates.
_FILES = ("*.safetensors", "*.json", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model")


class JudgeLoader:
    """The loader that the specifications of judges name."""

    @classmethod
    def load_files(cls, files: ModelFiles, options: LoadOptions) -> Judge:
        """Load a judge.

        Raises:
            InputError: an unknown template, an invalid URL, or options that do not fit.
            ServerError: the server cannot be reached, or does not serve the model.
            HubError: a failed download. CheckpointError: a folder without a model.
        """
        config = cast(JudgeConfig, files.config)
        template = _template(config, options)
        name, cache = files.source.name, _cache(options.judge.answer_cache)
        if options.judge.server is not None:
            return make_judge(template, _served(config, options), name=name, cache=cache)
        vlm, source = _local(config, files, options)
        return make_judge(template, vlm, name=name, cache=cache, source=source)


def make_judge(
    template: JudgeTemplate,
    vlm: VLM,
    *,
    name: str = "",
    cache: AnswerCache | None = None,
    source: ModelSource | None = None,
) -> Judge:
    """Return the judge for a template. Args are as in `Judge`."""
    kind = PairwiseJudge if template.kind == PAIRWISE else PointwiseJudge
    return kind(template, vlm, name=name, cache=cache, source=source)


def _template(config: JudgeConfig, options: LoadOptions) -> JudgeTemplate:
    template = options.judge.template or config.template
    if not template:
        raise InputError(
            f"Cannot use {config.model!r} as a judge without a template. Give one: a file, or "
            f"{' or '.join(TEMPLATES)}."
        )
    return find_template(template, TEMPLATES)


def _cache(given: str | os.PathLike[str] | bool) -> AnswerCache | None:
    if isinstance(given, bool):
        return AnswerCache() if given else None
    return AnswerCache(given)


def _served(config: JudgeConfig, options: LoadOptions) -> ServerVLM:
    if options.files is not None:
        raise InputError("Cannot use both files and server: the server has the model. Give one of them.")
    requests = ServerRequests(options.judge.server or "")
    name = options.judge.served_model
    short = config.model.rpartition("/")[2]
    expected = [name] if name is not None else list(dict.fromkeys([config.model, short]))
    return ServerVLM(requests, served_model(requests, expected), fields=config.server_fields)


def _local(config: JudgeConfig, files: ModelFiles, options: LoadOptions) -> tuple[LocalVLM, ModelSource]:
    if options.judge.served_model is not None:
        raise InputError("Cannot use served_model without server. Add the URL of the server.")
    if options.files is not None or os.path.isdir(config.model):
        folder, name = Path(options.files or config.model), ""
    elif is_repo_id(config.model):
        root, local = options.download_root, options.local_files_only
        if not local and local_path(HubFile(config.model, "config.json", own_folder=True), root) is None:
            logger.info("downloading %s: %s", config.model, License().in_words())
        folder, name = fetch_repository(config.model, _FILES, root, options.revision, local), config.model
    else:
        raise InputError(
            f"Cannot find the VLM {config.model!r}: it is neither a folder nor the id of a hub repository. "
            "Give one of them, or the URL of a server that has it."
        )
    vlm = LocalVLM(folder, options.device, name)
    return vlm, ModelSource(files.source.name, vlm.weights)
