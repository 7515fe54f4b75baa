"""Names of scorers in results: columns of files and tables, keys of dicts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from ..errors import InputError
from ..files.score_file import FIXED_COLUMNS, SCORE
from .model_identity import local_name
from .registry import find_spec


def scorer_names(sources: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return a name for each scorer, without loading it.

    It is the registered name, or the name of the folder, file or hub repository. Where several scorers would
    have the same name, it is the whole path or id.

    Raises:
        InputError: a scorer is given twice, or has the name of another column of score files.
    """
    texts = [os.fsdecode(source) for source in sources]
    names = [_name(text) for text in texts]
    counts = Counter(names)
    names = [name if counts[name] == 1 else _unique_name(text) for name, text in zip(names, texts)]
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"Cannot use the scorer {name!r} twice. Give each scorer once.")
        if name in (*FIXED_COLUMNS, SCORE) and len(names) > 1:
            raise InputError(
                f"Cannot use a scorer called {name!r} beside others: score files have a column with this "
                "name. Rename its folder or file."
            )
    return names


def _name(text: str) -> str:
    known = find_spec(text)
    if known is not None:
        return known[0]
    return local_name(text) if os.path.exists(text) else text.rsplit("/", 1)[-1]


def _unique_name(text: str) -> str:
    """Return the registered name, or the absolute path of a folder or file, or the id of a repository."""
    known = find_spec(text)
    if known is not None:
        return known[0]
    return os.path.realpath(text) if os.path.exists(text) else text
