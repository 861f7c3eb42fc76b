import dataclasses
import hashlib

import numpy as np
import pytest
import yaml

from fisher_detr.model_zoo import Kind, Metric, catalog, download, entries, entry, weights_path, write_entry
from tests.model_zoo.server import serving

QUOTED = """\
name: quoted
model: A detector
data_set: COCO
split: val2017
metrics: {AP: {value: 42}}
quoted: Someone, somewhere, 2020
"""


FILE = f"file: a\nsha256: {'0a' * 32}\n"


def write(zoo, text, name="quoted"):
    path = zoo / "entries" / f"{name}.yaml"
    path.write_text(text)
    return path


def test_what_is_written_is_what_is_read(zoo, full, quantized):
    low_bit = quantized(4.5, "fisher_critical", "person")
    for one in (full, low_bit):
        assert write_entry(one).parent == zoo / "entries"
    assert entries() == [full, low_bit]
    assert entry("toy") == full
    assert (full.kind, low_bit.kind) == (Kind.FULL_PRECISION, Kind.QUANTIZED)


def test_a_quoted_entry_needs_little(zoo):
    write(zoo, QUOTED)
    (found,) = entries()
    assert found.metrics == {"AP": Metric(42.0)} and found.measured is None
    assert isinstance(found.metrics["AP"].value, float)


def test_weights_are_copied_and_checked(zoo, full, tmp_path):
    weights = tmp_path / "model_final.pth"
    weights.write_bytes(b"weights")
    write_entry(full, weights)
    name = "toy-9a129038.pth"  # sha256 of "weights"
    assert entry("toy").file == name
    assert entry("toy").sha256 == hashlib.sha256(b"weights").hexdigest()
    assert weights_path("toy") == zoo / "weights" / name
    assert weights_path("toy").read_bytes() == b"weights"
    weights_path("toy").write_bytes(b"weightz")
    with pytest.raises(ValueError, match=rf"{name} have sha256 \w{{64}}, \w{{64}} was published"):
        weights_path("toy")
    (zoo / "weights" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} of model zoo entry 'toy' do not exist"):
        weights_path("toy")


def test_new_weights_take_the_place_of_the_old_ones(zoo, full, tmp_path):
    for content in (b"weights", b"better weights"):
        (tmp_path / "model.pth").write_bytes(content)
        write_entry(full, tmp_path / "model.pth")
        (shipped,) = (zoo / "weights").iterdir()
        assert shipped == weights_path("toy") and shipped.read_bytes() == content


def test_weights_with_an_address_are_fetched_into_the_cache(zoo, full, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "SCHEMES", ("http",))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.pth").write_bytes(b"weights")
    write_entry(full, tmp_path / "model.pth", "https://somewhere/toy.pth")
    assert not (zoo / "weights").exists()
    with serving() as server:
        server.files["/toy.pth"] = b"weights"
        here = dataclasses.replace(entry("toy"))
        object.__setattr__(here, "url", f"{server.address}/toy.pth")  # which no entry may have: it is http
        monkeypatch.setattr(catalog, "entry", lambda name: here)
        path = weights_path("toy")
    assert path == tmp_path / "cache" / "fisher_detr" / "toy-9a129038.pth"
    assert path.read_bytes() == b"weights"
    assert weights_path("toy") == path, "without network"


def test_an_entry_without_weights(zoo):
    write(zoo, QUOTED)
    with pytest.raises(ValueError, match="'quoted' ships no weights"):
        weights_path("quoted")


def test_unknown_names_get_the_nearest(zoo, full):
    write(zoo, QUOTED)
    write_entry(full)
    with pytest.raises(ValueError, match=r"no entry 'toi': did you mean toy\?"):
        entry("toi")
    with pytest.raises(ValueError, match=r"no entry '\.\./entries/toy': did you mean"):
        entry("../entries/toy")


def test_a_wrong_entry_is_not_written(zoo, full):
    before = write_entry(full).read_text()
    with pytest.raises(ValueError, match="entry 'toy': parameters is 1.5, expected a whole number"):
        write_entry(dataclasses.replace(full, parameters=1.5))
    with pytest.raises(FileNotFoundError, match="weights none.pth do not exist"):
        write_entry(full, "none.pth")
    assert (zoo / "entries" / "toy.yaml").read_text() == before and not (zoo / "weights").exists()


def test_numpy_numbers_are_written_as_plain_ones(zoo, full):
    path = write_entry(dataclasses.replace(full, metrics={"AP": Metric(np.float64(41.5), 0.1)}))
    assert yaml.safe_load(path.read_text())["metrics"] == {"AP": {"value": 41.5, "tolerance": 0.1}}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("model: A detector\n", "modle: A detector\n", "unknown key modle; missing key model$"),
        ("value: 42", "value: high", "metrics.AP.value is 'high', expected a number"),
        ("value: 42", "value: true", "metrics.AP.value is True, expected a number"),
        ("value: 42", "value: .nan", "metrics.AP: value nan is not finite"),
        ("value: 42", "value: 42, tolerance: -1", "metrics.AP: tolerance -1.0 is negative"),
        ("{value: 42}", "42", "metrics.AP is 42, expected keys with values"),
        ("{AP: {value: 42}}", "{}", "metrics is empty"),
        ("AP:", "AP-car:", "metrics.AP-car: use the evaluator's name"),
        ("val2017", "2017", r"split is 2017, expected a text \(quote it"),
        ("name: quoted", "name: other", "name is 'other', expected the file's, 'quoted'"),
        ("name: quoted", "name: Quoted", "name 'Quoted': use lower-case letters"),
        ("quoted: Some", "file: a.pth\nquoted: Some", "file and sha256: give both or none"),
        ("quoted: Some", f"file: ../a\nsha256: {'0a' * 32}\nquoted: Some", "file '../a' is not the name"),
        ("quoted: Some", "file: a\nsha256: 0a\nquoted: Some", "sha256 '0a', expected 64 hexadecimal"),
        (
            "quoted: Some",
            "url: https://a/b\nquoted: Some",
            "url 'https://a/b': give the https address of file",
        ),
        ("quoted: Some", f"{FILE}url: http://a/b\nquoted: Some", "url 'http://a/b': give the https address"),
        (
            "quoted: Some",
            "categories: [a]\nquoted: Some",
            r"categories is \['a'\], expected keys",
        ),
        ("quoted: Some", "config: /etc/a.yaml\nquoted: Some", "config '/etc/a.yaml' is not a path in the"),
        ("quoted: Someone, somewhere, 2020", "", "measured and quoted: give exactly one"),
        ("metrics: {", "metrics: {{", "is not valid YAML: "),
        (QUOTED, "- a list", r"the file is \['a list'\], expected keys with values"),
        (QUOTED, "", "the file is None, expected keys with values"),
    ],
)
def test_broken_files_are_named_with_the_key(zoo, old, new, message):
    assert old in QUOTED
    path = write(zoo, QUOTED.replace(old, new))
    with pytest.raises(ValueError, match=message) as caught:
        entries()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("measured", {"torch": "2.11.0"}, "missing key measured.device; missing key measured.date; missing"),
        ("measured.torch", 2.11, r"measured.torch is 2.11, expected a text \(quote it"),
        ("measured.date", "today", "measured.date is 'today', expected a date"),
        ("quoted", "Someone", "measured and quoted: give exactly one"),
        ("config", None, r"missing key config \(it was measured\)"),
        ("metrics.AP", {"value": 1}, "missing key metrics.AP.tolerance"),
        ("quantization.arm", "best", "quantization.arm is 'best', expected uniform or fisher_overall or"),
        ("quantization.arm", "uniform", "quantization: arm uniform with critical_set 'person'"),
        ("quantization.critical_set", None, "quantization: arm fisher_critical with critical_set None"),
        ("quantization.average_bits", 1, "quantization: average_bits 1, expected 2 to 8"),
        ("quantization.activation_bits", 9, "quantization: activation_bits 9, expected 0 or 2 to 8"),
    ],
)
def test_wrong_values_of_a_measured_entry(zoo, quantized, key, value, message):
    path = write_entry(quantized(4, "fisher_critical", "person"))
    content = yaml.safe_load(path.read_text())
    *parents, last = key.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match=message) as caught:
        entries()
    assert str(path) in str(caught.value)
