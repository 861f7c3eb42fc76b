"""Settings of all kinds: a config that is sound, or one line that names what is not."""

import copy
import enum
import functools

import pytest
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st

from fisher_detr import add_fisher_detr_config
from fisher_detr.engine import config_check
from fisher_detr.engine.config_check import check_config
from fisher_detr.engine.config_merge import merge_config
from tests.faults.damage import damaged
from tests.fuzz.strange import JSON, LEAVES, one_line

CLASSES = ["pedestrian", "cyclist", "car"]
OURS = (
    "QUANT",
    "ALLOCATION",
    "FISHER",
    "CRITICAL",
    "MODEL_EMA",
    "MODEL.DETR",
    "SOLVER",
    "INPUT.DETR_AUG",
    "TEST",
)
# Choices that Detectron2 or the checks themselves make, beside the enums of `config_check`.
WORDS = [
    "",
    "none",
    "own",
    "sequential",
    "person",
    "car",
    "a=b",
    "a=pedestrian+car",
    "ADAMW",
    "SGD",
    "bbox/AP",
]


@functools.cache
def default():
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("fuzz_train",), ("fuzz_val",)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", "a.pth"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    return cfg


def flat(node, prefix=""):
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


ALL = dict(flat(default()))
KEYS = sorted(key for key in ALL if key.startswith(OURS))


@pytest.fixture(autouse=True, scope="module")
def data_sets():
    before = dict(DatasetCatalog.data), dict(MetadataCatalog.data)
    for name in ("fuzz_train", "fuzz_val"):
        DatasetCatalog.register(name, list)
        metadata = MetadataCatalog.get(name).set(thing_supercategories=["person", "person", "vehicle"])
        metadata.set(thing_classes=CLASSES, thing_dataset_id_to_contiguous_id=dict(enumerate(CLASSES)))
    yield
    for catalog, data in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        catalog.data.clear()
        catalog.data.update(data)


def choices(key) -> list[str]:
    kind = config_check._CHOICES.get(key)
    return list(map(str, kind)) if kind and issubclass(kind, enum.Enum) else WORDS


def of_its_type(key):
    """Values that a key takes, sensible or not."""
    value = ALL[key]
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.one_of(st.integers(-2, 12), st.sampled_from([value, 64, 10**9]))
    if isinstance(value, float):
        return st.one_of(st.floats(), st.sampled_from([value, 0.0, 0.5, 1.0, 4.0, 8.0]))
    if isinstance(value, str):
        return st.sampled_from(choices(key))
    if isinstance(value, tuple | list):
        inner = [
            st.integers(-1, 9),
            st.sampled_from(["car", "person", "class_embed", "x:4", "a+b"]),
            st.floats(),
        ]
        return st.one_of(*(st.lists(kind, max_size=3).map(tuple) for kind in inner))
    return st.just(value)


def merged(config_file="", overrides=()):
    """A config of these settings; None and the error where they are refused."""
    cfg = copy.deepcopy(default())
    try:
        merge_config(cfg, str(config_file), overrides)
    except ValueError as error:
        one_line(error)
        return None
    return cfg


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.one_of(st.sampled_from(sorted(ALL)), st.text(max_size=6)), JSON), min_size=1, max_size=3
    )
)
def test_any_value_for_any_key(pairs):
    """A key keeps the type of its default, or is refused by its name."""
    overrides = [word for pair in pairs for word in pair]
    cfg = merged(overrides=overrides)
    if cfg is None:
        return
    found = dict(flat(cfg))
    assert found.keys() == ALL.keys()
    for key, value in ALL.items():
        alike = (tuple, list) if isinstance(value, tuple | list) else type(value)
        assert value is None or found[key] is None or isinstance(found[key], alike), key


@settings(max_examples=150)
@given(st.lists(st.tuples(st.sampled_from(KEYS), st.text(max_size=8)), min_size=1, max_size=3))
def test_any_text_on_the_command_line(pairs):
    merged(overrides=[word for pair in pairs for word in pair])


def sections(leaves):
    names = ["MODEL", "DETR", "QUANT", "WEIGHT", "SOLVER", "BASE_LR", "SEED", "ALLOCATION", "WIDTHS", "X"]
    return st.recursive(leaves, lambda inner: st.dictionaries(st.sampled_from(names), inner, max_size=3))


@settings(max_examples=100)
@given(
    st.one_of(
        sections(LEAVES), st.dictionaries(st.one_of(st.integers(), st.none(), st.text(max_size=3)), LEAVES)
    )
)
def test_any_yaml(tmp_path, content):
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8", errors="backslashreplace")
    merged(path)


def test_a_key_of_several_lines():
    with pytest.raises(ValueError, match="config: unknown key A B") as error:
        merge_config(copy.deepcopy(default()), "", ["A\nB", 1])
    one_line(error.value)


def test_damaged_yaml(tmp_path):
    path = tmp_path / "damaged.yaml"
    sound = yaml.safe_dump(
        {"MODEL": {"DETR": {"NUM_QUERIES": 5}}, "SEED": 3, "ALLOCATION": {"WIDTHS": [2, 4]}}
    )
    for bytes_ in damaged(sound.encode(), 300):
        path.write_bytes(bytes_)
        merged(path)


@settings(max_examples=400)
@given(st.data())
def test_values_of_the_right_types(data):
    """What no type tells is checked on its own: together it is sound, or there is one line."""
    modes = data.draw(
        st.sampled_from([(), ("QUANT.ENABLED", True), ("QUANT.QAT.ENABLED", True), ("QUANT.ENABLED", True)])
    )
    keys = data.draw(st.lists(st.sampled_from(KEYS), max_size=4, unique=True))
    overrides = [*modes, "CRITICAL.TARGET", "person"]
    for key in keys:
        overrides += [key, data.draw(of_its_type(key))]
    cfg = merged(overrides=overrides)
    if cfg is None:
        return
    try:
        check_config(cfg, data.draw(st.sampled_from([("TRAIN", "TEST"), ("TEST",)])))
    except ValueError as error:
        one_line(error, "config: ")


@pytest.mark.parametrize("key", KEYS)
def test_each_key_at_its_edges(key):
    """Alone, where nothing else hides it."""
    value = ALL[key]
    edges = {bool: [True, False], int: [-1, 0, 1], float: [float("nan"), float("inf"), -1.0, 0.0], str: WORDS}
    tuples = [(), (0,), (-1, 2), ("car",), ("x", "x"), (float("nan"),), (2, 2), (1.5,)]
    for edge in edges.get(type(value), tuples if isinstance(value, tuple | list) else []):
        for mode in (("QUANT.ENABLED", True), ("QUANT.QAT.ENABLED", True), ()):
            cfg = merged(overrides=[*mode, "CRITICAL.TARGET", "person", key, edge])
            try:
                if cfg is not None:
                    check_config(cfg)
            except ValueError as error:
                one_line(error, "config: ")
