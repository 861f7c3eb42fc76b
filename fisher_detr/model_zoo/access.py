"""Published models by name."""

import shlex

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from fisher_detr.engine import Trainer, fit_device, load_float, load_quantized, read_config
from fisher_detr.model_zoo.catalog import config_path, entries, entry, weights_path
from fisher_detr.model_zoo.zoo_entry import ZooEntry
from fisher_detr.modeling import DetrBase


def names() -> list[str]:
    """Names of all entries, in alphabetical order."""
    return [found.name for found in entries()]


def get_config(name: str) -> CfgNode:
    """The config of an entry: its file, with the settings of its command.

    MODEL.WEIGHTS is `zoo://<name>`, or empty where there are no weights. Data sets are not looked at: a model
    can be built where they are absent.

    Raises:
        ValueError: no such entry, or one without a config.
        FileNotFoundError: its config is missing.
    """
    found = entry(name)
    own = ["MODEL.WEIGHTS", f"zoo://{name}" if found.file else ""]
    if found.categories:
        own += ["MODEL.DETR.NUM_CLASSES", len(found.categories)]
    return read_config(str(config_path(name)), [*settings(found), *own])


def get(name: str, trained: bool = True) -> DetrBase:
    """The model of an entry, in eval mode; on a GPU where there is one.

    Args:
        name: of the entry.
        trained: with its weights, which are fetched where they are not shipped; a quantized entry is a
            quantized model. Otherwise with random weights, in full precision.

    Raises:
        ValueError: no such entry, no weights, or a file that is not the published one.
        OSError: the file cannot be fetched.
    """
    cfg = get_config(name)
    fit_device(cfg)
    if not trained:
        return Trainer.build_float_model(cfg).eval()
    weights_path(name)  # of several mistakes the entry's comes first
    return load_quantized(cfg) if entry(name).quantization else load_float(cfg)


def settings(found: ZooEntry) -> list[str]:
    """Keys and values of an entry's command, alternating; empty where there is no command."""
    if not found.command:
        return []
    words = shlex.split(found.command)
    start = next(i for i, word in enumerate(words) if word.startswith("--"))
    return default_argument_parser().parse_args(words[start:]).opts
