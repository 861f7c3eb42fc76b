"""The command line of the converter."""

import convert_checkpoint
import pytest
import torch

from fisher_detr.checkpoint import load_tensors
from tests.checkpoint.official_models import small_model, small_tensors


@pytest.fixture
def official(tmp_path):
    path = tmp_path / "official.pth"
    torch.save({"model": small_tensors("detr_r50")}, path)
    return path


def run(*words) -> None:
    convert_checkpoint.main([str(word) for word in words])


def error(*words) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    message = stopped.value.code
    assert isinstance(message, str)
    assert message.startswith("convert_checkpoint: ")
    assert "\n" not in message
    return message


def test_there_and_back(official, tmp_path, capsys):
    run(official, "--output", tmp_path / "ours.pth")
    told = capsys.readouterr().out
    assert "official.pth is DETR, ResNet-50\n" in told
    assert "80 classes for 91 class rows, without rows 0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83\n" in told
    assert "458 official keys" in told
    assert "it fits configs/coco/detr_r50.yaml\n" in told
    assert "give --dc5 if it is" in told
    run(tmp_path / "ours.pth", "--to-official", "--output", tmp_path / "back.pth")
    assert "dropped rows: ours.dropped.safetensors" in capsys.readouterr().out
    back, expected = load_tensors(tmp_path / "back.pth")["model"], small_tensors("detr_r50")
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[key], value) for key, value in expected.items())


def test_options(official, tmp_path, capsys):
    run(official, "--output", tmp_path / "a.pth", "--classes", "reinit", "--num-classes", 4, "--dc5")
    told = capsys.readouterr().out
    assert "new rows for 4 classes: train them" in told
    assert "is DETR, ResNet-50 DC5" in told
    assert "it fits configs/coco/detr_r50_dc5.yaml\n" in told
    first = load_tensors(tmp_path / "a.pth")["model"]["class_embed.weight"]
    assert first.shape[0] == 5
    run(
        official,
        "--output",
        tmp_path / "a.pth",
        "--classes",
        "reinit",
        "--num-classes",
        4,
        "--seed",
        1,
        "--force",
    )
    assert not torch.equal(load_tensors(tmp_path / "a.pth")["model"]["class_embed.weight"], first)
    run(official, "--output", tmp_path / "b.pth", "--class-ids", 1, 3)
    assert load_tensors(tmp_path / "b.pth")["model"]["class_embed.weight"].shape[0] == 3
    run(tmp_path / "a.pth", "--output", tmp_path / "c.pth", "--to-official")
    (tmp_path / "b.dropped.safetensors").rename(tmp_path / "rows.safetensors")
    capsys.readouterr()
    run(tmp_path / "b.pth", "--output", tmp_path / "d.pth", "--to-official")
    assert "no file of dropped rows: 89 rows are made up, never predicted" in capsys.readouterr().out
    run(
        tmp_path / "b.pth",
        "--output",
        tmp_path / "e.pth",
        "--to-official",
        "--dropped",
        tmp_path / "rows.safetensors",
    )
    assert torch.equal(
        load_tensors(tmp_path / "e.pth")["model"]["class_embed.bias"],
        small_tensors("detr_r50")["class_embed.bias"],
    )


def test_groups_of_queries(tmp_path, capsys):
    model = small_model("detr_r50", "MODEL.DETR.QUERY_GROUPS", 3)
    torch.save({"model": model.state_dict()}, tmp_path / "ours.pth")
    back = ("--output", tmp_path / "back.pth")
    assert "give --num-queries N with" in error(tmp_path / "ours.pth", "--to-official", *back)
    run(tmp_path / "ours.pth", "--to-official", "--num-queries", 6, *back)
    told = "3 groups of queries: back.queries.safetensors has all but the first\n"
    assert told in capsys.readouterr().out
    assert len(load_tensors(tmp_path / "back.pth")["model"]["query_embed.weight"]) == 6
    run(tmp_path / "back.pth", "--output", tmp_path / "again.pth")
    again = capsys.readouterr().out
    assert told in again
    assert "it fits configs/coco/detr_r50.yaml with MODEL.DETR.QUERY_GROUPS 3\n" in again
    assert len(load_tensors(tmp_path / "again.pth")["model"]["query_embed.weight"]) == 18


def test_mistakes_are_one_line(official, tmp_path):
    output = ("--output", tmp_path / "a.pth")
    assert "gone.pth does not exist" in error(tmp_path / "gone.pth", *output)
    assert "needs the number of classes" in error(official, *output, "--classes", "reinit")
    assert "not 7: give it new rows" in error(official, *output, "--num-classes", 7)
    assert "expected a name that ends in .pth" in error(official, "--output", tmp_path / "a")
    run(official, *output)
    assert "exists: give another --output, or --force" in error(official, *output)
    assert "leave out --to-official" in error(official, "--output", tmp_path / "b.pth", "--to-official")


def test_keys_without_a_place_are_listed(tmp_path, capsys):
    tensors = small_tensors("detr_r50")
    del tensors["input_proj.bias"]
    torch.save({"model": tensors | {f"extra.{i}": torch.zeros(1) for i in range(30)}}, tmp_path / "a.pth")
    message = error(tmp_path / "a.pth", "--output", tmp_path / "b.pth")
    assert "30 keys have no place in it: " in message and "1 keys are missing: input_proj.bias" in message
    listed = capsys.readouterr().err.splitlines()
    assert sorted(listed) == sorted(
        [f"no place: extra.{i}" for i in range(30)] + ["missing: input_proj.bias"]
    )
    assert not (tmp_path / "b.pth").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--to-official", "--num-classes", "3"),
        ("--to-official", "--dc5"),
        ("--to-official", "--classes", "reinit"),
        ("--dropped", "x"),
        ("--num-queries", "6"),
        ("--classes", "keep"),
    ],
)
def test_options_that_do_not_go_together(official, tmp_path, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(official, "--output", tmp_path / "a.pth", *words)
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err
