"""A checkpoint of SwissArmyTransformer (SAT) inside a tar that is published in pieces.

Neither the tar nor the checkpoint in it is written to the disk: the pieces are read as one file, the tar's
headers say where the checkpoint is, and the checkpoint says where each tensor is. The conversion needs space
for the pieces and the converted weights, and memory for one shard.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError, DiskFullError, HubError, OutputError
from ..files.atomic_write import atomic_folder
from ..files.foreign_bytes import guarded, reason
from ..files.joined_files import JoinedFiles, pieces_of
from .model_spec import CONFIG_FILE
from .stored_checkpoint import StoredCheckpoint

logger = logging.getLogger(__name__)

WEIGHTS_MEMBER, CONFIG_MEMBER = "mp_rank_00_model_states.pt", "model_config.json"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 4 * 10**9
MAX_CONFIG_MEMBER = 2**20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class SatArchive:
    """The checkpoint and the configuration in the pieces of a tar.

    Args:
        piece: any of the pieces, NAMEaa, NAMEab, ...; the others are in the same folder.

    Attributes:
        pieces: all pieces in order.
        weights: the checkpoint.
        config: content of model_config.json; None if the tar has none.

    Raises:
        CheckpointError: a piece is missing or damaged, or the tar has no checkpoint.
    """

    def __init__(self, piece: Path) -> None:
        self.name = str(piece.parent)
        try:
            self.pieces = pieces_of(piece)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"Cannot load '{self.name}': the piece {error} is missing. Copy it to the same folder."
            ) from error
        joined = JoinedFiles(self.pieces)
        with guarded(self._damaged), tarfile.open(fileobj=joined, mode="r:") as tar:
            members = [member for member in tar if member.isfile()]
        self.weights = StoredCheckpoint(_member(joined, members, WEIGHTS_MEMBER, self.name), self.name)
        self.config: Any = None
        if any(Path(member.name).name == CONFIG_MEMBER for member in members):
            with guarded(self._damaged):
                content = _member(joined, members, CONFIG_MEMBER, self.name).read(MAX_CONFIG_MEMBER)
                self.config = json.loads(content)

    def _damaged(self, error: BaseException) -> CheckpointError:
        return CheckpointError(
            f"Cannot load '{self.name}': its {len(self.pieces)} pieces are not a complete tar "
            f"({reason(error)}). Download them again."
        )


def check_sums(pieces: Iterable[Path]) -> None:
    """Compare pieces in the hub's cache with their checksums, which are the names of the files.

    Raises:
        HubError: a piece differs from the published one.
    """
    for piece in pieces:
        blob = piece.resolve()
        if _SHA256.fullmatch(blob.name) and (found := _sha256(blob)) != blob.name:
            raise HubError(
                f"Cannot use '{piece}': it differs from the published file (sha256 {found}, expected "
                f"{blob.name}). Delete '{blob}' and run the command again."
            )


def convert_archive(
    archive: SatArchive, folder: Path, own_keys: Mapping[str, str], config: Mapping[str, Any]
) -> Path:
    """Write the weights of an archive as safetensors shards to ``folder``, which appears whole or not at all.

    Only one process converts at a time; another one waits and uses its result.

    Args:
        archive: the archive. Its keys and shapes must have been checked.
        folder: folder for the shards, their index and the configuration.
        own_keys: key in the archive -> key in the shards. Other tensors are left out.
        config: content of config.json.

    Returns:
        The index of the shards.

    Raises:
        DiskFullError: the disk has too little space.
        OutputError: the shards cannot be written.
        CheckpointError: damaged weights. HubError: a piece differs from the published one.
    """
    import filelock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
        if (folder / INDEX_FILE).is_file():
            return folder / INDEX_FILE
        for left in folder.parent.glob(f".{folder.name[:50]}.*.tmp"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        _check_space(folder.parent, sum(archive.weights.tensors[key].span for key in own_keys), archive.name)
        check_sums(archive.pieces)
        with guarded(lambda error: _not_written(folder, error)), atomic_folder(folder) as staged:
            write_shards(((own, archive.weights.read(key)) for key, own in own_keys.items()), staged)
            (staged / CONFIG_FILE).write_text(json.dumps(config, indent=1), encoding="utf-8")
    logger.info("converted the weights to %s; the pieces in %s are not needed anymore", folder, archive.name)
    return folder / INDEX_FILE


def _not_written(folder: Path, error: BaseException) -> OutputError:
    return OutputError(
        f"Cannot write the converted weights to '{folder}': {reason(error)}. Free space on its disk and run "
        "the command again."
    )


def _check_space(folder: Path, needed: int, source: str) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DiskFullError(
            f"Cannot convert the weights of '{source}': {needed:,} bytes are needed in '{folder}', and "
            f"{free:,} are free. Free some and run the command again."
        )


def write_shards(tensors: Iterable[tuple[str, Tensor]], folder: Path) -> None:
    """Write tensors to safetensors files of at most SHARD_BYTES and an index. One shard is in memory."""
    from safetensors.torch import save_file

    files: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(_shards(tensors), start=1):
        name = f"model-{number:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        files |= dict.fromkeys(shard, name)
        total += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": files}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _shards(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for key, tensor in tensors:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[key] = tensor
        size += tensor.nbytes
    if shard:
        yield shard


def _member(joined: JoinedFiles, members: list[tarfile.TarInfo], name: str, source: str) -> Any:
    """Return the one file with a name in a tar as a file of its own."""
    found = [member for member in members if Path(member.name).name == name]
    if len(found) != 1:
        raise CheckpointError(
            f"Cannot load '{source}': the tar has {len(found)} files with the name {name}, expected one."
        )
    member = found[0]
    if member.offset_data + member.size > joined.size:
        raise CheckpointError(
            f"Cannot load '{source}': {member.name} ends after the last piece ({member.size:,} bytes from "
            f"byte {member.offset_data:,} of {joined.size:,}). Download the missing pieces."
        )
    return joined.range(member.offset_data, member.size)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
