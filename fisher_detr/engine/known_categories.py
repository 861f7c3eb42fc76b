"""The categories of a config's data sets, as far as they are known."""

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from fisher_detr.data import complete_metadata, register_from_config_strings


def known_categories(cfg: CfgNode) -> dict[str, str] | None:
    """Super-category ("": none) by name, in the order of the class indices.

    Args:
        cfg: its data sets need not be on this machine.

    Returns:
        None: no annotation file is there, and none of the sets is known by name.
    """
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        try:
            register_from_config_strings(cfg.DATASETS.REGISTER, {name}, cfg.DATASETS.DROP_BAD_BOXES)
        except FileNotFoundError:
            continue
        if name not in DatasetCatalog:
            continue
        complete_metadata(name)
        metadata = MetadataCatalog.get(name)
        if classes := metadata.get("thing_classes"):
            above = metadata.get("thing_supercategories") or [""] * len(classes)
            return dict(zip(classes, above, strict=True))
    return None
