import compileall
import importlib.util
import subprocess
import sys
import types

import install_detectron2 as tool
import numpy as np
import pytest
import torch

import fisher_detr._detectron2 as gate


def official_tree(root):
    """The smallest tree that `port` accepts: in every file only what is substituted."""
    samples = {
        "__init__.py": '__version__ = "0.6"',
        "data/transforms/transform.py": "interp = Image.LINEAR",
        "data/build.py": "np.int, np.int",
        "data/datasets/pascal_voc.py": "np.str",
        "evaluation/pascal_voc_evaluation.py": "np.bool, np.bool",
        "evaluation/sem_seg_evaluation.py": "np.int, np.int" + ", np.float" * 5,
        "structures/masks.py": "np.bool, np.bool, np.bool",
        "utils/video_visualizer.py": "np.bool",
        "utils/visualizer.py": "np.bool, np.bool, np.bool, np.bool_, np.float32",
        "model_zoo/model_zoo.py": "import pkg_resources\ncfg_file = pkg_resources.resource_filename(\n"
        '    "detectron2.model_zoo", os.path.join("configs", config_path)\n)',
        "layers/deform_conv.py": "from detectron2 import _C",
        "layers/roi_align_rotated.py": "from detectron2 import _C",
        "layers/rotated_boxes.py": "from detectron2 import _C",
        "layers/nms.py": "def nms_rotated():\n    return torch.ops.detectron2.nms_rotated(boxes)",
        "evaluation/coco_evaluation.py": "from detectron2.evaluation.fast_eval_api import COCOeval_opt",
        "utils/collect_env.py": 'f"not built correctly: {e}"',
    }
    for name, text in samples.items():
        path = root / "detectron2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_port_substitutes_and_leaves_the_rest(tmp_path):
    source = official_tree(tmp_path)
    tool.port(source)
    package = source / "detectron2"
    assert (package / "__init__.py").read_text() == '__version__ = "0.6+py"\n'
    assert (package / "utils/visualizer.py").read_text() == "bool, bool, bool, np.bool_, np.float32\n"
    assert (package / "model_zoo/model_zoo.py").read_text() == (
        "from importlib import resources\n"
        'cfg_file = str(resources.files("detectron2.model_zoo").joinpath("configs", config_path))\n'
    )
    assert (package / "_compiled.py").is_file()
    assert 'version="0.6+py"' in (source / "setup.py").read_text()
    assert compileall.compile_dir(source, quiet=1)


def test_port_refuses_a_changed_source(tmp_path):
    source = official_tree(tmp_path)
    (source / "detectron2/structures/masks.py").write_text("np.bool\n")
    with pytest.raises(tool.PortError, match=r"/structures/masks\.py has 1 matches .* expected 3"):
        tool.port(source)
    with pytest.raises(tool.PortError, match=r"detectron2/__init__\.py has 0 matches"):
        tool.port(source)  # ported already


def test_port_refuses_a_missing_file(tmp_path):
    with pytest.raises(tool.PortError, match=r"detectron2/__init__\.py is missing"):
        tool.port(tmp_path)


def test_unpack_refuses_another_archive(tmp_path):
    archive = tmp_path / "pb1-detectron2-0.6.tar.gz"
    archive.write_bytes(b"not it")
    with pytest.raises(tool.PortError, match=f"has sha256 [0-9a-f]{{64}}, expected {tool.SHA256}"):
        tool.unpack(archive, tmp_path)


def test_failing_pip_is_one_line(monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: Retrying\nERROR: No matching distribution\n")
    monkeypatch.setattr(tool.subprocess, "run", lambda *args, **kwargs: failed)
    assert tool.main(["--force"]) == 1
    assert capsys.readouterr().err == (
        "install_detectron2: pip download failed: ERROR: No matching distribution\n"
    )


def test_build_tools_come_first(monkeypatch):
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(tool.PortError, match="^torch missing here"):
        tool.install()


def test_nothing_to_do_where_it_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(tool, "install", lambda: pytest.fail("installed again"))
    assert tool.main([]) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("spec", [None, types.SimpleNamespace(origin=None)], ids=["absent", "mere folder"])
def test_import_says_how_to_get_it(monkeypatch, spec):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert not tool.is_installed()
    with pytest.raises(ImportError, match=r"run `python tools/install_detectron2\.py`"):
        gate.require_detectron2()


@pytest.fixture
def ported():
    """Skip where the environment has a Detectron2 of its own."""
    import detectron2

    if detectron2.__version__ != tool.VERSION:
        pytest.skip(f"detectron2 {detectron2.__version__} is not the ported one")


@pytest.mark.usefixtures("ported")
class TestPorted:
    def test_compiled_operators_fail_where_they_are_called(self):
        from detectron2.layers import ROIAlignRotated, nms_rotated
        from detectron2.layers.rotated_boxes import pairwise_iou_rotated

        boxes = torch.tensor([[5.0, 5.0, 4.0, 2.0, 30.0]])
        with pytest.raises(NotImplementedError, match=r"_C\.box_iou_rotated is a compiled operator"):
            pairwise_iou_rotated(boxes, boxes)
        with pytest.raises(NotImplementedError, match=r"_C\.nms_rotated .*\(0\.6\+py\) is pure Python"):
            nms_rotated(boxes, torch.ones(1), 0.5)
        with pytest.raises(NotImplementedError, match=r"_C\.roi_align_rotated_forward"):
            ROIAlignRotated(2, 1.0, 0)(torch.ones(1, 1, 8, 8), torch.cat([torch.zeros(1, 1), boxes], dim=1))

    def test_deformable_convolution_runs_on_the_cpu(self):
        from detectron2.layers import DeformConv

        layer = DeformConv(1, 1, 3, padding=1)
        image = torch.arange(16.0).reshape(1, 1, 4, 4)
        # Without offsets it is a plain convolution.
        plain = torch.nn.functional.conv2d(image, layer.weight, padding=1)
        assert torch.allclose(layer(image, torch.zeros(1, 18, 4, 4)), plain, atol=1e-5)

    def test_coco_evaluation_is_that_of_pycocotools(self):
        from detectron2.evaluation import coco_evaluation
        from pycocotools.cocoeval import COCOeval

        assert coco_evaluation.COCOeval_opt is COCOeval

    def test_numpy_pillow_and_importlib_replacements_work(self):
        from detectron2 import model_zoo
        from detectron2.data.build import print_instances_class_histogram
        from detectron2.data.transforms import ExtentTransform
        from detectron2.structures.masks import polygons_to_bitmask
        from detectron2.utils.visualizer import GenericMask

        assert polygons_to_bitmask([np.array([0.0, 0, 4, 0, 4, 4, 0, 4])], 4, 4).dtype == bool
        assert GenericMask(np.ones((4, 4), dtype=bool), 4, 4).area() == 16
        pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
        assert np.array_equal(ExtentTransform((0, 0, 4, 4), (4, 4)).apply_image(pixels), pixels)
        print_instances_class_histogram([{"annotations": [{"category_id": 0}]}], ["person"])
        assert model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml").MODEL.RESNETS.DEPTH == 50

    def test_environment_report_says_what_is_absent(self):
        from detectron2.utils.collect_env import collect_env_info

        assert "not built: 0.6+py is pure Python" in collect_env_info()


@pytest.mark.slow
def test_archive_ports_and_builds(tmp_path):
    """Needs the package index."""
    source = tool.unpack(tool.fetch(tmp_path), tmp_path / "source")
    tool.port(source)
    tool.run_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source)
    target = tmp_path / "target"
    tool.run_pip("install", "--no-deps", "--no-index", "--target", target, next(tmp_path.glob("*.whl")))
    code = "import detectron2.projects.point_rend as p; print(p.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=target, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(str(target))
