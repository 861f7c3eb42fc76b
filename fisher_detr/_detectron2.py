"""The one dependency that no package index has."""

import importlib.util


def require_detectron2() -> None:
    """Say how to get Detectron2 where it is missing.

    Raises:
        ImportError: Detectron2 cannot be imported.
    """
    spec = importlib.util.find_spec("detectron2")
    # No origin: not the package, only a folder of that name on the path, such as a clone of its repository.
    if spec is None or spec.origin is None:
        raise ImportError(
            "fisher_detr needs Detectron2, which no package index has: in a clone of fisher_detr run "
            "`python tools/install_detectron2.py`, or install it from its own source"
        )
