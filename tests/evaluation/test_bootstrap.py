import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from fisher_detr.evaluation import average, bootstrap_ap, complete_ground_truth
from fisher_detr.evaluation.bootstrap import (
    BootstrapAP,
    CategoryMatches,
    category_ap,
    draw_weights,
    match_categories,
    mean_ap,
)
from fisher_detr.evaluation.coco import evaluate_boxes, mean_precision, quiet

CATEGORIES = [2, 5, 9]  # no object of 9


def load(images, annotations):
    coco = COCO()
    coco.dataset = {
        "images": images,
        "categories": [{"id": id_, "name": str(id_)} for id_ in CATEGORIES],
        "annotations": annotations,
    }
    return complete_ground_truth(coco)


def scene(seed=0, images=12, shift=4.0, decimals=2):
    """Objects on a grid, some of them crowd regions; detections beside them, false ones, some tied scores."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    for image in range(images):
        for cell in rng.permutation(9)[: rng.integers(0, 6)]:
            corner = np.array([cell % 3, cell // 3]) * 50 + 5
            box = [*corner.tolist(), 40, 40]
            category = int(rng.choice([2, 5]))
            annotations.append(
                {
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
            for _ in range(rng.integers(0, 3)):
                found = [*(corner + rng.normal(0, shift, 2)).tolist(), 40, 40]
                results.append(
                    {
                        "image_id": image,
                        "category_id": category if rng.random() < 0.8 else int(rng.choice(CATEGORIES)),
                        "bbox": found,
                        "score": float(np.round(rng.random(), decimals)),
                    }
                )
    return load([{"id": i, "height": 200, "width": 200} for i in range(images)], annotations), results


def repeated(coco, results, weights):
    """The same images, each physically as often as its weight; copies next to each other."""
    images, annotations, copies = [], [], []
    for image, weight in zip(sorted(coco.getImgIds()), weights, strict=True):
        for copy in range(weight):
            new = {"image_id": 100 * image + copy}
            images.append({"id": new["image_id"], "height": 200, "width": 200})
            annotations += [{k: v for k, v in a.items() if k != "id"} | new for a in coco.imgToAnns[image]]
            copies += [result | new for result in results if result["image_id"] == image]
    return load(images, annotations), copies


def cocoeval_ap(coco, results):
    return mean_precision(evaluate_boxes(coco, results, CATEGORIES), CATEGORIES) / 100


@pytest.mark.parametrize("seed", range(5))
def test_equal_weights_give_cocoevals_ap(seed):
    coco, results = scene(seed)
    matches = match_categories(coco, results, CATEGORIES)
    expected = cocoeval_ap(coco, results)
    assert 0.05 < expected < 0.9
    ones = np.ones((1, 12), np.int32)
    assert mean_ap(matches, ones)[0] == pytest.approx(expected, abs=1e-9)
    assert mean_ap(matches, 7 * ones)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_physical_repetitions(seed):
    # Scores that are tied within an image come in another order where the image is repeated.
    coco, results = scene(seed, decimals=9)
    weights = draw_weights(12, 6, seed)
    assert (weights == 0).any() and (weights > 2).any()
    values = mean_ap(match_categories(coco, results, CATEGORIES), weights)
    expected = [cocoeval_ap(*repeated(coco, results, row)) for row in weights]
    np.testing.assert_allclose(values, expected, atol=1e-9)


def test_published_detections(shared_data):
    folder = shared_data("oracles/coco_val2014_100")
    with quiet():
        coco = COCO(folder / "instances_val2014_100.json")
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    arms = bootstrap_ap(coco, {"fake": results}, coco.getCatIds(), iterations=20)
    assert arms["fake"].point == pytest.approx(50.4581, abs=5e-5)
    assert arms["fake"].samples.shape == (20,) and 1 < arms["fake"].samples.std() < 5


def test_differences_are_paired():
    coco, good = scene(shift=1.0)
    bad = [result | {"bbox": [result["bbox"][0] + 6, *result["bbox"][1:]]} for result in good]
    arms = bootstrap_ap(coco, {"good": good, "bad": bad, "same": good}, CATEGORIES, iterations=200)
    difference = arms["good"] - arms["bad"]
    assert difference.point == pytest.approx(arms["good"].point - arms["bad"].point)
    low, high = difference.interval()
    assert 0 < low < difference.point < high
    assert difference.samples.std() < 0.9 * np.hypot(arms["good"].samples.std(), arms["bad"].samples.std())
    assert (arms["good"] - arms["same"]).interval() == (0.0, 0.0)
    low_arm, high_arm = arms["good"].interval()
    assert low_arm < arms["good"].point < high_arm
    wide = difference.interval(0.99)
    assert wide[0] <= low and high <= wide[1]


def test_sets_are_averaged_on_the_same_draws():
    coco, results = scene()
    one = bootstrap_ap(coco, {"a": results}, [2], iterations=30)["a"]
    other = bootstrap_ap(coco, {"a": results}, [5], iterations=30)["a"]
    both = bootstrap_ap(coco, {"a": results}, [2, 5], iterations=30)["a"]
    np.testing.assert_allclose(average([one, other]).samples, both.samples)
    assert average([one, other]).point == pytest.approx(both.point)
    again = bootstrap_ap(coco, {"a": results}, [2], iterations=30, seed=1)["a"]
    assert not np.allclose(again.samples, one.samples)
    with pytest.raises(ValueError, match="different resamples: 12 images .* seed 0; 12 images .* seed 1"):
        _ = one - again


def test_nothing_found_is_0_and_nothing_to_find_is_nan():
    coco, results = scene()
    assert bootstrap_ap(coco, {"a": []}, [2], iterations=3)["a"].samples.tolist() == [0, 0, 0]
    absent = bootstrap_ap(coco, {"a": results}, [9], iterations=3)["a"]
    assert np.isnan(absent.point) and np.isnan(absent.samples).all() and np.isnan(absent.interval()).all()
    with pytest.raises(ValueError, match="the ground truth has none"):
        bootstrap_ap(load([], []), {"a": []}, [2])


def test_hand_computed():
    # Two images with one object each; three detections by score: hit in 0, miss in 0, hit in 1.
    # Weights 1, 1: precision 1, 1/2, 2/3; recall 1/2, 1/2, 1. The 51 thresholds up to .50 get 1, 50 get 2/3.
    # Weights 2, 1: 2 of 2, 2 of 4, 3 of 5; recall 2/3, 2/3, 1: 67 thresholds (0 to .66) get 1, 34 get 3/5.
    # Weights 1, 2: 1 of 1, 1 of 2, 3 of 4; recall 1/3, 1/3, 1: 34 thresholds get 1, 67 get 3/4.
    # Weights 0, 1: no object in image 0 counts: 1 of 1 at recall 1.
    matches = CategoryMatches(
        image=np.array([0, 0, 1]),
        true=np.array([[True, False, True]]),
        ignored=np.zeros((1, 3), bool),
        objects=np.array([1, 1]),
        recalls=np.linspace(0, 1, 101),
    )
    expected = [(51 + 50 * 2 / 3) / 101, (67 + 34 * 3 / 5) / 101, (34 + 67 * 3 / 4) / 101, 1.0]
    values = category_ap(matches, np.array([[1, 1], [2, 1], [1, 2], [0, 1]]))
    np.testing.assert_allclose(values, expected)


def test_chunks_change_nothing(monkeypatch):
    coco, results = scene()
    matches = match_categories(coco, results, [2])[0]
    weights = draw_weights(12, 50, 0)
    expected = category_ap(matches, weights)
    monkeypatch.setattr("fisher_detr.evaluation.bootstrap._CHUNK", 3 * len(matches.image))
    np.testing.assert_array_equal(category_ap(matches, weights), expected)


def test_interval_lies_around_the_point():
    estimate = BootstrapAP(40.0, np.arange(101.0), "draw")  # percentiles 5 and 95, mean 50
    assert estimate.interval(0.9) == pytest.approx((-5.0, 85.0))
