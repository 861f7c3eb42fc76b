"""Packaging of fisher_detr: ranges here, exact versions in requirements/lock.txt.

Detectron2 is not listed, because no package index has it: tools/install_detectron2.py installs it.
"""

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py


def opencv() -> str:
    """Name the OpenCV wheel to require: the one that is installed, else the one that needs no libGL.

    All of them provide the same module and overwrite each other's files. What is installed can be seen only
    without build isolation (`pip install --no-build-isolation`).
    """
    for name in ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"):
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        return name
    return "opencv-python-headless"


class BuildWithConfigs(build_py):
    """The configs that model zoo entries name lie beside the package: a wheel takes them along."""

    def run(self):
        """Copy them to where `fisher_detr.model_zoo` looks for them outside a clone."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "fisher_detr", "model_zoo", "configs")
            shutil.copytree("configs", target, dirs_exist_ok=True)


setup(
    name="fisher_detr",
    version="0.1.0",
    description="Fisher-aware quantization of DETR detectors that keeps the categories that matter",
    license="Apache-2.0",
    packages=find_packages(include=["fisher_detr", "fisher_detr.*"]),
    cmdclass={"build_py": BuildWithConfigs},
    package_data={"fisher_detr": ["**/*.yaml", "**/*.html", "**/*.css", "**/*.js", "model_zoo/weights/*"]},
    python_requires=">=3.11,<3.14",
    install_requires=[
        "PyYAML",
        "fvcore>=0.1.5",
        "iopath",
        "matplotlib",
        "numpy>=1.23",  # an unported Detectron2 0.6 uses names that 1.24 removed
        f"{opencv()}>=4.5",
        "pycocotools>=2.0.7",
        "safetensors>=0.4",
        "scipy>=1.9",  # the first with optimize.milp
        "torch>=2.1",
        "torchvision>=0.20",
        "tqdm",
        "yacs>=0.1.8",
    ],
    extras_require={
        "onnx": ["onnx>=1.23", "onnxruntime>=1.32"],  # what INT2 and integer products were measured with
        "report": ["Jinja2>=3.1", "plotly>=6"],
        "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=1"],
        "fast-eval": ["faster-coco-eval>=1.7"],  # pycocotools in C++; the evaluator works without it
        # What tools/install_detectron2.py needs before it runs, and Detectron2 to be imported afterwards.
        "detectron2": [
            "Pillow",
            "cloudpickle",
            "hydra-core>=1.1",
            "omegaconf>=2.1",
            "setuptools",
            "tabulate",
            "tensorboard",
            "termcolor",
            "wheel",
        ],
        # transformers and curvlinops are oracles of the tests; uv writes the lock.
        "dev": [
            "curvlinops-for-pytorch>=3.0",
            "hypothesis>=6.100",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "ruff",
            "transformers>=5",
            "uv",
        ],
    },
)
