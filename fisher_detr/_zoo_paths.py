"""`zoo://<name>` as a path, wherever Detectron2's path manager reads one."""

from typing import IO, Any

from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler

PREFIX = "zoo://"
CONFIG_SUFFIX = ".yaml"


class ZooPathHandler(PathHandler):
    """`zoo://<name>` is the weights of a model zoo entry, `zoo://<name>.yaml` its config; both are read only.

    The zoo is imported when it is first asked for: it needs everything that drives.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        from fisher_detr.model_zoo import config_path, weights_path

        self._check_kwargs(kwargs)
        name = path.removeprefix(PREFIX)
        if name.endswith(CONFIG_SUFFIX):
            return str(config_path(name.removesuffix(CONFIG_SUFFIX)))
        return str(weights_path(name))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO:
        if mode not in ("r", "rb"):
            raise ValueError(f"{path} is opened with mode {mode!r}: use 'r' or 'rb'")
        return open(self._get_local_path(path, **kwargs), mode, buffering)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        """Whether there is such a file; nothing is fetched to know it."""
        from fisher_detr.model_zoo import config_path, entry

        name = path.removeprefix(PREFIX)
        try:
            if name.endswith(CONFIG_SUFFIX):
                return config_path(name.removesuffix(CONFIG_SUFFIX)).is_file()
            return entry(name).file is not None
        except (ValueError, FileNotFoundError):
            return False


def register_zoo_paths() -> None:
    """Teach Detectron2's path manager `zoo://`; a second call changes nothing."""
    PathManager.register_handler(ZooPathHandler(), allow_override=True)
