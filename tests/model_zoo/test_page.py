import dataclasses
import json

import pytest

from fisher_detr.model_zoo import PAPER_TABLES, Metric, ZooEntry, read_studies, render_page

STUDY = {
    "title": "Arms on street",
    "command": "python benchmarks/bench.py",
    "text": ["First.", "Second."],
    "environment": {"torch": "2.11.0", "device": "CPU, two cores"},
    "tables": [
        {
            "caption": "What was measured",
            "columns": ["arm", "AP", "gain", "bytes"],
            "rows": [["uniform", 10, None, 1234567], ["a|b", 12.346, "+2.3 [+1, +3]", 1]],
        }
    ],
}


def rows(page, columns):
    """Cells of the table with these columns, one tuple a row."""
    table = page.split(f"| {' | '.join(columns)} |\n")[1].split("\n\n")[0]
    return [tuple(line[2:-2].split(" | ")) for line in table.splitlines()[1:]]


def quoted(name, value):
    return ZooEntry(name, name.upper(), "COCO", "val", {"AP": Metric(value)}, quoted="Someone, 2020")


def test_full_precision_stands_above_its_low_bit_versions(full, quantized):
    entries = [
        quantized(3, "fisher_critical", "person"),
        quantized(3),
        quantized(4.5),
        dataclasses.replace(quoted("someones", 50.0), data_set="street", split="test"),
        full,
    ]
    columns = "name model weights activations arm critical-set parameters size AP origin"
    table = rows(render_page(entries), [name.replace("-", " ") for name in columns.split()])
    assert [row[:6] for row in table] == [
        ("`toy`", "Toy", "float32", "", "", ""),
        ("`toy_uniform_4p5`", "Toy", "4.5 bits", "8 bits", "uniform", ""),
        ("`toy_uniform_3`", "Toy", "3 bits", "8 bits", "uniform", ""),
        ("`toy_fisher_critical_3`", "Toy", "3 bits", "8 bits", "fisher_critical", "person"),
        ("`someones`", "SOMEONES", "float32", "", "", ""),
    ]
    assert table[0][6:] == ("1.7 M", "6.80 MB", "41.3", "measured")
    assert table[-1][6:] == ("", "", "50.0", "quoted")


def test_columns_without_content_are_left_out():
    page = render_page([quoted("a", 1.0), quoted("b", 2.0)])
    assert rows(page, ["name", "model", "weights", "AP", "origin"]) == [
        ("`a`", "A", "float32", "1.0", "quoted"),
        ("`b`", "B", "float32", "2.0", "quoted"),
    ]
    assert "- `a`, `b`: Someone, 2020\n" in page


def test_data_sets_that_were_measured_on_come_first(full):
    page = render_page([quoted("a", 1.0), full])
    assert page.index("## street test\n") < page.index("## COCO val\n")


def test_sets_and_categories_have_tables_of_their_own(full, quantized):
    page = render_page([full, quantized(4)])
    assert rows(page, ["name", "APcrit_person"]) == [("`toy`", "33.0")]
    assert rows(page, ["name", "APcat_child"]) == [("`toy_uniform_4`", "8.0")]


def test_every_command_stands_with_what_it_took(full):
    shipped = dataclasses.replace(full, file="toy.pth", sha256="0a" * 32)
    page = render_page([shipped])
    assert "[`toy`](fisher_detr/model_zoo/weights/toy.pth)" in page
    assert "**`toy`**, config [configs/toy.yaml](configs/toy.yaml):" in page
    assert "```bash\npython tools/train_net.py --eval-only\n```" in page
    assert "Measured 2025-01-31 with torch 2.11.0 on CPU, two cores in 1 min 1 s." in page
    assert "Tolerance: 0.1 (AP); 0.3 (APcrit_person)." in page
    assert "Made in 2 h 5 min by\n\n```bash\npython tools/train_net.py\n```" in page
    assert "0a" * 32 in page


def test_a_study_is_a_section(tmp_path):
    (tmp_path / "arms.json").write_text(json.dumps(STUDY))
    (study,) = read_studies(tmp_path)
    page = render_page([], [study])
    assert page[page.index("## Arms") :] == (
        "## Arms on street\n\nFirst.\n\nSecond.\n\n```bash\npython benchmarks/bench.py\n```\n\n"
        "Measured with torch 2.11.0; device CPU, two cores.\n\n**What was measured**\n\n"
        "| arm | AP | gain | bytes |\n| --- | ---: | ---: | ---: |\n"
        "| uniform | 10 |  | 1,234,567 |\n| a\\|b | 12.35 | +2.3 [+1, +3] | 1 |\n"
    )


def test_studies_may_be_absent(tmp_path):
    assert read_studies(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": 1}, "title is 1, expected a text"),
        ({"note": ""}, "unknown key note"),
        ({"text": "First."}, "text is 'First.', expected a list"),
        ({"environment": {"torch": "2.11.0"}}, "environment lacks device"),
        ({"tables": [{"caption": ""}]}, "missing key tables.0.columns; missing key tables.0.rows"),
        (
            {"tables": [{"caption": "", "columns": ["a"], "rows": [["1", "2"]]}]},
            "tables.0: row 0 has 2 cells, expected 1",
        ),
        (
            {"tables": [{"caption": "", "columns": ["a"], "rows": [[["1"]]]}]},
            "tables.0: row 0 is .*, expected texts and numbers",
        ),
    ],
)
def test_a_broken_study_is_named(tmp_path, change, message):
    (tmp_path / "arms.json").write_text(json.dumps(STUDY | change))
    with pytest.raises(ValueError, match=rf"arms\.json: {message}"):
        read_studies(tmp_path)


def test_tables_that_nobody_has_measured():
    table = PAPER_TABLES["qat_cityscapes"]
    page = render_page([], [], [table])
    found = rows(page, ["model", "bits", "qat", "qat_overall", "qat_critical"])
    assert len(found) == 12 and found[0] == ("DETR, ResNet-50", "4", *["not measured here"] * 3)
    assert "python tools/reproduce.py qat_cityscapes --checkpoints checkpoints\n" in page
    assert "Tables of the paper" not in render_page([])


def test_official_checkpoints_have_their_converter():
    converted = dataclasses.replace(
        quoted("a", 1.0),
        config="configs/a.yaml",
        converter="python tools/convert_checkpoint.py b --output a.pth",
    )
    expected = (
        "python tools/convert_checkpoint.py b --output a.pth\n"
        "python tools/train_net.py --config-file configs/a.yaml --eval-only MODEL.WEIGHTS a.pth\n"
    )
    assert expected in render_page([converted])


def test_weights_elsewhere_are_linked(full):
    fetched = dataclasses.replace(full, file="toy.pth", sha256="0a" * 32, url="https://a/toy.pth")
    assert "[`toy`](https://a/toy.pth)" in render_page([fetched])
