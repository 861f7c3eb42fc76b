"""Data sets: registration, annotation checks, metadata, the mapper, the calibration sample."""

from fisher_detr.data.mapper import DetrDatasetMapper
from fisher_detr.data.metadata import complete_metadata, dataset_ids
from fisher_detr.data.register import CocoDataset, register_from_config_strings
from fisher_detr.data.sampling import sample_calibration_images

__all__ = [
    "CocoDataset",
    "DetrDatasetMapper",
    "complete_metadata",
    "dataset_ids",
    "register_from_config_strings",
    "sample_calibration_images",
]
