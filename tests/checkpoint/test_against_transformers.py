"""The same weights on two ways: by transformers' names, and by the official ones and the converter.

That the first gives the same detections as transformers is what the tests of the models show.
"""

import pytest
import torch

from fisher_detr.checkpoint.convert import to_ours, with_repeated
from fisher_detr.checkpoint.recognition import recognise_official
from tests.oracles.hf_detectors import build_hf_dab_detr, build_hf_deformable_detr, build_hf_detr
from tests.oracles.hf_names import to_official_names, to_our_names

REFINE = {"with_box_refine": True}


@pytest.mark.parametrize(
    ("family", "build", "options"),
    [
        ("detr", build_hf_detr, {}),
        ("deformable", build_hf_deformable_detr, {}),
        ("deformable", build_hf_deformable_detr, REFINE),
        ("deformable", build_hf_deformable_detr, REFINE | {"two_stage": True}),
        ("dab", build_hf_dab_detr, {}),
        ("dab", build_hf_dab_detr, {"num_patterns": 3}),
    ],
)
def test_converted_weights_are_those_of_the_parity_tests(family, build, options):
    state = build(5, **options).state_dict()
    official = to_official_names(state, family)
    architecture = recognise_official(official)
    found = with_repeated(to_ours(official, architecture), architecture)
    expected = to_our_names(state)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    assert architecture.depth == 18
    assert architecture.patterns == options.get("num_patterns", 0)
    assert architecture.two_stage == options.get("two_stage", False)
    assert architecture.refinement == options.get("with_box_refine", False)
