"""Data sets: registration, preparation, checks, metadata, mapper, training batches, calibration sample."""

from fisher_detr.data.augmentation import CropType
from fisher_detr.data.batches import GlobalBatchSampler, aspect_ratio_groups
from fisher_detr.data.builtin import register_builtin
from fisher_detr.data.mapper import DetrDatasetMapper
from fisher_detr.data.metadata import complete_metadata, dataset_ids
from fisher_detr.data.presence import check_dataset
from fisher_detr.data.register import (
    CocoDataset,
    class_counts,
    datasets_root,
    register_from_config_strings,
)
from fisher_detr.data.sampling import batches_of_one_size, sample_calibration_images
from fisher_detr.data.train_loader import TrainLoader

__all__ = [
    "CocoDataset",
    "CropType",
    "DetrDatasetMapper",
    "GlobalBatchSampler",
    "TrainLoader",
    "aspect_ratio_groups",
    "batches_of_one_size",
    "check_dataset",
    "class_counts",
    "complete_metadata",
    "dataset_ids",
    "datasets_root",
    "register_builtin",
    "register_from_config_strings",
    "sample_calibration_images",
]
