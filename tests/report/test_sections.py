"""What the sections say, against numbers that are known."""

import dataclasses
import json

import numpy as np
import pytest

from fisher_detr.files import write_json
from fisher_detr.report import find_arms, read_runs, read_samples, target_set
from fisher_detr.report.arms import config_file
from fisher_detr.report.categories import categories, category_rows
from fisher_detr.report.commands import Commands
from fisher_detr.report.headline import headline
from fisher_detr.report.landscape import landscape
from fisher_detr.report.layer_shares import find_shares, layer_names
from fisher_detr.report.layers import layers
from fisher_detr.report.origin import origin
from fisher_detr.report.pareto import pareto
from fisher_detr.report.samples import samples
from fisher_detr.report.traces import TracePoint, rank_correlation, trace_points, traces
from tests.report.runs import LAYERS, make_shared
from tests.report.runs import pareto as known_pareto
from tests.report.runs import traces as known_traces


@pytest.fixture
def arms(runs):
    return find_arms([str(runs)])


def commands_of(arms):
    return Commands(arms, "runs")


def texts(row):
    return [cell.text for cell in row]


def test_the_headline_has_differences_and_marks_the_best(arms):
    (table,) = headline(arms).blocks
    assert table.columns == ["arm", "AP", "APcrit person", "bits", "MB", "10⁹ bit operations"]
    assert texts(table.rows[0]) == ["full_precision", "50.0", "55.0", "32.00", "0.03", "32.0"]
    assert [cell.note for cell in table.rows[1]][:3] == ["", "−20.0", "−30.0"]
    assert [[cell.strong for cell in row][1:3] for row in table.rows] == [
        [False] * 2,
        [False] * 2,
        [True] * 2,
    ]
    assert "64 x 48 pixels" in table.caption


def test_nothing_stands_out_where_all_are_equal(arms):
    arms[2].evaluation["metrics"] = dict(arms[1].evaluation["metrics"])
    (table,) = headline(arms).blocks
    assert not any(cell.strong for row in table.rows for cell in row[1:3])


def test_costs_are_parts_of_the_reference_and_the_least_stands_out(arms):
    """Where they differ: a plan is compared with arms of the same size."""
    arms[2].coverage["average_bits"] = 2.0
    (table,) = headline(arms).blocks
    bits = [row[3] for row in table.rows]
    assert [cell.note for cell in bits] == ["", f"×\u00a0{float(bits[1].text) / 32:.2f}", "×\u00a00.06"]
    assert [cell.strong for cell in bits] == [False, False, True]
    arms[1].coverage["average_bits"] = 2.0
    (table,) = headline(arms).blocks
    assert not any(row[3].strong for row in table.rows)


def test_config_of_the_commands(arms):
    told = [
        dataclasses.replace(arm, provenance={"command": command})
        for arm, command in zip(
            arms,
            ("train_net.py --config-file", "train_net.py --config-file 'my configs/a.yaml' X 1", "other.py"),
            strict=True,
        )
    ]
    assert config_file(arms) is None and config_file(told) == "my configs/a.yaml"


def test_without_full_precision_the_first_arm_is_the_reference(arms):
    (table,) = headline(arms[1:]).blocks
    assert [row[1].note for row in table.rows] == ["", "+12.0"]


def test_an_unknown_value_is_a_dash(arms):
    metrics = dict.fromkeys(arms[1].evaluation["metrics"])
    arms[1].evaluation["metrics"].update(metrics)
    (table,) = headline(arms).blocks
    assert texts(table.rows[1])[1:3] == ["–", "–"]


def test_categories_are_sorted_by_their_largest_loss(arms):
    rows = category_rows(arms)
    assert [(row.name, row.loss) for row in rows] == [
        ("person", 30.0),
        ("car", 10.0),
        ("rider", 5.0),
        ("<i>sign</i>", None),  # nothing of it was to be found
    ]
    assert rows[0].sets == ("person",) and rows[1].sets == () and rows[0].objects == 40
    section = categories(arms)
    assert "person has −30.0 points against full_precision, rider −5.0" in section.lead
    assert [cell.note for cell in section.blocks[1].rows[0]][3:] == ["", "−30.0", "−5.0"]
    drawn = json.loads(section.blocks[0].spec)["data"]
    assert drawn[2]["name"] == "uniform" and drawn[2]["x"][:3] == [30.0, 60.0, 35.0]


def test_layers_know_their_part_of_the_damage(arms):
    shares = find_shares(arms)
    assert shares.bits == 4 and list(shares.critical) == ["person"]
    assert shares.overall == pytest.approx([0.4, 0.1, 0.5])
    assert shares.critical["person"] == pytest.approx([0.9, 0.05, 0.05])
    assert shares.size == pytest.approx([0.1, 0.3, 0.6])
    chart, table = layers(arms, commands_of(arms)).blocks
    # The objectives differ by 0.5, 0.45 and 0.05.
    assert [row[0].text for row in table.rows] == [LAYERS[0].name, LAYERS[2].name, LAYERS[1].name]
    assert texts(table.rows[0])[1:] == ["40.0%", "90.0%", "10.0%", "4", "8"]
    bars = {trace["name"]: trace["y"] for trace in json.loads(chart.spec)["data"]}
    assert bars["fisher_critical"] == [8, 3, 4]


def test_layers_know_every_critical_set_of_a_plan(arms):
    """One plan for several sets leaves a file of sensitivities for each."""
    (of_person,) = arms[2].sensitivity.values()
    terms = of_person.terms | {"critical": np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 8.0]])}
    of_sign = dataclasses.replace(of_person, terms=terms, meta={"critical_set": {"name": "<i>sign</i>"}})
    both = dataclasses.replace(arms[2], sensitivity={"person": of_person, "sign": of_sign})
    for found in ([*arms, both], [both, *arms]):
        assert list(find_shares(found).critical) == ["person", "<i>sign</i>"]
    chart, table = layers([arms[1], both], commands_of(arms)).blocks
    assert [str(title) for title in table.columns][:4] == [
        "layer",
        "overall",
        "critical: person",
        "critical: <i>sign</i>",
    ]
    # By the set that is furthest from the overall objective: 0.5 of person, 0.5 and 0.1 of sign.
    assert [row[0].text for row in table.rows] == [LAYERS[0].name, LAYERS[2].name, LAYERS[1].name]
    assert texts(table.rows[1])[1:4] == ["50.0%", "5.0%", "100.0%"]
    drawn = {trace["name"]: trace for trace in json.loads(chart.spec)["data"]}
    assert drawn["critical: &lt;i&gt;sign&lt;/i&gt;"]["y"] == [None, None, 1.0]
    looks = [(drawn[name]["line"]["color"], drawn[name]["marker"]["symbol"]) for name in list(drawn)[2:5]]
    assert len(set(looks)) == 3


def test_sensitivities_that_an_earlier_plan_has_left_are_refused(arms):
    (table,) = arms[2].sensitivity.values()
    old = dataclasses.replace(table, widths=(2, 8))
    mixed = dataclasses.replace(arms[2], sensitivity={"": old, "person": table})
    with pytest.raises(ValueError, match="^fisher_critical: sensitivities of one plan are of different"):
        layers([mixed], commands_of(arms))


def test_the_widths_of_many_plans_are_a_map(arms):
    many = [arms[0], *(dataclasses.replace(arms[2], name=f"<b>plan</b> {i}") for i in range(7))]
    few, table = layers(many[:7], commands_of(many)).blocks
    assert [trace["type"] for trace in json.loads(few.spec)["data"][:6]] == ["bar"] * 6
    assert table.columns[-1] == "bits, <b>plan</b> 5"
    chart, table = layers(many, commands_of(many)).blocks
    (drawn, *_) = json.loads(chart.spec)["data"]
    assert drawn["type"] == "heatmap" and drawn["z"] == [[8, 3, 4]] * 7
    assert drawn["y"][-1] == "&lt;b&gt;plan&lt;/b&gt; 6" and drawn["customdata"][0][1] == LAYERS[1].name
    assert table.columns[-1] == "size" and chart.height < few.height


def test_layers_stand_in_the_order_of_the_network(arms):
    """Also where no sensitivities tell it: a plan's file is sorted by name."""
    names = [layer.name for layer in LAYERS]
    assert layer_names(arms) == tuple(names)
    uniform = dataclasses.replace(arms[1], coverage={"products": [{"name": name} for name in names]})
    assert list(uniform.allocation.bits) != names
    assert layer_names([arms[0], uniform]) == tuple(names)


def test_without_plans_and_sensitivities_the_section_says_what_makes_them(arms):
    (missing,) = layers(arms[:1], commands_of(arms)).blocks
    assert missing.what == "No arm has allocation.json or sensitivity.json."
    *_, missing = layers(arms[:2], commands_of(arms)).blocks
    assert missing.what == "No arm has sensitivity.json."
    assert "ALLOCATION.ARM fisher_critical OUTPUT_DIR runs/fisher_critical" in missing.command


def test_traces_stand_against_what_is_lost(arms):
    points = {(point.name, point.is_set): point for point in trace_points(arms, known_traces())}
    assert points["person", False].losses == (0.0, 30.0, 5.0)
    assert points["person", True].losses == (0.0, 30.0, 5.0)  # of APcrit
    assert points["<i>sign</i>", False].losses == (None, None, None)  # called as in the evaluation
    assert points["rider", False].trace == 5.0 and points["rider", False].error == 0.5
    assert len(points) == 5  # the overall trace has no category
    chart, table, values = traces(arms, known_traces(), commands_of(arms)).blocks
    assert texts(values.rows[0]) == ["person", "30", "30.0", "5.0"] and values.rows[0][1].note == "± 3"
    assert "16 images" in chart.caption
    assert texts(table.rows[0]) == ["uniform", "–", ""]  # three categories tell nothing


def test_rank_correlation_with_its_interval():
    rising = [TracePoint(str(i), False, float(i), None, (0.0, float(i**2))) for i in range(8)]
    aside = TracePoint("set", True, 100.0, None, (0.0, -1.0))
    assert rank_correlation([*rising, aside], 1) == pytest.approx((1.0, 1.0, 1.0))
    noisy = [TracePoint(str(i), False, float(i), None, (0.0, float((5 * i) % 8))) for i in range(8)]
    found, low, high = rank_correlation(noisy, 1)
    assert -1.0 <= low < found < high <= 1.0
    assert rank_correlation(rising[:3], 1) is None and rank_correlation(rising, 0) is None


def test_landscape_has_the_overall_objective_first_and_rises_from_zero(runs):
    make_shared(runs)
    lines, sharpness, *planes = landscape(read_runs([str(runs)]).landscape, Commands([], "runs")).blocks
    assert sharpness.columns[1:] == [
        "overall, step 0.1",
        "overall, step 0.2",
        "critical, step 0.1",
        "critical, step 0.2",
    ]
    line = next(x for x in json.loads(lines.spec)["data"] if x.get("name") == "qat")
    assert np.asarray(line["y"]) == pytest.approx([0.08, 0.02, 0.0, 0.02, 0.08])
    assert ["overall loss" in planes[0].caption, "critical (person)" in planes[1].caption] == [True, True]
    for plane in planes:
        assert np.asarray(json.loads(plane.spec)["data"][0]["z"])[0] == pytest.approx([0.4, 0.2, 0.4])


def test_pareto_shows_what_was_predicted_and_measured(arms, runs):
    make_shared(runs)
    plans = read_runs([str(runs)]).plans
    measured, curve = pareto(arms, plans, commands_of(arms)).blocks
    lines = {x["name"]: x["y"] for x in json.loads(measured.spec)["data"]}
    assert lines["overall, predicted"] == [0.5, 0.25, 0.5 / 3]
    assert lines["overall, measured"] == [0.4, 0.2, 0.4 / 3]
    assert [x["name"] for x in json.loads(curve.spec)["data"]] == ["best plans", "fisher_critical"]
    unmeasured = [{**plan, "meta": {"arm": "fisher_critical"}} for plan in plans]
    assert "--measure 5" in pareto(arms, unmeasured, commands_of(arms)).blocks[0].command


def test_samples_are_the_images_with_most_critical_objects(arms):
    chosen = target_set(arms)
    assert (chosen.name, chosen.indices, chosen.num_classes) == ("person", (0, 1), 4)
    (first,) = read_samples(arms, chosen, 1)
    assert first.image[0, 0].tolist() == [120, 120, 120]  # image 2
    assert first.objects.boxes.tolist() == [[0, 0, 10, 20], [30, 0, 40, 20]]
    assert first.objects.classes.tolist() == [0, 1]
    assert len(first.detections["full_precision"].boxes) == 2 and len(first.detections["uniform"].boxes) == 1
    galleries = samples(arms, commands_of(arms), "person", 2).blocks
    captions = [picture.caption for picture in galleries[0].pictures]
    assert captions == [
        "full_precision: 0 of 2 missed",
        "uniform: 1 of 2 missed",
        "fisher_critical: 1 of 2 missed",
    ]
    # The crowd of image 1 is nothing to miss.
    assert galleries[1].pictures[0].caption == "full_precision: 0 of 0 missed"


def test_images_that_have_moved_are_asked_for(arms, tmp_path):
    (tmp_path / "data").rename(tmp_path / "moved")
    (missing,) = samples(arms, commands_of(arms)).blocks
    assert "does not exist" in missing.what and "--images" in missing.command
    moved = tmp_path / "moved"
    found = samples(arms, commands_of(arms), "", 2, str(moved / "images"), str(moved / "annotations.json"))
    assert len(found.blocks) == 2


def test_an_unknown_target_is_named(arms):
    with pytest.raises(ValueError, match="critical set 'bus' was not evaluated: expected one of person"):
        target_set(arms, "bus")


def test_origin_tells_of_arms_and_of_files_that_belong_to_all(arms, runs):
    make_shared(runs)
    data = read_runs([str(runs)])
    shared = {"traces.json": data.traces, "landscape.json": data.landscape, "pareto.json": data.pareto}
    table, *configs = origin(arms, {**shared, "old.json": {"num_images": 1}}, commands_of(arms)).blocks
    names = ["traces.json", "landscape.json: full_precision", "landscape.json: qat", "pareto.json"]
    assert [row[0].text for row in table.rows] == [*(arm.name for arm in arms), *names]
    assert texts(table.rows[3])[1:3] == ["train_net.py --arm full_precision", "7"]
    titles = [config.title for config in configs]
    assert titles[3:] == [f"Config of {name}" for name in names if not name.endswith("qat")]
    # Of the second model of a landscape the file has no config and no digest.
    began = {row[0].text: (row[3].text, row[3].note) for row in table.rows}
    assert began[names[1]] == ("model.pth", "0123456789ab") and began[names[2]] == ("qat.pth", "")
    # One that was written by hand: what it does not tell is left out.
    (table,) = origin([dataclasses.replace(arms[0], provenance={"seed": 3})], {}, commands_of(arms)).blocks
    assert texts(table.rows[0]) == [arms[0].name, "–", "3", "–", "–", ""]


def test_plans_without_their_origin_are_of_an_earlier_version(runs):
    write_json(runs / "pareto.json", known_pareto()["plans"])
    data = read_runs([str(runs)])
    assert data.plans == known_pareto()["plans"] and "provenance" not in data.pareto
