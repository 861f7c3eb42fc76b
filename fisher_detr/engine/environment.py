"""Where a number was measured."""

import importlib.metadata
import os
import platform
from pathlib import Path

import detectron2
import numpy
import torch


def environment(*packages: str) -> dict[str, str]:
    """Versions and hardware, for the files in results/.

    Args:
        packages: distributions whose versions matter too, such as a benchmark's peers; those that are not
            installed are left out.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {
        "torch": str(torch.__version__),  # a subclass of str, which YAML refuses
        "detectron2": detectron2.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "device": device,
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
    } | {name: version for name in packages if (version := _version(name))}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU, {names[0]}" if names else f"CPU, {platform.machine()}"
