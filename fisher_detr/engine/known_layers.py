"""The file of a measurement that may be cut off: the layers that are done."""

import logging
import os
import zipfile
from pathlib import Path

import numpy as np

from fisher_detr.files import write_atomically

logger = logging.getLogger(__name__)
_SETTINGS = "settings"


class KnownLayers:
    """Changes of the losses by layer, `[O, N, W]` each, of one kind of settings.

    Attributes:
        layers: those that are done.
    """

    def __init__(self, path: str | os.PathLike | None, settings: str):
        """Args are the file (None: nothing is written), and a digest of all that decides the numbers."""
        self._path = path and Path(path)
        self._settings = settings
        self.layers: dict[str, np.ndarray] = {}

    def read(self) -> None:
        """Take over what an earlier run of the same settings has left."""
        if self._path and self._path.exists():
            try:
                with np.load(self._path, allow_pickle=False) as file:
                    found = dict(file)
                if str(found.pop(_SETTINGS)) == self._settings:
                    self.layers = found
                else:
                    logger.warning("%s is of other settings: the measurement begins anew", self._path)
            except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                logger.warning("%s cannot be read (%s): the measurement begins anew", self._path, error)

    def add(self, layer: str, changes: np.ndarray) -> None:
        """One layer more is done."""
        self.layers[layer] = changes
        if not self._path:
            return
        content = {_SETTINGS: np.array(self._settings), **self.layers}
        write_atomically(self._path, lambda file: np.savez(file, **content), durable=False)

    def remove(self) -> None:
        """All is done, and kept elsewhere."""
        if self._path:
            self._path.unlink(missing_ok=True)
