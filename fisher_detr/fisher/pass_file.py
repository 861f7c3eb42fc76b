"""The file of a pass that may be cut off: what was gathered so far, and of which images."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
from safetensors import safe_open

from fisher_detr.files import check_sealed, write_sealed
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
        self._name, self._is_first = Path(path).name, not rank
        self.settings = settings
        self.every = every

    def __call__(self, image_pass: ImagePass) -> Callable[[ImagePass], None]:
        """Open a pass where an earlier one stopped, if one has; returns what to call after each batch."""
        found = self._read(image_pass.settings.method)
        if image_pass.settings.relative_error:  # the ranks then look at each other in every round
            rounds = set(gathered(found and found[0]["rounds"]))
            if found and len(rounds) > 1:
                logger.warning("the ranks' files have come to different rounds: the pass begins anew")
                found = None
        if found:
            image_pass.restore(*found)
            done = len(image_pass.positions)
            logger.info("Fisher information: %d images are done, from %s", done, self.path)
        written = len(image_pass.positions)

        def after_round(image_pass: ImagePass) -> None:
            nonlocal written
            done = len(image_pass.positions)
            # The end too, where there was enough to do: a later pass may depend on this one, and be cut off.
            is_end = image_pass.is_done and done >= self.every and done > written
            if self.every and (done - written >= self.every or is_end):
                written = done
                self._write(image_pass)

        return after_round

    def remove(self) -> None:
        """What came of the pass is kept elsewhere; the first rank removes what others have left, too."""
        others = self.path.parent.glob(f"{self._name}.*[0-9]") if self._is_first else ()
        for path in (self.path, *others):
            path.unlink(missing_ok=True)

    def _write(self, image_pass: ImagePass) -> None:
        info, tensors = image_pass.state()
        info |= {"settings": self.settings, "ranks": self._size}
        content = safetensors.torch.save(
            {name: value.contiguous() for name, value in tensors.items()}, {"pass": json.dumps(info)}
        )
        write_sealed(self.path, content)

    def _read(self, method: str) -> tuple[dict, dict] | None:
        try:
            info = json.loads(check_sealed(self.path).get("pass", "{}"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            logger.warning("%s cannot be read (%s): the pass begins anew", self.path, error)
            return None
        expected = {"settings": self.settings, "ranks": self._size, "method": method}
        if {key: info.get(key) for key in expected} != expected:
            logger.warning("%s is of other settings: the pass begins anew", self.path)
            return None
        with safe_open(self.path, "pt") as file:
            return info, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
