"""What a run of tools/train_net.py has left in its OUTPUT_DIR."""

import dataclasses
import datetime
import os
import re
from pathlib import Path

_TRAINED, QUANTIZED = "model_final.pth", "model_quantized.pth"
_STAMP = r"^\[(\d\d/\d\d \d\d:\d\d:\d\d)\]"
_TOTAL = r"Total training time: (?:(\d+) days?, )?(\d+):(\d\d):(\d\d)"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A finished run.

    Attributes:
        weights: what it made.
        config: all of its settings.
        seconds: that training or quantization took; None: its log does not tell.
    """

    weights: Path
    config: Path
    seconds: float | None


def read_run(folder: str | os.PathLike, weights: str | None = None) -> RunFolder:
    """Find the files of a run.

    Args:
        folder: OUTPUT_DIR of a training, or of a post-training quantization.
        weights: a file in it; None: the end of the training, else the quantized model.

    Raises:
        FileNotFoundError: it is no such folder.
    """
    folder = Path(folder)
    found = [name for name in ([weights] if weights else [_TRAINED, QUANTIZED]) if (folder / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no {weights or f'{_TRAINED} or {QUANTIZED}'}: name the OUTPUT_DIR of a run of "
            "tools/train_net.py that has come to its end"
        )
    path = folder / found[0]
    config = path.with_suffix(".yaml") if path.name == QUANTIZED else folder / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(f"config {config} of {path} does not exist: name a run's folder")
    return RunFolder(path, config, _seconds(folder / "log.txt", path.name == QUANTIZED))


def _seconds(log: Path, quantized: bool) -> float | None:
    if not log.is_file():
        return None
    text = log.read_text(encoding="utf-8", errors="replace")
    return _quantization_seconds(text) if quantized else _training_seconds(text)


def _training_seconds(text: str) -> float | None:
    """Of all the runs that a training was resumed in."""
    times = re.findall(_TOTAL, text)
    parts = [[int(part or 0) for part in time] for time in times]
    return float(sum(((d * 24 + h) * 60 + m) * 60 + s for d, h, m, s in parts)) if parts else None


def _quantization_seconds(text: str) -> float | None:
    """From the start of the last run to the saving of its model."""
    text = text[text.rfind("\n", 0, max(text.rfind("Environment:"), 0)) + 1 :]  # from its line on
    saved = re.search(rf"{_STAMP}.*Saving checkpoint to .*{re.escape(QUANTIZED)}", text, re.MULTILINE)
    first = re.search(_STAMP, text, re.MULTILINE)
    if not saved or not first:
        return None
    # The log has no year; any one will do, and a leap year knows all days.
    start, end = (datetime.datetime.strptime(f"2024/{x[1]}", "%Y/%m/%d %H:%M:%S") for x in (first, saved))
    return (end - start).total_seconds() if end >= start else None
