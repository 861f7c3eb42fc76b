import random

import pytest
import torch

from fisher_detr.data import batches_of_one_size, sample_calibration_images

RECORDS = [{"image_id": i, "file_name": f"/somewhere/{i:04d}.png"} for i in range(50)]


def ids(records):
    return [record["image_id"] for record in records]


def test_sample_is_the_same_in_any_order_and_anywhere():
    elsewhere = [
        record | {"file_name": record["file_name"].replace("somewhere", "a/b")} for record in RECORDS
    ]
    random.Random(1).shuffle(elsewhere)
    sample = ids(sample_calibration_images(RECORDS, 8, seed=3))
    assert sample == ids(sample_calibration_images(elsewhere, 8, seed=3))
    assert sample == [12, 39, 9, 47, 31, 28, 13, 48], "NumPy's frozen stream"
    assert sample != ids(sample_calibration_images(RECORDS, 8, seed=4))


def test_without_replacement_and_nested():
    sample = ids(sample_calibration_images(RECORDS, 50, seed=0))
    assert sorted(sample) == list(range(50))
    assert ids(sample_calibration_images(RECORDS, 12, seed=0)) == sample[:12]


def test_fewer_images_than_asked_for(caplog):
    assert len(sample_calibration_images(RECORDS, 60, seed=0)) == 50
    assert "60 images asked for, 50 available" in caplog.text


@pytest.mark.parametrize(("records", "count"), [([], 3), (RECORDS, 0)])
def test_nothing_to_sample(records, count):
    with pytest.raises(ValueError, match=f"calibration sample of {count} images from {len(records)}"):
        sample_calibration_images(records, count, seed=0)


def test_batches_of_one_size_come_as_they_are_full():
    sizes = [(3, 4, 4), (3, 8, 8), (3, 4, 4), (3, 4, 4), (3, 8, 8), (3, 6, 6), (3, 4, 4)]
    samples = [{"image": torch.zeros(size), "image_id": i} for i, size in enumerate(sizes)]
    batches = batches_of_one_size(samples, 2)
    assert [[sample["image_id"] for sample in batch] for batch in batches] == [[0, 2], [1, 4], [3, 6], [5]]
    assert batches_of_one_size([], 2) == []


def test_batches_hold_at_most_so_many_pixels_but_one_image_always():
    sizes = [(3, 4, 4), (3, 8, 8), (3, 4, 4), (3, 4, 4), (3, 8, 8)]
    samples = [{"image": torch.zeros(size), "image_id": i} for i, size in enumerate(sizes)]
    batches = batches_of_one_size(samples, 16, pixels=32)
    assert [[sample["image_id"] for sample in batch] for batch in batches] == [[1], [0, 2], [4], [3]]
