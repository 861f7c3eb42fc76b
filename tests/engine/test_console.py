"""The progress bar on a terminal and nowhere else, and the writers of scalars."""

import fcntl
import importlib.util
import io
import logging
import os
import pty
import struct
import sys
import termios

import pytest
from detectron2.engine import HookBase
from detectron2.utils.events import TensorboardXWriter

from fisher_detr.engine.console import ProgressBar, build_writers
from tests.engine.toy_training import make_batches, make_toy, make_trainer

ITERATIONS = 6
LOGGER = logging.getLogger("fisher_detr.tests.console")


class Noise(HookBase):
    """Logs, and prints in pieces, as pycocotools does."""

    def after_step(self):
        LOGGER.info("logged at %d", self.trainer.iter)
        if self.trainer.iter == 3:
            sys.stdout.write("Evaluating...")
            sys.stdout.write("done\n")

    def after_train(self):
        LOGGER.info("the end")


class Terminal:
    """A pseudo terminal."""

    def __init__(self, rows: int = 40, columns: int = 120):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.file = os.fdopen(slave, "w", buffering=1)

    def screen(self) -> list[str]:
        """What can be read on it at last, line by line."""
        self.file.close()
        received = b""
        while True:
            try:
                received += os.read(self._master, 65536)
            except OSError:  # the other end is closed
                break
        os.close(self._master)
        lines, column = [""], 0
        for character in received.decode():
            if character == "\r":
                column = 0
            elif character == "\n":
                lines.append("")
                column = 0
            else:
                lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
                column += 1
        return [line.rstrip() for line in lines]


@pytest.fixture
def handler(monkeypatch):
    """Lets the logger write to what stdout is at the moment, and to a file."""

    def write_to(stream):
        console, file = logging.StreamHandler(stream), logging.StreamHandler(io.StringIO())
        console.setFormatter(logging.Formatter("[log] %(message)s"))
        monkeypatch.setattr(LOGGER, "handlers", [console, file])
        monkeypatch.setattr(LOGGER, "propagate", False)
        LOGGER.setLevel(logging.INFO)
        return file

    return write_to


def train(start=0):
    """With what follows a bar in a trainer's hooks and what comes before it."""
    trainer = make_trainer(make_toy(), make_batches(ITERATIONS), hooks=(Noise(), ProgressBar()))
    trainer.train(start, ITERATIONS)


LOGGED = [f"[log] logged at {i}" for i in range(ITERATIONS)]


@pytest.mark.parametrize(("start", "size"), [(0, (40, 120)), (2, (40, 120)), (0, (0, 0))], ids=str)
def test_on_a_terminal_one_line_below_what_is_logged_and_printed(monkeypatch, handler, start, size):
    """Also on one that does not tell its size."""
    terminal = Terminal(*size)
    monkeypatch.setattr(sys, "stdout", terminal.file)
    file, handlers = handler(terminal.file), LOGGER.handlers
    train(start)
    assert sys.stdout is terminal.file and LOGGER.handlers is handlers
    *above, bar, end = terminal.screen()
    assert above == [*LOGGED[start:4], "Evaluating...done", *LOGGED[4:], "[log] the end"]
    assert bar.startswith("100%|") and f"{ITERATIONS}/{ITERATIONS} [" in bar and "loss=" in bar
    assert end == ""
    assert file.stream.getvalue().splitlines()[0] == f"logged at {start}"


def test_elsewhere_only_the_log(monkeypatch, handler):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    handler(stream)
    train()
    assert stream.getvalue().splitlines() == [*LOGGED[:4], "Evaluating...done", *LOGGED[4:], "[log] the end"]


def test_other_ranks_show_nothing(monkeypatch, handler):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal.file)
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    handler(terminal.file)
    train()
    assert "%|" not in "".join(terminal.screen())


def test_terminal_is_given_back_after_a_fault(monkeypatch, handler):
    class Fault(HookBase):
        def after_step(self):
            raise RuntimeError("a fault")

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal.file)
    handler(terminal.file)
    handlers = LOGGER.handlers
    with pytest.raises(RuntimeError, match="a fault"):
        make_trainer(make_toy(), make_batches(1), hooks=(ProgressBar(), Fault())).train(0, 1)
    assert sys.stdout is terminal.file and LOGGER.handlers is handlers


@pytest.mark.parametrize("installed", [True, False])
def test_tensorboard_is_optional(monkeypatch, caplog, tmp_path, installed):
    pytest.importorskip("tensorboard")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorboard" and not installed else find(name, *rest),
    )
    monkeypatch.setattr(logging.getLogger("fisher_detr"), "propagate", True)
    caplog.set_level(logging.INFO, "fisher_detr")
    writers = build_writers(str(tmp_path / "new"), 10)
    for writer in writers:
        writer.close()
    assert any(isinstance(x.writer, TensorboardXWriter) for x in writers[1:]) == installed
    assert len(writers) == 2 + installed
    assert ("TensorBoard is not installed" in caplog.text) == (not installed)
    assert (tmp_path / "new" / "metrics.json").exists()
