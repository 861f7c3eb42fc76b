"""The file of a pass that may be cut off: what was gathered so far, and of which images."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open

from fisher_detr.files import write_atomically
from fisher_detr.fisher.image_pass import ImagePass
from fisher_detr.fisher.ranks import gathered, rank_and_size

logger = logging.getLogger(__name__)


class PassFile:
    """Writes a pass down every so many images of a rank, and lets a later one of the same settings go on.

    Each rank has a file of its own. A `PassKeeper` for `estimate_fisher` and `estimate_sensitivity`.
    """

    def __init__(self, path: str | os.PathLike, settings: str, every: int):
        """Build.

        Args:
            path: of the file; ranks after the first add their number.
            settings: digest of all that decides the numbers: weights, images, objectives, errors.
            every: images of a rank between two writings; 0: nothing is written.
        """
        rank, self._size = rank_and_size()
        self.path = Path(f"{path}.{rank}" if rank else path)
        self.settings = settings
        self.every = every

    def __call__(self, image_pass: ImagePass) -> Callable[[ImagePass], None]:
        """Open a pass where an earlier one stopped, if one has; returns what to call after each batch."""
        found = self._read()
        rounds = [info and info["rounds"] for info, _ in gathered((found and found[0], None))]
        if found and len(set(rounds)) == 1:
            image_pass.restore(*found)
            logger.info(
                "Fisher information: %d images are done, from %s", len(image_pass.positions), self.path
            )
        written = len(image_pass.positions)

        def after_round(image_pass: ImagePass) -> None:
            nonlocal written
            if self.every and len(image_pass.positions) - written >= self.every:
                written = len(image_pass.positions)
                self._write(image_pass)

        return after_round

    def remove(self) -> None:
        """The pass is done, and what came of it is kept elsewhere."""
        self.path.unlink(missing_ok=True)

    def _write(self, image_pass: ImagePass) -> None:
        info, tensors = image_pass.state()
        info |= {"settings": self.settings, "ranks": self._size}
        content = safetensors.torch.save(
            {name: value.contiguous() for name, value in tensors.items()}, {"pass": json.dumps(info)}
        )
        write_atomically(self.path, lambda file: file.write(content))

    def _read(self) -> tuple[dict, dict] | None:
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                info = json.loads((file.metadata() or {}).get("pass", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            logger.warning("%s cannot be read (%s): the pass begins anew", self.path, error)
            return None
        if (info.get("settings"), info.get("ranks")) != (self.settings, self._size):
            logger.warning("%s is of other settings: the pass begins anew", self.path)
            return None
        return info, tensors
