"""Arms of a comparison, from folders."""

import shutil

import pytest

from fisher_detr.files import write_json
from fisher_detr.report import find_arms
from fisher_detr.report.arms import common_folder, find_shared, reference
from tests.report.runs import DATA, evaluation, make_runs, plan


def test_every_evaluation_is_an_arm_with_the_files_above_it(runs):
    arms = find_arms([str(runs)])
    assert [arm.name for arm in arms] == ["full_precision", "uniform", "fisher_critical"]
    full, uniform, critical = arms
    assert full.is_float and reference(arms) is full and full.allocation is None
    assert uniform.allocation == plan("uniform") and not uniform.sensitivity
    assert list(critical.sensitivity) == [""]
    assert critical.metric("APcrit_person") == 50.0 and critical.metric("APcat_9") is None
    assert critical.of_coverage("bit_operations") == 4e9


def test_a_plan_of_another_run_is_not_taken(runs):
    """The search ends at the folder that was named."""
    plan("uniform").save(runs / "allocation.json")
    (runs / "uniform" / "allocation.json").unlink()
    assert find_arms([str(runs / "uniform")])[0].allocation is None
    assert find_arms([str(runs)])[1].allocation is not None


def test_a_training_keeps_its_plan_in_start(runs):
    start = runs / "uniform" / "start"
    start.mkdir()
    shutil.move(runs / "uniform" / "allocation.json", start / "allocation.json")
    assert find_arms([str(runs / "uniform")])[0].allocation == plan("uniform")


def test_one_evaluation_may_be_given_a_name(runs):
    arms = find_arms([f"before={runs / 'full_precision'}", f"after={runs / 'uniform'}"])
    assert [arm.name for arm in arms] == ["before", "after"]
    with pytest.raises(ValueError, match="holds 3 evaluations, and has one name, all: name their folders"):
        find_arms([f"all={runs}"])


def test_folders_of_budgets_are_shown_by_their_arm_where_that_is_enough(runs):
    (runs / "uniform").rename(runs / "uniform_person_600bytes")
    assert [arm.name for arm in find_arms([str(runs)])] == ["full_precision", "uniform", "fisher_critical"]
    shutil.copytree(runs / "uniform_person_600bytes", runs / "uniform_person_700bytes")
    shutil.copytree(runs / "fisher_critical", runs / "fisher_critical_600bytes")
    names = [arm.name for arm in find_arms([str(runs)])]
    sized = ["uniform_person_600bytes", "fisher_critical_600bytes", "uniform_person_700bytes"]
    assert names == ["full_precision", "fisher_critical", *sized]  # by size, then by arm


def test_the_evaluator_alone_is_enough(tmp_path):
    write_json(tmp_path / "out" / "evaluation.json", evaluation("uniform"))
    (arm,) = find_arms([str(tmp_path / "out")])
    assert arm.name == "out" and not arm.is_float and arm.of_coverage("total_bytes") is None


def test_latency_is_read_where_it_was_measured(runs):
    write_json(runs / "full_precision" / "image_latency.json", {"milliseconds": 20.0})
    write_json(runs / "uniform" / "image_latency.json", {"milliseconds": 12.5})
    assert [arm.latency for arm in find_arms([str(runs)])] == [20.0, 12.5, None]


def test_shared_files_lie_above_or_below_the_runs(runs):
    folders = [str(runs / "uniform"), f"x={runs / 'full_precision'}"]
    assert find_shared(folders, "traces.json") is None
    write_json(runs / "uniform" / "traces.json", {})
    assert find_shared(folders, "traces.json") == runs / "uniform" / "traces.json"
    write_json(runs / "traces.json", {})
    assert find_shared(folders, "traces.json") == runs / "traces.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: [str(runs / "nowhere")], "does not exist: name the OUTPUT_DIR of a run"),
        (lambda runs: [str(runs.parent / "data")], "holds no evaluation.json, which every evaluation leaves"),
        (lambda runs: [f"a={runs / 'uniform'}", f"a={runs / 'full_precision'}"], "several arms are called a"),
    ],
)
def test_mistakes_in_the_folders(runs, change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_arms(change(runs))


def test_evaluations_on_two_data_sets_are_not_compared(runs, tmp_path):
    other = make_runs(tmp_path / "other", ["uniform"], dataset="toy_test")
    with pytest.raises(ValueError, match="evaluations on toy_test, toy_val: compare on one data set"):
        find_arms([f"full={runs / 'full_precision'}", f"uniform={other / 'uniform'}"])


@pytest.mark.parametrize("content", ["{", "[]", '{"dataset": "x"}'])
def test_a_broken_evaluation_is_named(runs, content):
    path = runs / "uniform" / "inference" / DATA / "evaluation.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=f"{path}"):
        find_arms([str(runs)])


def test_without_coverage_arms_stay_as_they_were_named_and_full_precision_comes_first(runs):
    for file in runs.rglob("coverage.json"):
        file.unlink()
    named = [f"qat={runs / 'fisher_critical'}", f"uniform={runs / 'uniform'}", str(runs / "full_precision")]
    arms = find_arms(named)
    assert [arm.name for arm in arms] == ["full_precision", "qat", "uniform"]
    assert reference(arms).name == "full_precision"
    assert [arm.name for arm in find_arms([f"full={runs / 'full_precision'}", named[1]])] == [
        "full",
        "uniform",
    ]


def test_the_folder_of_one_evaluation_keeps_the_plan_of_its_run(runs):
    (arm,) = find_arms([str(runs / "uniform" / "inference" / DATA)])
    assert arm.name == "uniform" and arm.allocation == plan("uniform")


def test_averaged_weights_are_an_arm_of_their_own(runs):
    averaged = runs / "uniform" / "ema" / "inference" / DATA
    shutil.copytree(runs / "uniform" / "inference" / DATA, averaged)
    (arm,) = find_arms([f"qat={runs / 'uniform'}"])
    assert "ema" not in arm.folder.parts
    (arm,) = find_arms([str(averaged)])
    assert arm.name == "uniform/ema" and arm.allocation == plan("uniform")
    assert len(find_arms([str(runs)])) == 4


@pytest.mark.parametrize("key", ["num_images", "categories", "sets"])
def test_what_is_not_alike_is_not_compared(runs, key):
    content = evaluation("uniform")
    content[key] = {"num_images": 1, "categories": content["categories"][:1], "sets": {"person": [3]}}[key]
    write_json(runs / "uniform" / "inference" / DATA / "evaluation.json", content)
    with pytest.raises(ValueError, match=f"the evaluations of .* differ in {key}: evaluate both"):
        find_arms([str(runs)])


def test_what_belongs_to_all_arms_goes_above_them(runs):
    assert common_folder([f"a={runs / 'uniform'}", str(runs / "full_precision")]) == runs.resolve()


def test_a_folder_may_have_an_equals_sign(runs):
    odd = runs.parent / "lr=0.1"
    runs.rename(odd)
    assert len(find_arms([str(odd)])) == 3
    assert find_arms([f"a={odd / 'uniform'}"])[0].name == "a"
