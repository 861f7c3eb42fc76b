"""Loading: what fits is taken, what does not is named, and nothing in a file is run."""

import os
import pickle
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch

from fisher_detr.checkpoint import SafeCheckpointer, load_tensors
from fisher_detr.quantization import quantize_model
from tests.checkpoint.small_detr import make_detr, make_resnet_detr


class RunsCode:
    """What a malicious file holds: unpickling it would make the file `victim`."""

    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return subprocess.check_call, (["touch", str(self.victim)],)


def save(path, content):
    torch.save(content, path)
    return str(path)


def dump(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


def random_like(state):
    """Other values of the same shapes; all positive, as variances must be."""
    generator = torch.Generator().manual_seed(7)
    return {
        key: torch.rand(value.shape, generator=generator) if value.is_floating_point() else value
        for key, value in state.items()
    }


def zoo_arrays(model):
    """The backbone as a file of Detectron2's zoo has it: NumPy arrays, names without prefix, a classifier."""
    state = {
        key.removeprefix("backbone."): value.numpy()
        for key, value in random_like(model.state_dict()).items()
        if key.startswith("backbone.") and not key.endswith("num_batches_tracked")
    }
    return state | {"stem.fc.weight": np.zeros((10, 4), np.float32), "stem.fc.bias": np.zeros(10, np.float32)}


def assert_backbone_is(model, arrays):
    for key, value in model.backbone.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value.numpy(), arrays[key], err_msg=key)


# Files that cannot be read


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint .*gone.pth does not exist: check MODEL.WEIGHTS"):
        SafeCheckpointer(make_detr()).load(str(tmp_path / "gone.pth"))


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_file(tmp_path, zipped):
    whole = tmp_path / "whole.pth"
    torch.save({"model": {"a": torch.zeros(100)}}, whole, _use_new_zipfile_serialization=zipped)
    content = whole.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(0, len(content), max(1, len(content) // 40)):
        cut.write_bytes(content[:length])
        with pytest.raises(
            ValueError, match="cannot read checkpoint .*cut.pth .*: fetch or make it again"
        ) as e:
            load_tensors(cut)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"version https://git-lfs", os.urandom(300)])
def test_file_that_is_no_checkpoint(tmp_path, content):
    for name in ("a.pth", "a.pkl"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"cannot read .*{name}") as error:
            SafeCheckpointer(make_detr()).load(str(tmp_path / name))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3)], ids=["list", "tensor"])
def test_file_that_is_no_dictionary(tmp_path, content):
    with pytest.raises(ValueError, match="holds a (list|Tensor): expected a dictionary"):
        load_tensors(save(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    "content", [{"model": 5}, {"model": {"a": "text"}}, {"model": {3: torch.zeros(1)}}, {"epoch": 3}], ids=str
)
def test_dictionary_without_weights(tmp_path, content):
    with pytest.raises(
        ValueError, match="something else than weights: (int|a|3|epoch); expected arrays by name"
    ):
        SafeCheckpointer(make_detr()).load(save(tmp_path / "a.pth", content))


@pytest.mark.parametrize("where", ["weights", "beside"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, where):
    victim = tmp_path / "victim"
    model = make_detr()
    content = {"model": model.state_dict(), "args": RunsCode(victim)}
    if where == "weights":
        content["model"]["class_embed.bias"] = RunsCode(victim)
    path = save(tmp_path / "evil.pth", content)
    with pytest.raises(ValueError, match="asks for .*check_call, and only tensors are admitted") as e:
        SafeCheckpointer(model).load(path)
    assert "weights_only" not in str(e.value)  # torch's own message says how to load it all the same
    assert not victim.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, protocol):
    victim = tmp_path / "victim"
    path = dump(tmp_path / "evil.pkl", {"model": RunsCode(victim), "__author__": "me"}, protocol)
    with pytest.raises(ValueError, match="asks for .*check_call, and only NumPy arrays are admitted"):
        SafeCheckpointer(make_detr()).load(path)
    assert not victim.exists()


@pytest.mark.parametrize("name", ["ndarray.tofile", "load", "core.multiarray._reconstruct"])
def test_only_the_listed_names_of_numpy_are_admitted(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(b"cnumpy\n" + name.encode() + b"\n.")
    with pytest.raises(ValueError, match=f"asks for numpy.{name}"):
        SafeCheckpointer(make_detr()).load(str(tmp_path / "a.pkl"))


# Files of other models


def test_other_number_of_classes(tmp_path):
    path = save(tmp_path / "a.pth", {"model": make_detr(NUM_CLASSES=4).state_dict()})
    message = r"2 other shapes: class_embed.weight is \(5, 16\), the model has \(4, 16\), class_embed.bias"
    with pytest.raises(ValueError, match=message) as error:
        SafeCheckpointer(make_detr()).load(path)
    assert path in str(error.value)
    assert "number of classes" in str(error.value)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ({"DEC_LAYERS": 1}, "MODEL.DETR.DEC_LAYERS 1"),
        ({"DEC_LAYERS": 3}, "MODEL.DETR.DEC_LAYERS 3"),
        ({"ENC_LAYERS": 2, "DEC_LAYERS": 1}, "MODEL.DETR.ENC_LAYERS 2 MODEL.DETR.DEC_LAYERS 1"),
    ],
)
def test_other_depth(tmp_path, file, settings):
    path = save(tmp_path / "a.pth", {"model": make_detr(**file).state_dict()})
    with pytest.raises(ValueError) as error:
        SafeCheckpointer(make_detr()).load(path)
    title = "DETR, another backbone"
    assert (
        str(error.value) == f"checkpoint {path}: it holds {title}, the config builds another: set {settings}"
    )


def test_other_groups_of_the_same_number_of_queries(tmp_path):
    """The shapes agree, and inference would use other rows than it was trained for."""
    SafeCheckpointer(make_detr(QUERY_GROUPS=3, NUM_QUERIES=2), str(tmp_path)).save("a")
    with pytest.raises(ValueError, match="the config builds another: set MODEL.DETR.QUERY_GROUPS 3$"):
        SafeCheckpointer(make_detr(NUM_QUERIES=6)).load(str(tmp_path / "a.pth"))
    SafeCheckpointer(make_detr(QUERY_GROUPS=3, NUM_QUERIES=2)).load(str(tmp_path / "a.pth"))


def test_bare_state_dict(tmp_path):
    model, other = make_detr(), make_detr()
    SafeCheckpointer(other).load(save(tmp_path / "a.pth", random_like(model.state_dict())))
    expected = random_like(model.state_dict())
    assert all(torch.equal(value, expected[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize(("saved", "loaded"), [("BN", "FrozenBN"), ("FrozenBN", "BN")])
def test_batch_counters_may_be_missing_or_too_many(tmp_path, saved, loaded):
    source, model = make_detr(saved), make_detr(loaded)
    state = random_like(source.state_dict())
    counted = any(key.endswith("num_batches_tracked") for key in state)
    assert counted == (saved == "BN")
    SafeCheckpointer(model).load(save(tmp_path / "a.pth", {"model": state}))
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[key]), key


def test_parallel_prefix_is_dropped(tmp_path):
    model = make_detr()
    state = {f"module.{key}": value for key, value in random_like(model.state_dict()).items()}
    SafeCheckpointer(model).load(save(tmp_path / "a.pth", {"model": state}))
    assert torch.equal(model.class_embed.weight, state["module.class_embed.weight"])


# Backbones


def backbone_of(model):
    state = random_like(model.state_dict())
    return {key: value for key, value in state.items() if key.startswith("backbone.")}


def test_backbone_alone_only_where_asked_for(tmp_path):
    model = make_detr()
    path = save(tmp_path / "a.pth", {"model": backbone_of(model)})
    with pytest.raises(ValueError, match="missing keys: input_proj.weight"):
        SafeCheckpointer(model).load(path)
    SafeCheckpointer(model, backbone_only=True).load(path)
    assert_backbone_is(model, {k.removeprefix("backbone."): v for k, v in backbone_of(model).items()})


def test_backbone_must_be_whole(tmp_path):
    model = make_detr()
    state = backbone_of(model)
    del state["backbone.res3.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"1 missing keys: backbone.res3.0.conv1.weight"):
        SafeCheckpointer(model, backbone_only=True).load(save(tmp_path / "a.pth", {"model": state}))


def test_whole_model_must_fit_where_a_backbone_would_do(tmp_path):
    path = save(tmp_path / "a.pth", {"model": make_detr(NUM_CLASSES=4).state_dict()})
    with pytest.raises(ValueError, match="other shapes: class_embed.weight"):
        SafeCheckpointer(make_detr(), backbone_only=True).load(path)


def test_pickle_of_the_model_zoo(tmp_path):
    """R-50.pkl: arrays by the names of Detectron2's ResNet, matched to the backbone by their ends."""
    model = make_resnet_detr(50)
    arrays = zoo_arrays(model)
    path = dump(tmp_path / "R-50.pkl", {"model": arrays, "__author__": "me", "matching_heuristics": True})
    with pytest.raises(ValueError, match="missing keys: input_proj.weight"):
        SafeCheckpointer(model).load(path)
    SafeCheckpointer(model, backbone_only=True).load(path)
    assert_backbone_is(model, arrays)


def test_pickle_of_detectron1(tmp_path):
    """Arrays by Caffe2's names, with momentum; no author, no level "model"."""
    model = make_resnet_detr(50)
    blobs = {"conv1_w": np.full((64, 3, 7, 7), 0.5, np.float32), "conv1_w_momentum": np.zeros(1, np.float32)}
    path = dump(tmp_path / "detectron1.pkl", {"blobs": blobs})
    with pytest.raises(ValueError, match="missing keys: backbone.stem.conv1.norm.weight"):
        SafeCheckpointer(model, backbone_only=True).load(path)
    assert (model.backbone.stem.conv1.weight == 0.5).all()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_both_numpy_generations(tmp_path, protocol):
    """NumPy 1 wrote `numpy.core`, NumPy 2 writes `numpy._core`."""
    model = make_detr()
    arrays = OrderedDict(zoo_arrays(model))
    path = tmp_path / "a.pkl"
    dump(path, {"model": arrays, "__author__": "me", "matching_heuristics": True}, protocol)
    if protocol < 4:  # protocol 4 writes the length of each string before it
        path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    SafeCheckpointer(model, backbone_only=True).load(str(path))
    assert_backbone_is(model, arrays)


def test_backbone_of_another_depth_names_shapes(tmp_path):
    arrays = zoo_arrays(make_resnet_detr(50))
    path = dump(tmp_path / "R-50.pkl", {"model": arrays, "__author__": "me", "matching_heuristics": True})
    message = r"backbone.res2.0.conv1.weight is \(64, 64, 1, 1\), the model has \(64, 64, 3, 3\)"
    with pytest.raises(ValueError, match=message):
        SafeCheckpointer(make_resnet_detr(18), backbone_only=True).load(path)


def test_whole_model_of_the_zoo_as_pickle(tmp_path):
    """Exact names, arrays, no heuristics."""
    model = make_detr()
    state = {key: value.numpy() for key, value in random_like(model.state_dict()).items()}
    SafeCheckpointer(model).load(dump(tmp_path / "a.pkl", {"model": state, "__author__": "me"}))
    np.testing.assert_array_equal(model.class_embed.weight.detach().numpy(), state["class_embed.weight"])


def test_imagenet_weights(shared_data):
    """Real weights: a ResNet-18 to res4 with Detectron2's names."""
    path = shared_data("weights/resnet18_c4_imagenet.pth")
    model = make_resnet_detr(18)
    SafeCheckpointer(model, backbone_only=True).load(str(path))
    stored = load_tensors(path)
    stored = stored.get("model", stored)
    assert len(stored) > 50
    assert_backbone_is(model, {key.removeprefix("backbone."): value for key, value in stored.items()})


def test_other_widths_of_a_quantized_model(tmp_path):
    """What the modules themselves refuse comes back as one line too."""
    source, model = make_detr("FrozenBN"), make_detr("FrozenBN")
    quantize_model(source, bits=4, activation_bits=8)
    quantize_model(model, bits=4, activation_bits=6)
    message = r"input_quantizer: the state dict has 8 bits, the model 6; .* and \d+ more\): use the config"
    with pytest.raises(ValueError, match=message) as error:
        SafeCheckpointer(model).load(save(tmp_path / "a.pth", {"model": source.state_dict()}))
    assert "\n" not in str(error.value)
    assert str(error.value).count("the model 6") == 4
    assert str(tmp_path / "a.pth") in str(error.value)
