#!/usr/bin/env python3
"""Install Detectron2 0.6, ported from its source archive to current libraries as a pure-Python wheel.

Run it with the Python of the environment that lacks detectron2, once torch, torchvision, setuptools and wheel
are there. Where `import detectron2` works already it does nothing. pip fetches the archive from the package
index that pip is set up for, and runs nothing unless the archive has the hash below.
"""

import argparse
import hashlib
import importlib.util
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

ARCHIVE = "pb1-detectron2==0.6"
SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
VERSION = "0.6+py"
NEEDED_FIRST = ("torch", "torchvision", "setuptools", "wheel")
CHECKED = ("data", "engine", "evaluation", "model_zoo", "modeling")


class PortError(Exception):
    """A step that failed; the message is the one line the user reads."""


class Substitution(NamedTuple):
    """Replace `pattern` by `new` in `file`, where it must occur exactly `count` times."""

    file: str
    pattern: str
    new: str
    count: int = 1


_NUMPY_ALIAS = r"\bnp\.(bool|int|float|str)\b"  # removed in NumPy 1.24, meant the builtins
_IMPORT_C = r"^from detectron2 import _C$"
_OPTIONAL_C = "from detectron2._compiled import _C"

SUBSTITUTIONS = (
    Substitution("__init__.py", r'__version__ = "0\.6"', f'__version__ = "{VERSION}"'),
    # removed in Pillow 10
    Substitution("data/transforms/transform.py", r"Image\.LINEAR\b", "Image.BILINEAR"),
    Substitution("data/build.py", _NUMPY_ALIAS, r"\1", 2),
    Substitution("data/datasets/pascal_voc.py", _NUMPY_ALIAS, r"\1"),
    Substitution("evaluation/pascal_voc_evaluation.py", _NUMPY_ALIAS, r"\1", 2),
    Substitution("evaluation/sem_seg_evaluation.py", _NUMPY_ALIAS, r"\1", 7),
    Substitution("structures/masks.py", _NUMPY_ALIAS, r"\1", 3),
    Substitution("utils/video_visualizer.py", _NUMPY_ALIAS, r"\1"),
    Substitution("utils/visualizer.py", _NUMPY_ALIAS, r"\1", 3),
    # setuptools 82 dropped pkg_resources
    Substitution("model_zoo/model_zoo.py", r"^import pkg_resources$", "from importlib import resources"),
    Substitution(
        "model_zoo/model_zoo.py",
        r'pkg_resources\.resource_filename\(\s*"detectron2\.model_zoo", os\.path\.join\((.*)\)\s*\)',
        r'str(resources.files("detectron2.model_zoo").joinpath(\1))',
    ),
    # The archive has no C++ sources: compiled operators become an error where they are called, not at import.
    Substitution("layers/deform_conv.py", _IMPORT_C, _OPTIONAL_C),
    Substitution("layers/roi_align_rotated.py", _IMPORT_C, _OPTIONAL_C),
    Substitution("layers/rotated_boxes.py", _IMPORT_C, _OPTIONAL_C),
    Substitution(
        "layers/nms.py",
        r"^    return torch\.ops\.detectron2\.nms_rotated\(",
        f"    {_OPTIONAL_C}\n\n    return _C.nms_rotated(",
    ),
    Substitution(
        "evaluation/coco_evaluation.py",
        r"^from detectron2\.evaluation\.fast_eval_api import COCOeval_opt$",
        "COCOeval_opt = COCOeval  # the fast one is compiled",
    ),
    Substitution(
        "utils/collect_env.py", r'f"not built correctly: \{e\}"', f'"not built: {VERSION} is pure Python"'
    ),
)

COMPILED_MODULE = f'''"""Stands in for the compiled operators, detectron2._C, which {VERSION} lacks."""


class _NoOperators:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotImplementedError(
            f"detectron2._C.{{name}} is a compiled operator, and this Detectron2 ({VERSION}) is pure Python: "
            "install Detectron2 from its official source, with a C++ compiler, to use it."
        )


_C = _NoOperators()
'''

SETUP_PY = f'''from setuptools import find_packages, setup

projects = {{
    "detectron2.projects.point_rend": "projects/PointRend/point_rend",
    "detectron2.projects.deeplab": "projects/DeepLab/deeplab",
    "detectron2.projects.panoptic_deeplab": "projects/Panoptic-DeepLab/panoptic_deeplab",
}}
setup(
    name="detectron2",
    version="{VERSION}",
    description="Detectron2 v0.6, pure Python, ported to current libraries by fisher_detr",
    packages=find_packages(include=["detectron2*"]) + list(projects),
    package_dir=projects,
    package_data={{"detectron2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]}},
    license_files=["LICENSE"],
    install_requires=[
        "Pillow", "cloudpickle", "fvcore", "hydra-core", "iopath", "matplotlib", "numpy", "omegaconf",
        "pycocotools", "tabulate", "tensorboard", "termcolor", "tqdm", "yacs",
    ],
)
'''


def fingerprint() -> str:
    """Text that changes when what is installed changes, and not when only this script does."""
    return repr((ARCHIVE, SHA256, SUBSTITUTIONS, COMPILED_MODULE, SETUP_PY))


def port(source: Path) -> None:
    """Apply `SUBSTITUTIONS` to an unpacked archive and give it a build file for a pure-Python wheel.

    Args:
        source: the folder that holds `detectron2/` and `projects/`; changed in place.

    Raises:
        PortError: a file is missing, or a pattern occurs more or less often than in the official v0.6.
    """
    for sub in SUBSTITUTIONS:
        path = source / "detectron2" / sub.file
        if not path.is_file():
            raise PortError(f"detectron2/{sub.file} is missing: not the source of Detectron2 0.6")
        text, found = re.subn(sub.pattern, sub.new, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        if found != sub.count:
            raise PortError(
                f"detectron2/{sub.file} has {found} matches of {sub.pattern!r}, expected {sub.count}: "
                "not the source of Detectron2 0.6"
            )
        path.write_text(text, encoding="utf-8")
    (source / "detectron2" / "_compiled.py").write_text(COMPILED_MODULE, encoding="utf-8")
    (source / "setup.py").write_text(SETUP_PY, encoding="utf-8")
    (source / "setup.cfg").unlink(missing_ok=True)


def run_pip(*arguments: object) -> None:
    """Run pip of this Python quietly; `PortError` with pip's own last error line if it fails."""
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR:")]
        raise PortError(f"pip {arguments[0]} failed: {(errors or lines or ['no output'])[-1].strip()}")


def fetch(folder: Path) -> Path:
    """Download the archive with pip into `folder`, hash-checked, and return its path."""
    requirement = folder / "archive.txt"
    requirement.write_text(f"{ARCHIVE} --hash=sha256:{SHA256}\n", encoding="utf-8")
    # pip asks the archive for its metadata, and its setup.py imports torch: no build isolation.
    options = ("--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes")
    run_pip("download", *options, "--dest", folder, "--requirement", requirement)
    found = list(folder.glob("*.tar.gz"))
    if len(found) != 1:
        raise PortError(f"pip downloaded {len(found)} archives for {ARCHIVE}, expected 1")
    return found[0]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack `archive` into `folder` after checking its hash again; return the source folder."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        raise PortError(f"{archive.name} has sha256 {digest}, expected {SHA256}")
    with tarfile.open(archive) as tar:
        # Absent before 3.11.4; there the hash is guard enough.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(folder)
    return next(path.parent for path in folder.glob("*/detectron2"))


def is_installed() -> bool:
    """Tell whether Detectron2 is there; a mere folder of that name, such as a clone of it, does not count."""
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None


def install() -> None:
    """Fetch, port, build and install Detectron2 into the environment of this Python, and try it."""
    missing = [name for name in NEEDED_FIRST if importlib.util.find_spec(name) is None]
    if missing:
        raise PortError(f"{', '.join(missing)} missing here, needed to build Detectron2: install them first")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = unpack(fetch(folder), folder / "source")
        port(source)
        run_pip("wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "--wheel-dir", folder, source)
        wheel = next(folder.glob("detectron2-*.whl"))
        run_pip("install", "--no-deps", "--no-index", "--force-reinstall", wheel)
    check = "; ".join(f"import detectron2.{name}" for name in CHECKED)
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    if done.returncode:
        raise PortError(f"installed, but it cannot be imported: {done.stderr.strip().splitlines()[-1]}")


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--force", action="store_true", help="install even where detectron2 is there already")
    arguments = parser.parse_args(argv)
    if is_installed() and not arguments.force:
        print("detectron2 is there already: nothing to do")
        return 0
    try:
        install()
    except PortError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    print(f"detectron2 {VERSION} installed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
