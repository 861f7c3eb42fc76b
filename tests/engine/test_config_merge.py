"""Reading settings: every mistake is named, with what was probably meant."""

import pytest
from detectron2.config import get_cfg

from fisher_detr import add_fisher_detr_config
from fisher_detr.engine.config_merge import merge_config, setting_differences
from fisher_detr.engine.defaults import read_config


def merged(config_file="", overrides=()):
    cfg = get_cfg()
    add_fisher_detr_config(cfg)
    merge_config(cfg, str(config_file), overrides)
    return cfg


def write(path, text):
    path.write_text(text)
    return path


def test_file_bases_and_command_line_in_this_order(tmp_path):
    write(tmp_path / "base.yaml", "MODEL: {DETR: {NUM_QUERIES: 1, NHEADS: 2, ENC_LAYERS: 3}}\nSEED: 5")
    leaf = write(tmp_path / "leaf.yaml", "_BASE_: base.yaml\nMODEL: {DETR: {NHEADS: 4, ENC_LAYERS: 5}}")
    cfg = merged(leaf, ["MODEL.DETR.ENC_LAYERS", "6"])
    assert (cfg.MODEL.DETR.NUM_QUERIES, cfg.MODEL.DETR.NHEADS, cfg.MODEL.DETR.ENC_LAYERS) == (1, 4, 6)
    assert cfg.SEED == 5
    assert cfg.MODEL.DETR.DEC_LAYERS == 6  # the default


def test_values_are_read_as_detectron2_does(tmp_path):
    leaf = write(tmp_path / "leaf.yaml", 'DATASETS:\n  TRAIN: ("a", "b")\nSOLVER:\n  BASE_LR: 1e-4')
    cfg = merged(leaf, ["DATASETS.TEST", "('c',)", "QUANT.ENABLED", "True", "CRITICAL.SETS", ["x"]])
    assert cfg.DATASETS.TRAIN == ("a", "b")
    assert cfg.DATASETS.TEST == ("c",)
    assert cfg.SOLVER.BASE_LR == 1e-4
    assert cfg.QUANT.ENABLED is True
    assert cfg.CRITICAL.SETS == ("x",)


def test_whole_numbers_stand_for_fractions(tmp_path):
    """`ALLOCATION.AVERAGE_BITS 4` is what everyone types; yacs alone refuses it."""
    leaf = write(tmp_path / "leaf.yaml", "SOLVER: {BASE_LR: 1}")
    cfg = merged(leaf, ["ALLOCATION.AVERAGE_BITS", "4", "ALLOCATION.TIME_LIMIT", 5])
    values = (cfg.SOLVER.BASE_LR, cfg.ALLOCATION.AVERAGE_BITS, cfg.ALLOCATION.TIME_LIMIT)
    assert values == (1.0, 4.0, 5.0)
    assert all(isinstance(value, float) for value in values)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["MODEL.DETR.NUM_QUERY", 3],
            "unknown key MODEL.DETR.NUM_QUERY, did you mean MODEL.DETR.NUM_QUERIES",
        ),
        (["NUM_QUERIES", 3], "unknown key NUM_QUERIES, did you mean MODEL.DETR.NUM_QUERIES?"),
        (["DETR.NUM_QUERIES.X", 3], "unknown key DETR.NUM_QUERIES.X"),
        (["MODEL.DETR.NUM_QUERIES.X", 3], "unknown key MODEL.DETR.NUM_QUERIES.X"),
        (["MODEL.DETR", 3], "MODEL.DETR is a section: name a key below it, such as MODEL.DETR.NUM_CLASSES"),
        (["MODEL.DETR.NUM_QUERIES", "ten"], "MODEL.DETR.NUM_QUERIES is 'ten', expected int as in 100"),
        (["MODEL.DETR.NUM_QUERIES", "1.5"], "MODEL.DETR.NUM_QUERIES is '1.5', expected int as in 100"),
        (["QUANT.ENABLED", "yes"], "QUANT.ENABLED is 'yes', expected bool as in False"),
        (["CRITICAL.SETS", "(0,)"], "CRITICAL.SETS holds 0, expected str in it"),
        (["ALLOCATION.SET_WEIGHTS", "('car',)"], "ALLOCATION.SET_WEIGHTS holds 'car', expected float in it"),
        (["ALLOCATION.TIES", "(1,)"], "ALLOCATION.TIES holds 1, expected str in it"),
        (["INPUT.DETR_AUG.CROP_SIZE", "(1.5, 2)"], "INPUT.DETR_AUG.CROP_SIZE holds 1.5, expected int in it"),
        (["DATASETS.REGISTER", "(3,)"], "DATASETS.REGISTER holds 3, expected str in it"),
        (["SOLVER.BASE_LR", True], "SOLVER.BASE_LR is True, expected float as in 0.001"),
        (["DATASETS.TRAIN", "street"], "DATASETS.TRAIN is 'street', expected tuple as in ()"),
        (["_BASE_", "a.yaml"], "unknown key _BASE_"),
        (["SEED"], "settings on the command line are pairs of KEY VALUE: 'SEED' has no value"),
    ],
    ids=str,
)
def test_one_mistake(overrides, message):
    with pytest.raises(ValueError) as error:
        merged(overrides=overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_all_mistakes_of_file_and_command_line_at_once(tmp_path):
    leaf = write(tmp_path / "leaf.yaml", "MODEL: {DETR: {HEADS: 3, DROPOUT: none}, DETER: {A: 1}}\nSOLVER: 3")
    with pytest.raises(ValueError) as error:
        merged(leaf, ["SEED", "one"])
    for name in ("MODEL.DETR.HEADS", "MODEL.DETR.DROPOUT", "MODEL.DETER", "SOLVER is a section", "SEED"):
        assert name in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no settings"),
        ("just text", "holds no settings"),
        ("- 1\n- 2", "holds no settings"),
        ("a: [1\nb: 2", "is not plain YAML .*line 2"),
        ("A: !!python/object/apply:os.system ['true']", "is not plain YAML"),
    ],
)
def test_file_that_is_no_config(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        merged(write(tmp_path / "a.yaml", text))
    assert "a.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_missing_base(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.yaml does not exist: check the path"):
        merged(tmp_path / "gone.yaml")
    with pytest.raises(FileNotFoundError, match="base.yaml does not exist"):
        merged(write(tmp_path / "leaf.yaml", "_BASE_: base.yaml"))


def test_yaml_runs_no_code(tmp_path):
    victim = tmp_path / "victim"
    text = f"OUTPUT_DIR: !!python/object/apply:subprocess.check_call [['touch', '{victim}']]"
    with pytest.raises(ValueError):
        merged(write(tmp_path / "evil.yaml", text))
    assert not victim.exists()


def test_differences_put_behind_a_config_give_the_other(tmp_path):
    base, other = read_config(), read_config()
    changes = {"SOLVER.BASE_LR": 0.5, "DATASETS.TEST": ("a", "b"), "MODEL.WEIGHTS": "", "SEED": 3}
    other.merge_from_list([word for pair in changes.items() for word in pair])
    (tmp_path / "dumped.yaml").write_text(other.dump())
    dumped = read_config(str(tmp_path / "dumped.yaml"))
    found = setting_differences(base, dumped)
    assert found == {key: str(value) for key, value in changes.items() if value != ""}
    again = read_config("", [word for pair in found.items() for word in pair])
    assert again.dump() == other.dump()
    assert setting_differences(base, base) == {}
