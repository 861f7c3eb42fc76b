"""The one dependency that no package index has."""

import importlib.util


def require_detectron2() -> None:
    """Say how to get Detectron2 where it is missing.

    Raises:
        ImportError: Detectron2 cannot be imported.
    """
    if importlib.util.find_spec("detectron2") is None:
        raise ImportError(
            "fisher_detr needs Detectron2, which no package index has: run `python tools/install_detectron2.py` in a "
            "clone of fisher_detr, or install it from its own source"
        )
