"""The keys: documented where they are defined, of usable types, and next to Detectron2's."""

import ast
import functools
import inspect
import re

from detectron2.config import CfgNode, get_cfg

from fisher_detr import add_fisher_detr_config, config

SOURCE = inspect.getsource(config).splitlines()
UNITS = {  # keys that say it all by their name
    "NUM_QUERIES",
    "NHEADS",
    "DIM_FEEDFORWARD",
    "ENC_LAYERS",
    "DEC_LAYERS",
    "DROPOUT",
    "ENABLED",
    "SEED",
}


def keys(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def value_of(cfg, key):
    return functools.reduce(lambda node, part: node[part], key.split("."), cfg)


def extended():
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    return cfg


def assignments():
    """Line number and key of every key that is defined."""
    for node in ast.walk(ast.parse("\n".join(SOURCE))):
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Call):
            target = node.targets[-1]
            if isinstance(target, ast.Attribute):
                yield node.lineno, target.attr


def documented(lineno: int) -> bool:
    """A comment stands above the key, or above the keys right before it."""
    for line in reversed(SOURCE[: lineno - 1]):
        if line.strip().startswith("#"):
            return True
        if not re.match(r"\s+[\w.]+ = (?!.*CN\(\))", line):
            return False
    return False


def test_every_key_is_documented_where_it_is_defined():
    found = list(assignments())
    assert len(found) > 50
    bare = [key for lineno, key in found if key not in UNITS and not documented(lineno)]
    assert not bare


def test_no_key_of_detectron2_is_changed():
    before, after = get_cfg(), extended()
    for key in keys(before):
        assert value_of(before, key) == value_of(after, key), key


def test_adding_twice_gives_the_same():
    once, twice = extended(), extended()
    add_fisher_detr_config(twice)
    assert once == twice


def test_defaults_survive_yaml():
    """A dumped config is read again as it was: `config.yaml` of a run repeats the run."""
    cfg, again = extended(), extended()
    again.merge_from_other_cfg(CfgNode.load_cfg(cfg.dump()))
    for key in set(keys(cfg)) - set(keys(get_cfg())):
        assert value_of(again, key) == value_of(cfg, key), key
