"""The batches of a training, against Detectron2's grouping and a count of what an epoch holds."""

import itertools

import numpy as np
import pytest
from detectron2.data.common import AspectRatioGroupedDataset

from fisher_detr.data import GlobalBatchSampler, aspect_ratio_groups

SIZES = [(40, 30), (30, 40), (64, 64), (50, 20), (20, 50), (90, 30), (30, 31)]  # width, height
RECORDS = [{"file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in enumerate(SIZES)]
GROUPS = [0, 1, 1, 0, 1, 0, 1]


def take(sampler, count, start=0, seed=5):
    return np.array(list(itertools.islice(sampler.starting_at(start, seed), count)))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_every_epoch_has_every_image_once(batch_size):
    images = take(GlobalBatchSampler(len(SIZES), batch_size), 7 * 4).reshape(-1, len(SIZES))
    assert (np.sort(images) == np.arange(len(SIZES))).all()
    assert len({tuple(epoch) for epoch in images}) > 1, "each epoch has an order of its own"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 20])
def test_groups_are_those_of_detectron2(batch_size):
    """Its grouping keeps buffers over the endless stream, from which nothing can be resumed."""
    stream = take(GlobalBatchSampler(len(SIZES), 1), 60 * batch_size).ravel()
    records = ({"id": int(i), **RECORDS[i]} for i in stream)
    expected = [[r["id"] for r in batch] for batch in AspectRatioGroupedDataset(records, batch_size)]
    found = take(GlobalBatchSampler(len(SIZES), batch_size, groups=GROUPS), len(expected))
    np.testing.assert_array_equal(found, expected)
    assert len(expected) > 50


@pytest.mark.parametrize("groups", [None, GROUPS, [0] * 6 + [1]])
@pytest.mark.parametrize("start", [1, 2, 3, 4, 11, 40])
def test_starts_anywhere(groups, start):
    sampler = GlobalBatchSampler(len(SIZES), 3, groups=groups)
    np.testing.assert_array_equal(take(sampler, 9, start), take(sampler, start + 9)[start:])
    assert (take(sampler, 9) != take(sampler, 9, seed=6)).any()


def test_more_images_in_a_batch_than_there_are():
    """A batch of 10 from 4 images: two epochs and half of the third, then its other half and the next two."""
    images = take(GlobalBatchSampler(4, 10), 2).ravel().reshape(-1, 4)
    assert (np.sort(images) == np.arange(4)).all()


def test_one_image():
    assert take(GlobalBatchSampler(1, 2), 3).tolist() == [[0, 0]] * 3


def test_repeat_factors():
    """2.25 of image 0: 2 times in each epoch and a third time in one of four; the others as they say."""
    factors = [2.25, 1.0, 3.0]
    stream = take(GlobalBatchSampler(3, 1, repeat_factors=factors), 6250).ravel()
    counts = np.bincount(stream)
    assert counts[2] / counts[1] == pytest.approx(3.0, rel=0.01)
    assert counts[0] / counts[1] == pytest.approx(2.25, abs=0.05)


def test_groups_by_shape():
    assert aspect_ratio_groups(RECORDS) == GROUPS
    with pytest.raises(ValueError, match=r"image a.png has no width and height.*ASPECT_RATIO_GROUPING to F"):
        aspect_ratio_groups([{"file_name": "a.png", "width": 3}])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 2), {}, "batches of 2 from 0 images: expected at least one of each"),
        ((3, 0), {}, "batches of 0 from 3 images"),
        ((3, 1), {"groups": [0, 1]}, "3 images, 2 groups and 3 repeat factors"),
        ((3, 1), {"repeat_factors": [1.0, 0.5, 1.0]}, "repeat factor 0.5: expected at least 1"),
    ],
)
def test_refuses(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        GlobalBatchSampler(*arguments, **options)
