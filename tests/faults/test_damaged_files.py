"""Damaged files of every kind that is read back: refused in one line, made anew, or what they were.

Packed models, annotations and plans have tests of their own, in tests/quantization and tests/fuzz.
"""

import json
import warnings

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg

from fisher_detr.checkpoint import SafeCheckpointer, load_tensors
from fisher_detr.checkpoint.class_rows import ClassRows
from fisher_detr.checkpoint.side_file import (
    Dropped,
    OtherGroups,
    read_dropped,
    read_other_groups,
    write_dropped,
    write_other_groups,
)
from fisher_detr.data.street import make_dataset
from fisher_detr.engine import ArmResult, KeptResults
from fisher_detr.engine.known_parts import KnownParts
from fisher_detr.files import check_sealed
from fisher_detr.fisher import PassFile, PassSettings, estimate_fisher
from tests.faults.damage import damaged
from tests.fisher.conftest import Toy

ROWS = torch.arange(12.0).reshape(4, 3)


def same(found, expected) -> bool:
    """Whether nested dictionaries hold the same tensors."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(same(found.get(key), x) for key, x in expected.items())
    return isinstance(found, torch.Tensor) and torch.equal(found, expected)


@pytest.mark.parametrize("depth", [0, 2])
def test_checkpoints(tmp_path, depth):
    """Torch reads its files without a look at their checksums: a flipped bit would be another weight."""
    path, content = tmp_path / "model.pth", {"model": {"a": torch.arange(200.0), "b": torch.ones(3, 3)}}
    torch.save(content["model"] if depth else content, path)
    expected, refused = load_tensors(path), 0
    for bytes_ in damaged(path.read_bytes(), 400):
        path.write_bytes(bytes_)
        try:
            with warnings.catch_warnings(action="ignore"):
                assert same(load_tensors(path), expected)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
            assert "fetch or make it again" in str(error) or "expected a dictionary" in str(error)
    assert refused > 300


def test_a_flipped_bit_in_a_weight_is_named(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"model": {"a": torch.zeros(1000)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(4000)) + 2000] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read checkpoint .*data/0 in it is damaged: its checksum"):
        load_tensors(path)


def test_a_pass_that_is_damaged_begins_anew(tmp_path, caplog):
    """Whatever is left of it: the numbers are those of a pass that was never cut off."""
    toy, quiet = Toy(), PassSettings(progress=False)
    expected = estimate_fisher(toy.loss, toy.parameters, toy.batches, quiet)
    keeper = PassFile(tmp_path / "pass.safetensors", "a", every=1)
    estimate_fisher(toy.loss, toy.parameters, toy.batches, quiet, keeper)
    content = keeper.path.read_bytes()
    for number, bytes_ in enumerate(damaged(content, 40)):
        keeper.path.write_bytes(bytes_)
        found = estimate_fisher(toy.loss, toy.parameters, toy.batches, quiet, keeper)
        for term, of_layers in expected.diagonals.items():
            assert all(torch.equal(found.diagonals[term][name], x) for name, x in of_layers.items()), number
    assert caplog.text.count("cannot be read") == 40


def test_every_damage_to_a_sealed_file_is_seen(tmp_path):
    toy = Toy()
    keeper = PassFile(tmp_path / "pass.safetensors", "a", every=1)
    estimate_fisher(toy.loss, toy.parameters, toy.batches, PassSettings(progress=False), keeper)
    assert check_sealed(keeper.path)
    for bytes_ in damaged(keeper.path.read_bytes(), 2000):
        keeper.path.write_bytes(bytes_)
        with pytest.raises(ValueError) as error:
            check_sealed(keeper.path)
        assert "\n" not in str(error.value)


def test_measurements_that_are_damaged_begin_anew(tmp_path, caplog):
    path = tmp_path / "measured.safetensors"
    parts = KnownParts(path, "a")
    parts.add("head", np.arange(60.0).reshape(3, 4, 5))
    for bytes_ in damaged(path.read_bytes(), 400):
        path.write_bytes(bytes_)
        again = KnownParts(path, "a")
        again.read()
        assert again.parts == {}
    assert caplog.text.count("cannot be read") == 400


SIDE_FILES = {
    "dropped": (
        lambda path: write_dropped(
            path, Dropped(ClassRows(6, (1, 2)), {"class_embed.weight": ROWS}, {}, "", "0")
        ),
        read_dropped,
    ),
    "queries": (
        lambda path: write_other_groups(path, OtherGroups(2, {"query_embed.weight": ROWS}, "0")),
        read_other_groups,
    ),
}


@pytest.mark.parametrize("kind", SIDE_FILES)
def test_side_files_of_a_conversion(tmp_path, kind):
    write, read = SIDE_FILES[kind]
    path = tmp_path / f"model.{kind}.safetensors"
    write(path)
    read(path)
    for bytes_ in damaged(path.read_bytes(), 400):
        path.write_bytes(bytes_)
        with pytest.raises(ValueError, match="or a damaged one: expected the .* wrote beside its output"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a\0b", b"model_0000009.pth", b"..", b"\n\n"])
def test_last_checkpoint_that_names_nothing(trained, output, content):
    """Nothing is guessed: an older checkpoint may be another training's."""
    (output / "last_checkpoint").write_bytes(content)
    for flags in (["--resume"], ["--resume", "--eval-only"]):
        found = trained.error(*flags, "OUTPUT_DIR", output)
        assert f"{output}/last_checkpoint names no checkpoint of its folder" in found
        assert "write the name of one into it; there are model_0000001.pth, " in found
    (output / "last_checkpoint").write_text("model_0000001.pth")
    trained.run("--resume", "OUTPUT_DIR", output)


def test_last_checkpoint_of_a_folder_without_any(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(ValueError, match="write the name of one into it; there are none"):
        SafeCheckpointer(torch.nn.Linear(1, 1), str(tmp_path)).resume_or_load("", resume=True)


def test_resume_from_a_checkpoint_that_is_damaged(trained, output):
    path = output / "model_final.pth"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    before = {name.name: name.read_bytes() for name in output.glob("*.pth")}
    found = trained.error("--resume", "SOLVER.MAX_ITER", 6, "OUTPUT_DIR", output)
    assert f"cannot read checkpoint {path}" in found and "its checksum is another one" in found
    assert {name.name: name.read_bytes() for name in output.glob("*.pth")} == before


def test_results_of_a_study(tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    result = ArmResult("uniform", {"AP": 40.0}, 100, 2.5, "folder", None)
    KeptResults(cfg).get("a", lambda: result)
    path = tmp_path / "results" / "a.json"
    sound = json.loads(path.read_text())
    broken = [sound["result"] | {"metrics": 3}, sound["result"] | {"allocation": {"bits": {}}}, {}, None, [1]]
    for content in [*({**sound, "result": part} for part in broken), {}, [], None]:
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=r"a.json is .*damaged.*: remove it to measure again"):
            KeptResults(cfg).get("a", lambda: result)
    path.write_text("{")
    with pytest.raises(ValueError, match="a.json is not valid JSON"):
        KeptResults(cfg).get("a", lambda: result)


def test_parts_of_street(tmp_path):
    """What a drawing that was cut off has noted: damaged parts are drawn again."""
    make_dataset(tmp_path / "whole", {"val": 3})
    expected = (tmp_path / "whole" / "annotations" / "val.json").read_bytes()
    for number, content in enumerate([b"", b"[", b"{}", b"[1]", b"\xff"]):
        root = tmp_path / str(number)
        make_dataset(root, {"val": 3})
        (root / "annotations" / "val.json").unlink()
        part = root / ".parts" / "val" / "000000-000003.json"
        part.parent.mkdir(parents=True)
        part.write_bytes(content)
        make_dataset(root, {"val": 3})
        assert (root / "annotations" / "val.json").read_bytes() == expected
