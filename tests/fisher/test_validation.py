"""Rank correlations and their ceiling against hand-computed numbers, plain loops and simulation."""

import itertools
import json
import math

import numpy as np
import pytest
from scipy.stats import pearsonr

from fisher_detr.fisher import validate_prediction
from fisher_detr.fisher.validation import ceiling_of, rank_correlation, split_half_correlation

LAYERS = tuple("abcdef")
WIDTHS = (2, 4)


def simulate(noise, num_layers=6, num_images=8, seed=0):
    """True sensitivities `[L, W]`, and a measurement of them on N images."""
    rng = np.random.default_rng(seed)
    truth = np.exp(rng.normal(size=(num_layers, len(WIDTHS))))
    return truth, truth + noise * rng.normal(size=(num_images, *truth.shape))


def validate(truth, changes, layers=LAYERS, **arguments):
    arguments = {"num_halves": 20, "num_resamples": 50} | arguments
    return validate_prediction({"overall": truth}, {"overall": changes}, layers, WIDTHS, **arguments)


def naive_ranks(values):
    """1 for the largest; ties share the mean of their places."""
    return np.array([np.sum(values > x) + (np.sum(values == x) + 1) / 2 for x in values])


def naive_spearman(first, second):
    return pearsonr(naive_ranks(first), naive_ranks(second)).statistic


def test_rank_correlation_by_hand():
    # Ranks 1 2 3 4 and 2 1 4 3: 1 - 6 (1 + 1 + 1 + 1) / (4 (16 - 1)) = 0.6.
    assert rank_correlation(
        np.array([1.0, 5.0, 6.0, 100.0]), np.array([2.0, 1.0, 9.0, 8.0])
    ) == pytest.approx(0.6)
    # Only the order counts.
    assert rank_correlation(np.array([1e-30, 1.0, 1e30]), np.array([-3.0, -2.0, -1.0])) == pytest.approx(1.0)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([9.0, 4.0, 1.0])) == pytest.approx(-1.0)
    # Ranks 1.5 1.5 3 and 1 2 3: deviations (-.5, -.5, 1) and (-1, 0, 1): 1.5 / sqrt(1.5 * 2).
    assert rank_correlation(np.array([0.0, 0.0, 1.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(
        1.5 / math.sqrt(3.0)
    )
    assert math.isnan(rank_correlation(np.zeros(3), np.arange(3.0)))


def test_split_half_by_hand():
    # Images 0 and 1 say 1 2 3, images 2 and 3 say 1 3 2. Halves {0, 1}, {2, 3}: ranks 1 2 3 and 1 3 2, so
    # 1 - 6 * 2 / 24 = 0.5. Halves {0, 2}, {1, 3}: both 1, 2.5, 2.5, correlation 1.
    changes = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    orders = [np.array([0, 1, 2, 3]), np.array([0, 2, 1, 3])]
    assert split_half_correlation(changes, orders[:1]) == pytest.approx(0.5)
    assert split_half_correlation(changes, orders) == pytest.approx(0.75)
    # Of five images the last of the order is left out.
    more = np.concatenate([changes, [[1e9, 0.0, 0.0]]])
    assert split_half_correlation(more, [np.array([0, 1, 2, 3, 4])]) == pytest.approx(0.5)
    assert math.isnan(split_half_correlation(np.ones((4, 3)), orders))


def test_ceiling_by_hand():
    # r = 0.5: reliability 2 * 0.5 / 1.5 = 2 / 3.
    assert ceiling_of(0.5) == pytest.approx(math.sqrt(2 / 3))
    assert (ceiling_of(1.0), ceiling_of(0.0), ceiling_of(-0.3)) == (1.0, 0.0, 0.0)
    assert math.isnan(ceiling_of(math.nan))
    for split_half in np.linspace(0.01, 1.0, 30):
        assert ceiling_of(split_half) >= split_half - 1e-12


@pytest.mark.parametrize("noise", [1.0, 3.0, 8.0])
def test_the_truth_reaches_the_ceiling(noise):
    """On average over measurements of 60 layers on 20 images."""
    found, halves = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=60)
        changes = truth + noise * rng.normal(size=(20, 60))
        found.append(rank_correlation(truth, changes.mean(axis=0)))
        halves.append(split_half_correlation(changes, [rng.permutation(20) for _ in range(10)]))
    assert np.mean(found) < 0.99  # noise that matters
    assert np.mean(found) == pytest.approx(ceiling_of(np.mean(halves)), abs=0.03)


def test_equals_a_plain_loop():
    truth, changes = simulate(3.0)
    check = validate(truth, changes, seed=5)
    assert (check.num_images, check.num_layers) == (8, 6)
    rng = np.random.default_rng(5)
    orders = [rng.permutation(8) for _ in range(20)]
    resamples = rng.integers(8, size=(50, 8))
    for column, agreement in enumerate(check.agreements):
        measured = changes[:, :, column]
        assert (agreement.objective, agreement.bits) == ("overall", WIDTHS[column])
        expected = naive_spearman(truth[:, column], measured.mean(axis=0))
        assert agreement.correlation == pytest.approx(expected, rel=1e-12)
        halves = [
            naive_spearman(measured[order[:4]].mean(axis=0), measured[order[4:]].mean(axis=0))
            for order in orders
        ]
        assert agreement.split_half == pytest.approx(np.mean(halves), rel=1e-12)
        drawn = [naive_spearman(truth[:, column], measured[rows].mean(axis=0)) for rows in resamples]
        assert agreement.interval == pytest.approx(np.percentile(drawn, [2.5, 97.5]), rel=1e-12)


def test_layers_that_break_it():
    truth, changes = simulate(0.3, seed=1)
    truth = truth.copy()
    largest = int(changes.mean(axis=0)[:, 0].argmax())
    truth[largest, 0] = -1.0  # by prediction the last
    agreement = validate(truth, changes, num_misranked=6).agreements[0]
    measured, predicted = changes[:, :, 0], truth[:, 0]
    first = agreement.misranked[0]
    assert first.layer == LAYERS[largest]
    assert (first.predicted_rank, first.measured_rank) == (6.0, 1.0)
    assert not first.within_noise and not first.place_within_noise
    ranks, places = naive_ranks(predicted), naive_ranks(measured.mean(axis=0))
    distances = []
    for layer in agreement.misranked:
        row = LAYERS.index(layer.layer)
        assert (layer.predicted_rank, layer.measured_rank) == (ranks[row], places[row])
        assert layer.predicted == predicted[row]
        assert layer.measured == pytest.approx(measured[:, row].mean(), rel=1e-12)
        error = measured[:, row].std(ddof=1) / math.sqrt(8)
        assert layer.standard_error == pytest.approx(error, rel=1e-12)
        assert layer.within_noise == (abs(layer.measured) < 2 * error)
        assert layer.rank_interval[0] <= layer.measured_rank <= layer.rank_interval[1]
        distances.append(abs(ranks[row] - places[row]))
    assert distances == sorted(distances, reverse=True)
    assert len(distances) == (ranks != places).sum()  # those in their place are left out
    assert len(validate(truth, changes, num_misranked=2).agreements[0].misranked) == 2


def test_exact_measurements_agree_and_every_unit_will_do():
    truth, changes = simulate(0.0)
    for prediction in (truth, 1e-12 * truth, np.log(truth)):
        check = validate(prediction, changes)
        assert check.holds
        for agreement in check.agreements:
            assert agreement.correlation == pytest.approx(1.0)
            assert agreement.interval == pytest.approx((1.0, 1.0))
            assert agreement.split_half == agreement.ceiling == pytest.approx(1.0)
            assert agreement.misranked == ()
    reverse = validate(-truth, changes)
    assert not reverse.holds and reverse.agreements[0].part_of_ceiling == pytest.approx(-1.0)


def test_a_prediction_holds_from_nine_tenths_of_the_ceiling():
    truth, changes = simulate(3.0, num_images=40)
    for agreement in validate(truth, changes).agreements:
        assert agreement.part_of_ceiling == agreement.correlation / agreement.ceiling
        assert agreement.holds == (agreement.part_of_ceiling >= 0.9)


def test_what_is_undefined_holds_nothing(tmp_path):
    """Nothing changes at 2 bits; at 4 bits two halves contradict each other."""
    changes = np.zeros((2, 6, 2))
    changes[:, :, 1] = [np.arange(6), 5 - np.arange(6)]
    changes[0, 0, 1] += 0.5
    check = validate(np.tile(np.arange(6.0)[:, None], 2), changes)
    nothing, noise = check.agreements
    assert math.isnan(nothing.correlation) and math.isnan(nothing.ceiling) and math.isnan(nothing.interval[0])
    assert noise.split_half < 0 and noise.ceiling == 0.0 and math.isnan(noise.part_of_ceiling)
    assert not nothing.holds and not noise.holds and not check.holds
    check.save(tmp_path / "check.json")
    stored = json.loads((tmp_path / "check.json").read_text())["agreements"]
    assert stored[0]["correlation"] is None and stored[0]["interval"] == [None, None]
    assert stored[1]["part_of_ceiling"] is None
    assert str(check).splitlines()[2].split() == ["overall", "2", "-", "-", "-", "-", "-", "unknown"]


def test_json_and_table_say_all_of_it(tmp_path):
    truth, changes = simulate(3.0)
    check = validate(truth, changes, meta={"form": "block"})
    check.save(tmp_path / "check.json")
    stored = json.loads((tmp_path / "check.json").read_text())
    assert (
        stored["meta"] == {"form": "block"} and stored["num_images"] == 8 and stored["holds"] is check.holds
    )
    for row, agreement in zip(stored["agreements"], check.agreements, strict=True):
        assert row["correlation"] == agreement.correlation and row["holds"] is agreement.holds
        for stored_layer, layer in zip(row["misranked"], agreement.misranked, strict=True):
            assert stored_layer["layer"] == layer.layer and stored_layer["within_noise"] is layer.within_noise
    lines = str(check).splitlines()
    assert lines[0] == "6 layers, measured on 8 images"
    assert lines[2].split()[:3] == ["overall", "2", f"{check.agreements[0].correlation:.2f}"]
    assert sum(len(agreement.misranked) for agreement in check.agreements) == len(lines) - 6
    assert all(len(line) < 140 for line in lines)


def test_does_not_depend_on_the_order_of_images_layers_or_objectives():
    truth, changes = simulate(3.0, num_images=3)
    rows = next(itertools.islice(itertools.permutations(range(6)), 100, None))
    expected = validate(truth, changes, num_halves=300).agreements
    moved = validate(
        truth[rows, :], changes[:, rows], [LAYERS[row] for row in rows], num_halves=300
    ).agreements
    for one, other in zip(expected, moved, strict=True):
        assert one.correlation == pytest.approx(other.correlation)
        assert one.split_half == pytest.approx(other.split_half)
        assert {x.layer for x in one.misranked} == {x.layer for x in other.misranked}
    both = validate_prediction(
        {"a": truth, "b": truth},
        {"b": changes, "a": changes},
        LAYERS,
        WIDTHS,
        num_halves=10,
        num_resamples=10,
    ).agreements
    assert [(x.objective, x.bits) for x in both] == [("a", 2), ("a", 4), ("b", 2), ("b", 4)]
    assert both[0].interval == both[2].interval  # the same splits and resamples


def test_refuses_what_cannot_be_compared():
    truth, changes = simulate(1.0)
    with pytest.raises(ValueError, match=r"predictions of \['x'\], measurements of \['overall'\]"):
        validate_prediction({"x": truth}, {"overall": changes}, LAYERS, WIDTHS)
    with pytest.raises(ValueError, match="6 layers measured on 1 images: .*3 layers and 2 images"):
        validate(truth, changes[:1])
    with pytest.raises(ValueError, match="2 layers measured on 8 images"):
        validate(truth[:2], changes[:, :2], LAYERS[:2])
    with pytest.raises(ValueError, match=r"prediction of 'overall' has shape \(5, 2\), expected \(6, 2\)"):
        validate(truth[:5], changes)
    with pytest.raises(ValueError, match="measurement of 'overall' has shape .* finite numbers"):
        validate(truth, np.full_like(changes, np.inf))
