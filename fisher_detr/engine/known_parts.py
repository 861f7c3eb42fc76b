"""The file of a measurement that may be cut off: the parts that are done."""

import logging
import os
import zipfile
from pathlib import Path

import numpy as np

from fisher_detr.files import write_atomically

logger = logging.getLogger(__name__)
_SETTINGS = "settings"


class KnownParts:
    """What was measured of layers or batches, arrays by name, of one kind of settings.

    Attributes:
        parts: those that are done.
    """

    def __init__(self, path: str | os.PathLike | None, settings: str):
        """Args are the file (None: nothing is written), and a digest of all that decides the numbers."""
        self._path = path and Path(path)
        self._settings = settings
        self.parts: dict[str, np.ndarray] = {}

    def read(self) -> None:
        """Take over what an earlier run of the same settings has left."""
        if self._path and self._path.exists():
            try:
                with np.load(self._path, allow_pickle=False) as file:
                    found = dict(file)
                if str(found.pop(_SETTINGS)) == self._settings:
                    self.parts = found
                else:
                    logger.warning("%s is of other settings: the measurement begins anew", self._path)
            except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
                logger.warning("%s cannot be read (%s): the measurement begins anew", self._path, error)

    def add(self, name: str, values: np.ndarray) -> None:
        """One part more is done."""
        self.parts[name] = values
        if not self._path:
            return
        content = {_SETTINGS: np.array(self._settings), **self.parts}
        write_atomically(self._path, lambda file: np.savez(file, **content), durable=False)

    def remove(self) -> None:
        """All is done, and kept elsewhere."""
        if self._path:
            self._path.unlink(missing_ok=True)
