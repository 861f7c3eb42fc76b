"""What the processor can do."""

import platform
from pathlib import Path

_LISTED = Path("/proc/cpuinfo")
_VNNI = {"avx512_vnni", "avx_vnni", "avx_vnni_int8"}


def processor_flags() -> frozenset[str]:
    """Instruction sets that the system lists; empty where it lists none."""
    if not _LISTED.is_file():
        return frozenset()
    lines = _LISTED.read_text().splitlines()
    listed = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(listed, "").split())


def saturates() -> bool:
    """Whether sums of two 8-bit products saturate: an x86 processor without VNNI, or one that does not tell.

    onnxruntime multiplies unsigned by signed bytes there with an instruction that keeps 16 bits.
    """
    return platform.machine().lower() in ("x86_64", "amd64") and not processor_flags() & _VNNI
