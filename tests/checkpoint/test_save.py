"""Saving: what is stored, and what a crash leaves behind."""

import os

import pytest
import torch
from torch import nn

from fisher_detr.checkpoint import SafeCheckpointer, load_tensors
from tests.checkpoint.small_detr import make_detr


def fill(model, value):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


@pytest.fixture
def model():
    model = nn.Linear(2, 3)
    fill(model, 1.0)
    return model


def test_saved_is_loaded_again(model, tmp_path):
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    SafeCheckpointer(model, str(tmp_path), optimizer=optimizer).save("first", iteration=7)
    other = nn.Linear(2, 3)
    empty = torch.optim.AdamW(other.parameters())
    checkpointer = SafeCheckpointer(other, str(tmp_path), optimizer=empty)
    extra = checkpointer.resume_or_load("", resume=True)
    assert extra["iteration"] == 7
    assert all(map(torch.equal, other.state_dict().values(), model.state_dict().values()))
    found, expected = (o.state_dict()["state"][0]["exp_avg"] for o in (empty, optimizer))
    assert torch.equal(found, expected)
    assert sorted(os.listdir(tmp_path)) == ["first.pth", "last_checkpoint"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left")])
def test_crash_while_writing_leaves_the_old_checkpoint(model, tmp_path, monkeypatch, error):
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model", iteration=1)
    before = (tmp_path / "model.pth").read_bytes()

    def crash(data, file):
        file.write(b"half of a checkpoint")
        raise error

    monkeypatch.setattr(torch, "save", crash)
    fill(model, 2.0)
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        checkpointer.save("model", iteration=2)
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        checkpointer.save("next", iteration=2)
    assert (tmp_path / "model.pth").read_bytes() == before
    assert (tmp_path / "last_checkpoint").read_text() == "model.pth"
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model.pth"]
    assert load_tensors(tmp_path / "model.pth")["iteration"] == 1


def test_crash_between_checkpoint_and_tag_keeps_the_old_tag(model, tmp_path, monkeypatch):
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("old")

    def crash(_name):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpointer, "tag_last_checkpoint", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("new")
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "old.pth")
    assert load_tensors(tmp_path / "new.pth")["model"]


def test_query_groups_are_told(tmp_path):
    """The rows of the queries do not tell how many groups they are of."""
    for groups in (1, 3):
        SafeCheckpointer(make_detr(QUERY_GROUPS=groups), str(tmp_path)).save(f"groups_{groups}")
        assert load_tensors(tmp_path / f"groups_{groups}.pth")["query_groups"] == groups
    SafeCheckpointer(nn.Linear(2, 3), str(tmp_path)).save("linear")
    assert "query_groups" not in load_tensors(tmp_path / "linear.pth")


def test_without_tag_the_last_checkpoint_stays(model, tmp_path):
    """A quantized model beside a training's checkpoints is nothing to resume from."""
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000004")
    checkpointer.save("model_quantized", tag=False, bits={"layer": 4})
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    content = load_tensors(tmp_path / "model_quantized.pth")
    assert content["bits"] == {"layer": 4}
    assert "tag" not in content


def test_other_processes_write_nothing(model, tmp_path):
    checkpointer = SafeCheckpointer(model, str(tmp_path))
    checkpointer.save_to_disk = False
    checkpointer.save("model")
    assert os.listdir(tmp_path) == []
