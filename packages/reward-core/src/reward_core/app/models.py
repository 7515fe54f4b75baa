"""The models that the page offers, and a cache of loaded models."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from ..errors import InputError
from ..models.judges.built_in import TEMPLATES
from ..models.judges.pairwise import PairwiseJudge
from ..models.judges.published import JudgeConfig
from ..models.judges.templates import PAIRWISE
from ..models.load import available_models, load, refuse_several
from ..models.load_options import NO_JUDGE, JudgeOptions
from ..models.registry import find_spec
from ..models.score_meaning import score_meaning
from ..printing.escapes import printable
from ..scoring.scoring_model import ScoringModel
from .image_ranking import unique_names

LEAST_LOADED = 2  # models that stay in memory: the last two, or as many as were named


class Models:
    """Models by displayed name, loaded when first used; as many as were named stay in memory, at least two.

    Folders and files are displayed without their path, which visitors need not know.

    Args:
        sources: the models to offer first, as in ``load``.
        only: offer only these. Otherwise all known models are offered too, and any visitor can make this
            machine download them; pairwise judges are not offered.
        files: local copies of the published files of the only source, as in ``load``.
        device, precision: as in ``load``.
        batch_size: images per batch; None for the default.
        judge: options of the first source if it is a VLM judge.

    Raises:
        InputError: files is given with several sources.

    Attributes:
        most: number of models that stay in memory, and that one ranking may use.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        only: bool = False,
        files: str | None = None,
        device: str | None = None,
        precision: str = "exact",
        batch_size: int | None = None,
        judge: JudgeOptions = NO_JUDGE,
    ):
        if files is not None:
            refuse_several(sources)
        self._judge = {source: judge for source in sources[:1]}
        self._files = {source: files for source in sources[:1]}
        others = [] if only else [name for name in available_models() if not _compares_images(name)]
        self.most = max(LEAST_LOADED, len(set(sources)))
        sources = list(dict.fromkeys([*sources, *others]))
        shown = unique_names([shown_name(source) for source in sources])
        self._sources = dict(zip(shown, sources))
        self.device, self.precision, self.batch_size = device, precision, batch_size
        self._loaded: OrderedDict[str, ScoringModel] = OrderedDict()
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """The displayed names in order."""
        return list(self._sources)

    def name_of(self, source: str) -> str:
        """Return the displayed name of a source."""
        return next(name for name, given in self._sources.items() if given == source)

    def meaning(self, name: str) -> str | None:
        """Return direction and range of a model's scores, or None if nothing is known about them."""
        return score_meaning(self._sources[name])

    def __getitem__(self, name: str) -> ScoringModel:
        """Return a model, loaded if necessary.

        Raises:
            InputError: the model is not offered.
            Other errors: see ``load``.
        """
        if name not in self._sources:
            raise InputError(f"Cannot use the model {name!r}: not offered. Choose {', '.join(self.names)}.")
        source = self._sources[name]
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= self.most:
                    self._loaded.popitem(last=False)  # before loading, because one more may not fit in memory
                options = {
                    "files": self._files.get(source),
                    "precision": self.precision,
                    **vars(self._judge.get(source, NO_JUDGE)),
                }
                model = load(source, device=self.device, **options)
                if isinstance(model, PairwiseJudge):
                    raise InputError(
                        f"Cannot use {name!r} on the page: it compares all images of a prompt with each "
                        "other. Run `reward-core rank`."
                    )
                self._loaded[name] = model
            self._loaded.move_to_end(name)
            return self._loaded[name]


def shown_name(source: str) -> str:
    """Return the displayed name of a source, on one line: without the path if it is a folder or file."""
    return printable(os.path.basename(os.path.normpath(source)) if os.path.exists(source) else source)


def _compares_images(name: str) -> bool:
    """Return whether a known scorer is a pairwise judge."""
    spec = find_spec(name)
    config = None if spec is None else spec[1].config
    return isinstance(config, JudgeConfig) and TEMPLATES[config.template].kind == PAIRWISE
