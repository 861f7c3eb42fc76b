"""Where a number was measured."""

import platform
from pathlib import Path

import detectron2
import numpy
import torch


def environment() -> dict[str, str]:
    """Versions and hardware, for the files in results/."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "torch": str(torch.__version__),  # a subclass of str, which YAML refuses
        "detectron2": detectron2.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "device": device,
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU, {names[0]}" if names else f"CPU, {platform.machine()}"
