"""Loading and saving of models of every family."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..errors import CheckpointError, InputError
from ..files.json_file import read_json
from ..hub.downloads import fetch
from ..hub.file_specs import HubFile, is_repo_id
from ..hub.uploads import upload_folder
from ..inputs.tokenizer import PromptTokenizer
from ..network.config import BlipConfig, text_config_from_med_config
from ..network.field_checks import checked
from ..scoring.device import usable_device
from ..scoring.precision import encoder_dtype
from ..scoring.scoring_model import ScoringModel
from .checkpoint import MAX_CONFIG_BYTES, build_model, read_state_dict, save_folder, share_weights
from .load_options import LoadOptions, PathLike
from .model_files import ModelFiles, path_files, published_files
from .model_spec import CONFIG_FILE, VOCABULARY, ModelSpec
from .names import match_name, unknown_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

P = TypeVar("P", bound="Pretrained")


class Pretrained(ScoringModel):
    """A scoring model that can be loaded, saved and uploaded.

    Attributes:
        config_class: configuration class, with ``from_dict`` and ``to_dict``.
        published: scorers of this family by name.
        tokenizer_class: class of the tokenizer, with ``from_file``.
        vocabulary: tokenizer file for weights without one in their folder.
        settings: fields of the configuration that ``with_settings`` can change.
    """

    config_class: ClassVar[Any]
    published: ClassVar[Mapping[str, ModelSpec]]
    tokenizer_class: ClassVar[type[PromptTokenizer]] = PromptTokenizer
    vocabulary: ClassVar[HubFile] = VOCABULARY
    settings: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_pretrained(
        cls: type[P],
        name_or_path: PathLike,
        *,
        device: str | torch.device | None = None,
        cache_dir: PathLike | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> P:
        """Load a model of this family by name, folder, file or hub repository (see ``reward_core.load``)."""
        options = LoadOptions(device, cache_dir, revision=revision, local_files_only=local_files_only)
        name = os.fsdecode(name_or_path)
        known = name if name in cls.published or os.path.exists(name) else match_name(name, cls.published)
        if known is not None and known in cls.published:
            return cls.load_files(published_files(known, cls.published[known], options), options)
        if not os.path.exists(name) and not is_repo_id(name):
            raise unknown_name(name, cls.published)
        return cls.load_files(path_files(name, options), options)

    @classmethod
    def load_files(cls: type[P], files: ModelFiles, options: LoadOptions) -> P:
        """Load a model from its files, in evaluation mode with frozen parameters.

        Raises:
            InputError: the device cannot be used.
            CheckpointError: damaged files; KeyMismatchError if the weights do not match the model.
        """
        device = usable_device(options.device)
        state = cls.read_weights(files)
        config: Any = cls.read_config(files)
        if options.med_config is not None:
            config = _replace_text(config, options.med_config)
        model = build_model(
            cls, config, state, str(files.weights), lambda: cls.find_tokenizer(files, config, options)
        )
        model.set_encoder_dtype(encoder_dtype(options.precision, device))
        model.fast = options.precision == "fast" or (options.precision == "auto" and device.type == "cuda")
        model.source = files.source
        return model.to(device)

    @classmethod
    def read_weights(cls, files: ModelFiles) -> dict[str, Tensor]:
        """Return the weights of all parts under the module names of this family."""
        return cls.rename_weights(read_state_dict(files.weights))

    @staticmethod
    def rename_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights under the module names of this family."""
        return state

    @classmethod
    def read_config(cls, files: ModelFiles) -> Any:
        """Return the configuration: from the part "config", or else the published or default one."""
        path = files.parts.get("config")
        if path is None:
            return files.config or cls.default_config()
        return cls.config_from_file(read_json(path, MAX_CONFIG_BYTES), str(path), files.config)

    @classmethod
    def config_from_file(cls, content: Any, source: str, published: Any) -> Any:
        """Return the configuration for the content of a configuration file.

        Args:
            content: the JSON content, in this package's format or the authors'.
            source: path of the file in errors.
            published: configuration of the scorer with a name, for what the authors' file does not say; None
                for a folder without a name.
        """
        return cls.config_class.from_dict(content, source)

    @classmethod
    def config_beside(cls, weights: Path) -> Any:
        """Return the config.json in the folder of the weights, or else ``default_config``."""
        path = weights.parent / CONFIG_FILE
        if path.is_file():
            return cls.config_class.from_dict(read_json(path, MAX_CONFIG_BYTES), str(path))
        return cls.default_config()

    @classmethod
    def default_config(cls) -> Any:
        """Return the configuration of weights without a config.json."""
        return cls.config_class()

    @classmethod
    def find_tokenizer(cls, files: ModelFiles, config: Any, options: LoadOptions) -> PromptTokenizer:
        """Return the tokenizer of a model and download it if needed."""
        path = files.parts.get("tokenizer")
        if path is None:
            path = fetch(cls.vocabulary, options.download_root, local_files_only=options.local_files_only)
        return cls.tokenizer_class.from_file(path, config.max_length)

    def with_settings(self: P, **settings: Any) -> P:
        """Return a scorer that shares the weights of this one and computes another variant of its score.

        Args:
            settings: fields of ``config``, such as ``threshold=0.01`` of MPS or
                ``antialias=False`` of HPSv2.1.

        Raises:
            InputError: a setting that this scorer does not have, or an invalid value.
        """
        if unknown := sorted(set(settings) - set(self.settings)):
            known = ", ".join(self.settings) or "none"
            raise InputError(
                f"Cannot change the settings {unknown} of {type(self).__name__}: it has {known}."
            )
        try:
            checks = {key: checked(type(self.config), key, value) for key, value in settings.items()}
            config = replace(self.config, **checks)
            config.check()
        except (TypeError, ValueError) as error:
            raise InputError(f"Cannot change the settings: {error}.") from error
        return share_weights(self, config)

    def save_pretrained(self, folder: PathLike) -> None:
        """Write config, weights and tokenizer to a folder that loads offline."""
        save_folder(self, Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload reward model",
    ) -> str:
        """Upload the model to a hub repository (created if needed).

        Returns:
            URL of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            save_folder(self, Path(folder))
            return upload_folder(Path(folder), repo_id, private, token, revision, commit_message)


def _replace_text(config: Any, med_config: PathLike | dict[str, Any]) -> BlipConfig:
    if not isinstance(config, BlipConfig):
        raise InputError(
            "Cannot use med_config: this model does not have BERT as text encoder. Leave it out."
        )
    if not isinstance(med_config, dict) and not os.path.isfile(med_config):
        raise CheckpointError(f"Cannot read med_config from '{os.fsdecode(med_config)}': no such file.")
    source = med_config if isinstance(med_config, dict) else Path(med_config)
    config = replace(config, text=text_config_from_med_config(source))
    try:
        config.check()
    except ValueError as error:
        raise CheckpointError(f"Cannot use med_config: {error}.") from error
    return config
