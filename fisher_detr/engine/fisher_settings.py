"""How the Fisher information is estimated."""

import dataclasses

from detectron2.config import CfgNode

from fisher_detr.fisher import GradientMethod, PassSettings


@dataclasses.dataclass(frozen=True)
class FisherSettings:
    """The keys of FISHER; see config.py."""

    batch_size: int = 4
    method: GradientMethod = GradientMethod.BATCHED
    skip_broken: bool = False
    relative_error: float = 0.0
    save_every: int = 0
    hawq_probes: int = 8
    progress: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "FisherSettings":
        """Read FISHER.

        Raises:
            ValueError: an option has none of its values.
        """
        keys = cfg.FISHER
        return cls(
            batch_size=keys.BATCH_SIZE,
            method=GradientMethod(keys.METHOD),
            skip_broken=keys.SKIP_BROKEN_IMAGES,
            relative_error=keys.RELATIVE_ERROR,
            save_every=keys.SAVE_EVERY,
            hawq_probes=keys.HAWQ_PROBES,
        )

    def of_pass(self) -> PassSettings:
        """What a pass over the images needs to know."""
        return PassSettings(self.method, self.skip_broken, self.relative_error, self.progress)
