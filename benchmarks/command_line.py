"""Command lines of several configs and the keys that change them all."""

import argparse
import itertools
from collections.abc import Sequence


def add_configs(parser: argparse.ArgumentParser) -> None:
    """The words that `configs_and_keys` divides."""
    parser.add_argument("words", nargs="+", metavar="CONFIG", help="files (.yaml), then config keys")


def configs_and_keys(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Parse a command line: its options, the config files, and alternating keys and values.

    Exits with a message where there is no file.
    """
    args = parser.parse_intermixed_args(arguments)
    configs = list(itertools.takewhile(lambda word: word.endswith(".yaml"), args.words))
    keys = args.words[len(configs) :]
    if not configs:
        parser.error(f"{keys[0]} is no config: name files (.yaml) of post-training quantization first")
    return args, configs, keys
