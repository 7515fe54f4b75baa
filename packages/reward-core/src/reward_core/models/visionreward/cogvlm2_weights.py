"""Load CogVLM2 from the authors' pieces, a SAT folder, transformers' files, or converted weights."""

from __future__ import annotations

from pathlib import Path

import torch

from ...errors import CheckpointError
from ...files.json_file import read_json
from ..checkpoint import MAX_CONFIG_BYTES
from ..cogvlm2.config import CogVlm2Config
from ..cogvlm2.config_files import read_cogvlm2_config
from ..cogvlm2.key_map import check_frequencies, frequency_keys, key_map, published_form, to_own_keys
from ..cogvlm2.network import CogVlm2
from ..model_spec import CONFIG_FILE
from ..sat_archive import CONFIG_MEMBER, SatArchive, check_sums, convert_archive
from ..tensor_files import PIECES, TensorSource, assign_tensors, check_shapes, open_tensors


def load_cogvlm2(
    weights: Path, config_path: Path | None, device: torch.device, dtype: torch.dtype
) -> CogVlm2:
    """Load a network in evaluation mode with frozen parameters.

    Args:
        weights: .safetensors, an .index.json of shards, SAT's .pt, or the first piece of the authors' tar.
        config_path: file with the sizes. By default they are read from a config.json or model_config.json in
            the folder of the weights or in the tar, or else are those of VisionReward-Image.
        device: device of the weights.
        dtype: dtype of the weights.

    Raises:
        CheckpointError: damaged files; KeyMismatchError if the weights do not match the model.
    """
    archive = SatArchive(weights) if weights.match(PIECES) else None
    source = archive.weights if archive is not None else open_tensors(weights)
    config = _find_config(weights, config_path, archive)
    own_keys = _own_keys(source, config, str(weights))
    with torch.device("meta"):
        network = CogVlm2(config)
    assign_tensors(network, source, own_keys, str(weights), lambda _: dtype, device)
    return network.eval().requires_grad_(False)


def convert_pieces(piece: Path, index: Path) -> Path:
    """Convert the authors' pieces to safetensors shards with this package's names, and return their index.

    Args:
        piece: the first piece.
        index: path of the index, in a folder for the shards alone.

    Raises:
        CheckpointError, HubError, DiskFullError: see `convert_archive`. Nothing is left behind.
    """
    try:
        archive = SatArchive(piece)
        config = _find_config(piece, None, archive)
        own_keys = _own_keys(archive.weights, config, archive.name)
        with torch.device("meta"):
            network = CogVlm2(config)
        check_shapes(network, archive.weights.shapes, own_keys, archive.name)
    except CheckpointError:
        check_sums(sorted(piece.parent.glob(PIECES)))  # its error says which file to delete
        raise
    return convert_archive(archive, index.parent, own_keys, config.to_dict())


def _find_config(weights: Path, given: Path | None, archive: SatArchive | None) -> CogVlm2Config:
    if given is None and archive is not None and archive.config is not None:
        return read_cogvlm2_config(archive.config, f"{archive.name}: {CONFIG_MEMBER}")
    # SAT puts the weights into a folder of their own, below its configuration.
    folder = weights.absolute().parent
    beside = (folder / CONFIG_FILE, folder / CONFIG_MEMBER, folder.parent / CONFIG_MEMBER)
    path = given or next(filter(Path.is_file, beside), None)
    if path is None:
        return CogVlm2Config()
    return read_cogvlm2_config(read_json(path, MAX_CONFIG_BYTES), str(path))


def _own_keys(source: TensorSource, config: CogVlm2Config, name: str) -> dict[str, str]:
    """Return the stored key -> the network's key of every weight, after checking that all are known.

    Raises:
        KeyMismatchError: a key is missing or unknown.
        CheckpointError: rotary frequencies of another base than the configuration's, or too few weights.
    """
    if config.layers > len(source.shapes):
        raise CheckpointError(
            f"Cannot load '{name}': its configuration asks for {config.layers:,} layers, but it has "
            f"{len(source.shapes):,} weights."
        )
    form = published_form(source.shapes)
    if form is None and "adapter.begin_of_image" in source.shapes:
        return {key: key for key in source.shapes}
    to_own_keys(
        {key: torch.empty(shape, device="meta") for key, shape in source.shapes.items()}, config, name
    )
    assert form is not None  # or else the line above has raised an error
    for key in frequency_keys(config, form):
        check_frequencies(source.read(key), config, f"{name}: {key}")
    return key_map(config, form)
