"""The page: whole, alone, and with what it lacks."""

import dataclasses
import html.parser
import json
import re

import pytest
from matplotlib.figure import Figure

from fisher_detr.report import ReportRequest, build_report, draw_figures, find_arms, read_runs
from fisher_detr.report.layers import draw_layers, drawn_heights
from tests.report.runs import CHARTS, make_shared

SECTIONS = ["arms", "categories", "layers", "traces", "landscape", "pareto", "samples", "origin"]


class Page(html.parser.HTMLParser):
    """Ids, links and embedded sources of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.sources = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids += [found["id"]] if "id" in found else []
        self.sources += [found[key] for key in ("src", "href") if key in found]


def test_the_page_has_all_sections_and_needs_no_other_file(page):
    text = page.read_text()
    found = Page(text)
    assert len(set(found.ids)) == len(found.ids)
    assert [name for name in found.ids if name in SECTIONS] == SECTIONS
    assert [name.removeprefix("chart-") for name in found.ids if name.startswith("chart-")] == CHARTS
    assert all(source.startswith(("#", "data:")) for source in found.sources)
    assert "<h1>A &amp; B</h1>" in text


def test_names_are_text_and_no_markup(page):
    """A category is called `<i>sign</i>`: in the table and in the charts."""
    assert "<i>" not in re.sub(r"<script>.*?</script>", "", page.read_text(), flags=re.DOTALL)


def test_names_are_text_in_the_charts_too(page):
    """Plotly takes tags for markup: it is given their entities."""
    charts = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    texts = [json.dumps(json.loads(chart)) for chart in charts]
    assert any("&lt;i&gt;sign&lt;/i&gt; (2)" in text for text in texts)
    assert not any("<i>" in text for text in texts)


def test_what_is_missing_is_told_with_its_command(runs, tmp_path):
    gaps = build_report(ReportRequest([str(runs)], num_samples=0), tmp_path / "report.html")
    assert len(gaps) == 3
    for gap, tool in zip(gaps, ("measure_traces.py", "measure_landscape.py", "allocate.py"), strict=True):
        assert tool in gap and f"{runs}/" in gap
        assert gap.split(". ", 1)[1] in (tmp_path / "report.html").read_text()


def test_commands_have_the_config_of_an_arm(runs, tmp_path):
    path = next(runs.rglob("provenance.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"command": "train_net.py --config-file configs/mine.yaml"}))
    gaps = build_report(ReportRequest([str(runs)], num_samples=0), tmp_path / "report.html")
    assert all("--config-file configs/mine.yaml" in gap for gap in gaps)


def test_commands_have_the_config_that_all_arms_share_where_theirs_name_none(runs, tmp_path):
    (runs / "config.yaml").write_text("SEED: 1\n")
    gaps = build_report(ReportRequest([str(runs)], num_samples=0), tmp_path / "report.html")
    assert all(f"--config-file {runs}/config.yaml" in gap for gap in gaps)


@pytest.mark.parametrize(
    ("name", "content"), [("traces", "{}"), ("landscape", "[]"), ("pareto", "[]"), ("pareto", '{"plans": 1}')]
)
def test_a_shared_file_of_another_kind_is_named(runs, name, content):
    (runs / f"{name}.json").write_text(content)
    with pytest.raises(
        ValueError, match=rf"{name}.json is no file of that name \(expected .*\): measure again"
    ):
        read_runs([str(runs)])


def test_figures_for_files(runs, tmp_path):
    make_shared(runs)
    written = draw_figures(read_runs([str(runs)]), tmp_path / "figures")
    names = {path.name for path in written}
    charts = ("categories", "layers", "traces", "landscape", "landscape_planes", "pareto")
    assert names == {f"{chart}.{suffix}" for chart in charts for suffix in ("png", "svg")}
    assert all(path.stat().st_size > 5000 for path in written)


def test_a_drawn_plan_has_its_widths_in_the_order_of_the_network(runs):
    axes = Figure().subplots(2, 1)
    draw_layers(axes, find_arms([str(runs)]))
    steps = {line.get_label(): list(line.get_ydata()) for line in axes[0].lines}
    assert steps == {"uniform": [4, 4, 4], "fisher_critical": [8, 3, 4]}


def test_many_drawn_plans_are_a_map(runs):
    full, _, planned = find_arms([str(runs)])
    many = [full, *(dataclasses.replace(planned, name=f"plan {i}") for i in range(7))]
    axes = Figure().subplots(2, 1)
    draw_layers(axes, many)
    (drawn,) = axes[0].images
    assert drawn.get_array().tolist() == [[8, 3, 4]] * 7
    assert [text.get_text() for text in axes[0].get_yticklabels()] == [f"plan {i}" for i in range(7)]
    assert drawn_heights(many * 3)[0] > drawn_heights(many[:7])[0] == 2.5
