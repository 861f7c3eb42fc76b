"""Data sets: registration, annotation checks, the mapper, the calibration sample."""

from fisher_detr.data.mapper import DetrDatasetMapper
from fisher_detr.data.register import register_from_config_strings
from fisher_detr.data.sampling import sample_calibration_images

__all__ = ["DetrDatasetMapper", "register_from_config_strings", "sample_calibration_images"]
