"""The file of a measurement that may be cut off: the parts that are done."""

import logging
import os
from pathlib import Path

import numpy as np
import safetensors.numpy

from fisher_detr.files import check_sealed, write_sealed

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
                settings = check_sealed(self._path).get(_SETTINGS)
            except ValueError as error:
                logger.warning("%s cannot be read (%s): the measurement begins anew", self._path, error)
                return
            if settings == self._settings:
                self.parts = safetensors.numpy.load_file(self._path)
            else:
                logger.warning("%s is of other settings: the measurement begins anew", self._path)

    def add(self, name: str, values: np.ndarray) -> None:
        """One part more is done."""
        self.parts[name] = values
        if not self._path:
            return
        content = safetensors.numpy.save(self.parts, {_SETTINGS: self._settings})
        write_sealed(self._path, content, durable=False)

    def remove(self) -> None:
        """All is done, and kept elsewhere."""
        if self._path:
            self._path.unlink(missing_ok=True)
