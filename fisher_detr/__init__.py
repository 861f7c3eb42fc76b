"""Fisher-aware quantization for DETR detectors with critical-category objectives, on Detectron2."""

from fisher_detr._detectron2 import require_detectron2

require_detectron2()

import fisher_detr.modeling  # noqa: E402  registers the models
from fisher_detr._zoo_paths import register_zoo_paths  # noqa: E402
from fisher_detr.config import add_fisher_detr_config  # noqa: E402
from fisher_detr.data import register_builtin  # noqa: E402

register_builtin()
register_zoo_paths()

__version__ = "0.1.0"
__all__ = ["add_fisher_detr_config"]
