"""Loading and saving of models of every family."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from ..errors import CheckpointError
from ..files.json_file import read_json
from ..hub.uploads import upload_folder
from ..inputs.tokenizer import PromptTokenizer
from ..network.config import BlipConfig, text_config_from_med_config
from ..scoring.device import usable_device
from ..scoring.precision import encoder_dtype
from ..scoring.scoring_model import ScoringModel
from .checkpoint import CONFIG_FILE, MAX_CONFIG_BYTES, build_model, read_state_dict, save_folder
from .load_options import LoadOptions, PathLike
from .model_files import ModelFiles, find_files, tokenizer_beside
from .model_spec import ModelSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

P = TypeVar("P", bound="Pretrained")


class Pretrained(ScoringModel):
    """A scoring model that can be loaded, saved and uploaded.

    Attributes:
        config_class: configuration class, with ``from_dict`` and ``to_dict``.
        published: models of this family with files on the hub or the web.
        bundled: models of this family that are part of the package.
    """

    config_class: ClassVar[Any]
    published: ClassVar[Mapping[str, ModelSpec]]
    bundled: ClassVar[Mapping[str, str]] = {}

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
        """Load a saved folder or a hub repository with one (see ``reward_core.load``)."""
        options = LoadOptions(device, cache_dir, revision=revision, local_files_only=local_files_only)
        return cls.load_files(find_files(name_or_path, cls.published, cls.bundled, options), options)

    @classmethod
    def load_files(cls: type[P], files: ModelFiles, options: LoadOptions) -> P:
        """Load a model from its files, in evaluation mode with frozen parameters.

        Raises:
            InputError: the device cannot be used.
            CheckpointError: damaged files; KeyMismatchError if the weights do not match the model.
        """
        device = usable_device(options.device)
        state = read_state_dict(files.weights)
        config: Any = files.config or cls.config_beside(files.weights)
        if options.med_config is not None:
            config = _replace_text(config, options.med_config)
        model = build_model(
            cls,
            config,
            cls.rename_weights(state),
            str(files.weights),
            lambda: cls.find_tokenizer(files, config, options),
        )
        model.set_encoder_dtype(encoder_dtype(options.precision, device))
        model.fast = options.precision == "fast" or (options.precision == "auto" and device.type == "cuda")
        model = model.to(device)
        if options.precision == "int8":
            model.use_int8()
        return model

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

    @staticmethod
    def rename_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights under the module names of this family."""
        return state

    @classmethod
    def find_tokenizer(cls, files: ModelFiles, config: Any, options: LoadOptions) -> PromptTokenizer:
        """Return the tokenizer of a model and download it if needed."""
        return tokenizer_beside(
            files.weights, config.max_length, options.download_root, options.local_files_only
        )

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


def _replace_text(config: BlipConfig, med_config: PathLike | dict[str, Any]) -> BlipConfig:
    if not isinstance(med_config, dict) and not os.path.isfile(med_config):
        raise CheckpointError(f"Cannot read med_config from '{os.fsdecode(med_config)}': no such file.")
    source = med_config if isinstance(med_config, dict) else Path(med_config)
    config = replace(config, text=text_config_from_med_config(source))
    try:
        config.check()
    except ValueError as error:
        raise CheckpointError(f"Cannot use med_config: {error}.") from error
    return config
