"""Which models the page offers, and which of them are in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from ..errors import InputError
from ..load import available_models, available_scores, load, load_score
from ..scorer import ScoringModel

KEPT = 2  # models in memory at once: the first opinion and the second


class Models:
    """Models by name, loaded when first asked for; the two used last stay in memory.

    Args:
        names: the models to offer first, as ``load`` and ``load_score`` know them.
        only: offer no others. Without it everything that can be loaded by name is offered too, which
            whoever opens the page could make this machine download.
        device, precision: as in ``load``. batch_size: pictures computed at once, None for the default.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        only: bool = False,
        device: str | None = None,
        precision: str = "exact",
        batch_size: int | None = None,
    ):
        others = [] if only else [*available_models(), *available_scores()]
        self.names = list(dict.fromkeys([*names, *others]))
        self.device, self.precision, self.batch_size = device, precision, batch_size
        self._loaded: OrderedDict[str, ScoringModel] = OrderedDict()
        self._lock = Lock()

    def __getitem__(self, name: str) -> ScoringModel:
        """The model, loaded if need be. InputError for a name not on offer; else ``load``'s errors."""
        if name not in self.names:
            raise InputError(f"{name!r} is not offered here (only {', '.join(self.names)})")
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= KEPT:
                    self._loaded.popitem(last=False)  # before the next one is read: three may not fit
                loader = load_score if name in available_scores() else load
                self._loaded[name] = loader(name, device=self.device, precision=self.precision)
            self._loaded.move_to_end(name)
            return self._loaded[name]
