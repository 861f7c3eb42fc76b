"""How the Fisher information is estimated."""

import dataclasses
from typing import Any

from detectron2.config import CfgNode

from fisher_detr.fisher import GradientMethod, PassSettings
from fisher_detr.modeling import DetrBase, LabelSampler, LabelSource


@dataclasses.dataclass(frozen=True)
class FisherSettings:
    """The keys of FISHER; see config.py."""

    batch_size: int = 16
    batch_pixels: int = 512 * 512
    method: GradientMethod = GradientMethod.BATCHED
    skip_broken: bool = False
    relative_error: float = 0.0
    save_every: int = 0
    hawq_probes: int = 8
    labels: LabelSource = LabelSource.DATA
    label_noise: float = 0.02
    seed: int = 0
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
            batch_pixels=keys.BATCH_PIXELS,
            method=GradientMethod(keys.METHOD),
            skip_broken=keys.SKIP_BROKEN_IMAGES,
            relative_error=keys.RELATIVE_ERROR,
            save_every=keys.SAVE_EVERY,
            hawq_probes=keys.HAWQ_PROBES,
            labels=LabelSource(keys.LABELS),
            label_noise=keys.LABEL_NOISE,
            seed=cfg.QUANT.CALIBRATION.SEED,
        )

    def sampler(self, model: DetrBase) -> LabelSampler | None:
        """What draws labels; None: those of the data count."""
        if self.labels is LabelSource.DATA:
            return None
        head = model.criterion.classification
        return LabelSampler(head, model.num_classes, self.label_noise, self.seed)

    def described_labels(self) -> dict[str, Any]:
        """Where labels come from, for the record."""
        if self.labels is LabelSource.DATA:
            return {"from": str(self.labels)}
        return {"from": str(self.labels), "noise": self.label_noise, "seed": self.seed}

    def of_pass(self) -> PassSettings:
        """What a pass over the images needs to know."""
        return PassSettings(self.method, self.skip_broken, self.relative_error, self.progress)
