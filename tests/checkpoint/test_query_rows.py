"""Models trained with groups of queries: the official one has the first group, that of inference."""

import json
import os

import pytest
import safetensors
import torch
from safetensors.torch import save

from fisher_detr.checkpoint import (
    SafeCheckpointer,
    convert_official_file,
    load_tensors,
    restore_official_file,
)
from fisher_detr.files import sha256_of, write_sealed
from tests.checkpoint.official_models import small_model, small_tensors
from tests.oracles.official_keys import SMALL

QUERIES = SMALL["queries"]
# The official name of the rows and their width.
TABLES = {
    "detr_r50": ("query_embed.weight", 32),
    "deformable_refine": ("query_embed.weight", 64),
    "dab_r50": ("refpoint_embed.weight", 4),
}


def grouped(variant, groups=3):
    """A model of random queries, the groups one after the other."""
    torch.manual_seed(0)
    return small_model(variant, "MODEL.DETR.QUERY_GROUPS", groups)


def trained(folder, model, name="model_final"):
    SafeCheckpointer(model, str(folder)).save(name, iteration=7)
    return folder / f"{name}.pth"


def bare(path, model):
    torch.save({"model": model.state_dict()}, path)
    return path


def weights(path):
    return load_tensors(path)["model"]


@torch.no_grad()
def detect(model):
    (output,) = model([{"image": torch.full((3, 96, 64), 99.0)}])
    return output["queries"]


@pytest.mark.parametrize("variant", TABLES)
def test_official_file_has_the_first_group(tmp_path, variant):
    """A model of one group detects with it what the model of three groups does."""
    model, (table, width) = grouped(variant), TABLES[variant]
    manifest = restore_official_file(trained(tmp_path, model), tmp_path / "official.pth")
    rows = weights(tmp_path / "official.pth")[table]
    assert rows.shape == (QUERIES, width)
    assert torch.equal(rows, model.state_dict()[table][:QUERIES])
    assert rows.untyped_storage().nbytes() == rows.numel() * rows.element_size()
    assert manifest.other_queries == "official.queries.safetensors"
    assert manifest.architecture.query_groups == 3
    one = small_model(variant)
    SafeCheckpointer(one).load(str(tmp_path / "official.pth"))
    found, expected = detect(one), detect(model)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)


@pytest.mark.parametrize("variant", TABLES)
def test_there_and_back(tmp_path, variant):
    """Bit for bit, and the checkpoint loads into a model of three groups."""
    model = grouped(variant)
    restore_official_file(trained(tmp_path, model), tmp_path / "official.pth")
    manifest = convert_official_file(tmp_path / "official.pth", tmp_path / "ours.pth")
    back, expected = weights(tmp_path / "ours.pth"), model.state_dict()
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[key], value) for key, value in expected.items())
    assert manifest.other_queries == "official.queries.safetensors"
    written = json.loads((tmp_path / "ours.manifest.json").read_text())
    assert "MODEL.DETR.QUERY_GROUPS 3" in written["fits"]["settings"]
    SafeCheckpointer(grouped(variant)).load(str(tmp_path / "ours.pth"))
    # And once more from what came out, which tells its groups too.
    restore_official_file(tmp_path / "ours.pth", tmp_path / "again.pth")
    again, official = weights(tmp_path / "again.pth"), weights(tmp_path / "official.pth")
    assert all(torch.equal(again[key], value) for key, value in official.items())


def test_other_groups_do_not_come_back_without_their_file(tmp_path):
    restore_official_file(trained(tmp_path, grouped("dab_r50")), tmp_path / "official.pth")
    (tmp_path / "official.queries.safetensors").unlink()
    manifest = convert_official_file(tmp_path / "official.pth", tmp_path / "ours.pth")
    assert (manifest.other_queries, manifest.architecture.query_groups) == (None, 1)
    assert len(weights(tmp_path / "ours.pth")["refpoint_embed.weight"]) == QUERIES


@pytest.mark.parametrize("variant", ["detr_r50", "deformable_two_stage"])
def test_one_group_needs_no_side_file(tmp_path, variant):
    """Known of what was saved here and of what was converted; a two-stage model has no queries at all."""
    model = small_model(variant)
    converted = tmp_path / "converted.pth"
    torch.save({"model": small_tensors(variant)}, tmp_path / "official.pth")
    convert_official_file(tmp_path / "official.pth", converted)
    for source in (trained(tmp_path, model), converted):
        manifest = restore_official_file(source, tmp_path / "back.pth", force=True)
        assert (manifest.other_queries, manifest.architecture.query_groups) == (None, 1)
        assert not (tmp_path / "back.queries.safetensors").exists()
    if variant == "deformable_two_stage":
        restore_official_file(bare(tmp_path / "bare.pth", model), tmp_path / "back.pth", force=True)


# What the checkpoint does not tell


@pytest.mark.parametrize("groups", [1, 3])
def test_number_of_queries_by_hand(tmp_path, groups):
    path = bare(tmp_path / "bare.pth", grouped("detr_r50", groups))
    with pytest.raises(ValueError) as error:
        restore_official_file(path, tmp_path / "official.pth")
    assert str(error.value) == (
        f"checkpoint {path}: query_embed.weight has {groups * QUERIES} rows, and nothing tells of how many "
        "groups of queries: give --num-queries N with the MODEL.DETR.NUM_QUERIES that it was trained with"
    )
    assert os.listdir(tmp_path) == ["bare.pth"]
    manifest = restore_official_file(path, tmp_path / "official.pth", num_queries=QUERIES)
    assert manifest.architecture.query_groups == groups
    assert len(weights(tmp_path / "official.pth")["query_embed.weight"]) == QUERIES


@pytest.mark.parametrize("number", [0, -6, 4, 36])
def test_numbers_that_do_not_divide(tmp_path, number):
    path = bare(tmp_path / "bare.pth", grouped("detr_r50"))
    with pytest.raises(
        ValueError, match=f"--num-queries {number}: expected a divisor of the 18 rows of query"
    ):
        restore_official_file(path, tmp_path / "official.pth", num_queries=number)


def test_number_against_the_checkpoint(tmp_path):
    path = trained(tmp_path, grouped("detr_r50"))
    restore_official_file(path, tmp_path / "official.pth", num_queries=QUERIES)
    with pytest.raises(ValueError, match="has 18 rows of 3 groups, and --num-queries says 18: leave it out"):
        restore_official_file(path, tmp_path / "other.pth", num_queries=18)
    path = trained(tmp_path, small_model("deformable_two_stage"))
    with pytest.raises(ValueError, match="has no rows of queries, and --num-queries says 6: leave it out"):
        restore_official_file(path, tmp_path / "other.pth", num_queries=6)


@pytest.mark.parametrize("told", ["3", 0, -1, None, [3], torch.ones(1)])
def test_nonsense_beside_the_weights_tells_nothing(tmp_path, told):
    path = tmp_path / "a.pth"
    torch.save({"model": grouped("dab_r50").state_dict(), "query_groups": told}, path)
    with pytest.raises(ValueError, match="18 rows, and nothing tells of how many groups"):
        restore_official_file(path, tmp_path / "b.pth")


def test_more_groups_than_the_rows_divide_into(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"model": grouped("dab_r50").state_dict(), "query_groups": 4}, path)
    with pytest.raises(ValueError, match="refpoint_embed.weight has 18 rows, .* its record says 4 groups"):
        restore_official_file(path, tmp_path / "b.pth")


# Side files that do not belong


def test_side_files_that_do_not_belong(tmp_path):
    restore_official_file(trained(tmp_path, grouped("detr_r50")), tmp_path / "official.pth")
    side = tmp_path / "official.queries.safetensors"
    whole = side.read_bytes()
    torch.save({"model": small_tensors("detr_r50")}, tmp_path / "coco.pth")
    (tmp_path / "coco.queries.safetensors").write_bytes(whole)
    message = "coco.queries.safetensors beside it has the queries of another file: move it away"
    with pytest.raises(ValueError, match=message):
        convert_official_file(tmp_path / "coco.pth", tmp_path / "b.pth")
    (tmp_path / "coco.queries.safetensors").unlink()
    convert_official_file(tmp_path / "coco.pth", tmp_path / "c.pth")
    for content in (b"", b"text", whole[:100], whole[:-5], (tmp_path / "c.dropped.safetensors").read_bytes()):
        side.write_bytes(content)
        with pytest.raises(
            ValueError, match="is not a file of queries of other groups, or a damaged one"
        ) as e:
            convert_official_file(tmp_path / "official.pth", tmp_path / "b.pth")
        assert "\n" not in str(e.value)
    assert not list(tmp_path.glob("b.*"))


@pytest.mark.parametrize("shape", [(5, 32), (12, 16), (0, 32), (12,)])
def test_rows_that_are_not_the_groups(tmp_path, shape):
    restore_official_file(trained(tmp_path, grouped("detr_r50")), tmp_path / "official.pth")
    side = tmp_path / "official.queries.safetensors"
    with safetensors.safe_open(side, "pt") as file:
        metadata = file.metadata()
    assert metadata["official_sha256"] == sha256_of(tmp_path / "official.pth")
    write_sealed(side, save({"query_embed.weight": torch.zeros(shape)}, metadata))
    with pytest.raises(
        ValueError, match="which are not 2 groups more of query_embed.weight: it is of another"
    ):
        convert_official_file(tmp_path / "official.pth", tmp_path / "b.pth")


def test_side_file_of_before_goes(tmp_path):
    """One of another model would restore queries that are not this one's."""
    restore_official_file(trained(tmp_path, grouped("dab_r50")), tmp_path / "official.pth")
    with pytest.raises(FileExistsError, match="official.queries.safetensors"):
        restore_official_file(trained(tmp_path, small_model("dab_r50")), tmp_path / "official.pth")
    restore_official_file(tmp_path / "model_final.pth", tmp_path / "official.pth", force=True)
    assert not (tmp_path / "official.queries.safetensors").exists()
