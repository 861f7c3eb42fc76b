"""Procedural street scenes: a detection set that is drawn, so that nothing needs to be downloaded.

Imports neither torch nor Detectron2.
"""

from .categories import CATEGORIES, SUPERCATEGORIES, categories
from .dataset import SIZES, DatasetFolderError, make_dataset
from .generate import SPLITS, generate_image

__all__ = [
    "CATEGORIES",
    "SIZES",
    "SPLITS",
    "SUPERCATEGORIES",
    "DatasetFolderError",
    "categories",
    "generate_image",
    "make_dataset",
]
