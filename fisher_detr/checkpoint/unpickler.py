"""Reading Detectron2's `.pkl` model files without running what they contain."""

import os
import pickle
from typing import Any, BinaryIO

# All that a dictionary of NumPy arrays needs, under NumPy's old and new module names.
_ADMITTED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only NumPy arrays are admitted")
        return super().find_class(module, name)


def load_array_pickle(path: str | os.PathLike) -> dict[str, Any]:
    """Read a pickled dictionary of NumPy arrays.

    Args:
        path: a model file of Detectron2's zoo, such as `R-50.pkl`.

    Raises:
        ValueError: the file is broken, or holds anything but dictionaries, lists, strings, numbers and NumPy
        arrays.
    """
    with open(path, "rb") as file:
        data = _load(file, path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds a {type(data).__name__}: expected a dictionary of arrays")
    return data


def _load(file: BinaryIO, path: str | os.PathLike) -> Any:
    try:
        return _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # damaged bytes raise whatever they happen to ask for
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"cannot read model file {path} ({reason}): fetch it again, or convert it to .pth"
        ) from error
