"""The tables of the paper (arXiv 2407.03442): what is measured, from which official checkpoints.

Of the paper only its models, data sets, widths and arms are known here; what a table leaves open is what the
configs say.
"""

import dataclasses
import enum
from collections.abc import Mapping

from fisher_detr.model_zoo.study import Table
from fisher_detr.structures import Arm

NOT_MEASURED = "not measured here"
BITS = (4, 5, 6)
FLOAT_BITS = 32


class Way(enum.StrEnum):
    """How the models become quantized ones."""

    PTQ = "ptq"
    QAT = "qat"


@dataclasses.dataclass(frozen=True)
class PaperModel:
    """A model of the paper.

    Attributes:
        title: for people.
        leaf: name of its config, in each data set's folder.
        checkpoint: the official COCO file.
        panoptic: the official file of its panoptic model, whose detector is taken; None: there is none.
    """

    title: str
    leaf: str
    checkpoint: str
    panoptic: str | None = None


@dataclasses.dataclass(frozen=True)
class PaperData:
    """A data set of the paper.

    Attributes:
        title: for people.
        folder: of its configs.
        train_images: their number.
        num_classes: categories.
    """

    title: str
    folder: str
    train_images: int
    num_classes: int


MODELS = (
    PaperModel("DETR, ResNet-50", "detr_r50", "detr-r50-e632da11.pth", "detr-r50-panoptic-00ce5173.pth"),
    PaperModel("DETR, ResNet-101", "detr_r101", "detr-r101-2c7b67e5.pth", "detr-r101-panoptic-40021d53.pth"),
    # Its authors' file is called checkpoint.pth, in a folder for each model.
    PaperModel("DAB-DETR, ResNet-50", "dab_detr_r50", "dab_detr_r50-checkpoint.pth"),
    PaperModel("Deformable DETR, ResNet-50", "deformable_detr_r50", "r50_deformable_detr-checkpoint.pth"),
)
COCO = PaperData("COCO", "coco", 118_287, 80)
PANOPTIC = PaperData("COCO Panoptic as detection", "coco_panoptic", 118_287, 133)
CITYSCAPES = PaperData("Cityscapes", "cityscapes", 2_975, 8)


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """Models x widths x arms on one data set.

    Attributes:
        way: after training, or with a training.
        data: the data set.
        arms: config settings of each arm, by its name.
    """

    way: Way
    data: PaperData
    arms: Mapping[str, Mapping[str, str]]

    @property
    def name(self) -> str:
        """What the command calls it."""
        return f"{self.way}_{self.data.folder}"

    @property
    def results_file(self) -> str:
        """Name of its study in `benchmarks/results`."""
        return f"paper_{self.name}.json"

    @property
    def title(self) -> str:
        """Heading."""
        way = {Way.PTQ: "post-training quantization", Way.QAT: "quantization-aware training"}[self.way]
        return f"The paper's models on {self.data.title}: {way}"

    def row_keys(self) -> list[tuple[str, int, str]]:
        """Title, bits and arm of all rows."""
        widths = [(FLOAT_BITS, "full_precision"), *((bits, arm) for bits in BITS for arm in self.arms)]
        return [(model.title, bits, arm) for model in MODELS for bits, arm in widths]

    def unmeasured(self) -> Table:
        """The table that nobody has filled here."""
        rows = [[model.title, bits, *[NOT_MEASURED] * len(self.arms)] for model in MODELS for bits in BITS]
        return Table(
            f"AP and APcrit of {len(rows) * len(self.arms)} runs", ["model", "bits", *self.arms], rows
        )


_PTQ_ARMS = {
    str(arm): {"ALLOCATION.ARM": str(arm)} for arm in (Arm.UNIFORM, Arm.FISHER_OVERALL, Arm.FISHER_CRITICAL)
}
_UNIFORM = {"ALLOCATION.ARM": str(Arm.UNIFORM), "QUANT.QAT.ENABLED": "True"}
_PENALTY = {"QUANT.QAT.PENALTY.WEIGHT": "0.001", "QUANT.QAT.PENALTY.METHOD": "finite_difference"}
_QAT_ARMS = {
    "qat": _UNIFORM,
    "qat_overall": _UNIFORM | _PENALTY | {"QUANT.QAT.PENALTY.OBJECTIVE": "overall"},
    "qat_critical": _UNIFORM | _PENALTY | {"QUANT.QAT.PENALTY.OBJECTIVE": "critical"},
}
TABLES = {
    table.name: table
    for table in (
        PaperTable(way, data, arms)
        for way, arms in ((Way.PTQ, _PTQ_ARMS), (Way.QAT, _QAT_ARMS))
        for data in (COCO, PANOPTIC, CITYSCAPES)
    )
}
