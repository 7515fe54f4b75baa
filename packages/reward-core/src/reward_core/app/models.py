"""Which models the page offers, and which of them are in memory."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from ..errors import InputError
from ..models.load import available_models, available_scores, load, load_score
from ..printing.escapes import printable
from ..scoring.scoring_model import ScoringModel
from .image_ranking import unique_names

MAX_LOADED = 2  # models in memory at once: the first opinion and the second


class Models:
    """Models by the name that the page shows, loaded when first asked for; the last two stay in memory.

    A folder or file is shown by its own name: visitors need not know where it lies.

    Args:
        sources: the models to offer first, as ``load`` and ``load_score`` know them.
        only: offer no others. Without it everything that can be loaded by name is offered too, which
            whoever opens the page could make this machine download.
        device, precision: as in ``load``. batch_size: images computed at once, None for the default.
    """

    def __init__(
        self,
        sources: Sequence[str],
        *,
        only: bool = False,
        device: str | None = None,
        precision: str = "exact",
        batch_size: int | None = None,
    ):
        others = [] if only else [*available_models(), *available_scores()]
        sources = list(dict.fromkeys([*sources, *others]))
        shown = unique_names([shown_name(source) for source in sources])
        self._sources = dict(zip(shown, sources))
        self.device, self.precision, self.batch_size = device, precision, batch_size
        self._loaded: OrderedDict[str, ScoringModel] = OrderedDict()
        self._lock = Lock()

    @property
    def names(self) -> list[str]:
        """What the page offers, in order."""
        return list(self._sources)

    def name_of(self, source: str) -> str:
        """How the page calls one of the sources."""
        return next(name for name, given in self._sources.items() if given == source)

    def __getitem__(self, name: str) -> ScoringModel:
        """The model, loaded if need be. InputError for a name not on offer; else ``load``'s errors."""
        if name not in self._sources:
            raise InputError(f"{name!r} is not offered here (only {', '.join(self.names)})")
        source = self._sources[name]
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= MAX_LOADED:
                    self._loaded.popitem(last=False)  # before the next one is read: three may not fit
                loader = load_score if source in available_scores() else load
                self._loaded[name] = loader(source, device=self.device, precision=self.precision)
            self._loaded.move_to_end(name)
            return self._loaded[name]


def shown_name(source: str) -> str:
    """A folder's or file's own name, or any other source, on one line."""
    return printable(os.path.basename(os.path.normpath(source)) if os.path.exists(source) else source)
