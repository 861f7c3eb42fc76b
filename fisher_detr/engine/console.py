"""What a run tells: its log, a progress bar on a terminal, and the writers of its scalars."""

import contextlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TextIO

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter
from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile
from tqdm.contrib.logging import logging_redirect_tqdm

from fisher_detr.files import cannot_write

logger = logging.getLogger(__name__)

_TENSORBOARD_THREAD = "_AsyncWriterThread"
_WINDOW = 20  # iterations of the median of the loss, as Detectron2's log has it


class ProgressBar(HookBase):
    """Shows iterations, remaining time and loss in one line, where stdout is a terminal.

    What is logged or printed meanwhile appears above the line.
    """

    def __init__(self):
        """Nothing is shown before the training begins."""
        self._bar: tqdm | None = None
        self._shown = contextlib.ExitStack()

    def before_train(self) -> None:
        """Begin, where the main process writes to a terminal."""
        if not (comm.is_main_process() and sys.stdout.isatty()):
            return
        terminal = sys.stdout
        self._bar = self._shown.enter_context(
            tqdm(
                total=self.trainer.max_iter,
                initial=self.trainer.start_iter,
                unit="it",
                file=terminal,
                **_size(terminal),
            )
        )
        self._shown.enter_context(logging_redirect_tqdm(_loggers_to(terminal)))
        self._shown.enter_context(contextlib.redirect_stdout(DummyTqdmFile(terminal)))

    def after_step(self) -> None:
        """Move on by one iteration."""
        if self._bar is None:
            return
        with contextlib.suppress(KeyError):  # of a trainer that stores no loss
            loss = self.trainer.storage.history("total_loss").median(_WINDOW)
            self._bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self._bar.update()

    def after_train(self) -> None:
        """Leave the line as it is, and the terminal to others."""
        self._shown.close()
        self._bar = None


class LogFile(logging.FileHandler):
    """`log.txt` in a folder. A disk that is full takes no more of it, and does not end the run by that."""

    def __init__(self, folder: str, rank: int):
        """Open the file of a rank to append to it.

        Raises:
            OSError: the folder cannot be written.
        """
        name = os.path.join(folder, f"log.txt.rank{rank}" if rank else "log.txt")
        try:
            os.makedirs(folder, exist_ok=True)
            super().__init__(name, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise OSError(cannot_write(name, error)) from error
        self.setFormatter(
            logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S")
        )

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that there is no room, where logging would print a trace for every line."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif self.level <= logging.CRITICAL:
            self.setLevel(logging.CRITICAL + 1)
            sys.stderr.write(f"{cannot_write(self.baseFilename, error)}; the log goes on without it\n")


class FileWriter(EventWriter):
    """Another writer, of whose file the error says what it is and what to do.

    Attributes:
        writer: the other one.
    """

    def __init__(self, path: str, build: Callable[[], EventWriter]):
        """Build the other writer.

        Raises:
            OSError: the file cannot be written.
        """
        self._path, self.writer = path, None
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.writer = self._told(build)

    def write(self) -> None:
        """Write the newest scalars."""
        self._told(self.writer.write)

    def close(self) -> None:
        """Close the file; what did not fit was told before."""
        if self.writer:
            with contextlib.suppress(OSError):
                self.writer.close()

    def _told(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except OSError as error:
            self.close()
            raise OSError(cannot_write(self._path, error)) from error


def build_writers(output_dir: str, max_iter: int) -> list[EventWriter]:
    """Writers of the scalars in the event storage: the log, `metrics.json`, and TensorBoard's event files.

    TensorBoard is optional: without it a line of the log says so.

    Raises:
        OSError: the folder cannot be written.
    """
    metrics = os.path.join(output_dir, "metrics.json")
    writers = [CommonMetricPrinter(max_iter), FileWriter(metrics, lambda: JSONWriter(metrics))]
    if importlib.util.find_spec("tensorboard"):
        _mute_tensorboard()
        return [*writers, FileWriter(output_dir, lambda: TensorboardXWriter(output_dir))]
    logger.info("TensorBoard is not installed: scalars go to metrics.json only (pip install tensorboard)")
    return writers


def _mute_tensorboard() -> None:
    """The thread that writes its files hands an error to the main one, and prints a trace besides."""
    shown = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__name__ == _TENSORBOARD_THREAD):
            shown(args)

    if not getattr(shown, "mutes_tensorboard", False):
        hook.mutes_tensorboard = True
        threading.excepthook = hook


def _size(terminal: TextIO) -> dict[str, Any]:
    """Follows that of the terminal; one that does not tell it would get no bar from tqdm."""
    if 0 in os.get_terminal_size(terminal.fileno()):
        return {"ncols": 80, "nrows": 24}
    return {"dynamic_ncols": True}


def _loggers_to(stream: TextIO) -> list[logging.Logger]:
    """The loggers that write to a stream themselves."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return [
        found
        for found in loggers
        if isinstance(found, logging.Logger) and any(_stream(handler) is stream for handler in found.handlers)
    ]


def _stream(handler: logging.Handler) -> object:
    return getattr(handler, "stream", None)
