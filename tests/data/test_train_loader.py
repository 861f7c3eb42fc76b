"""What a training sees: the same images, bit for bit, wherever it goes on and whoever loads them."""

import itertools
import random

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from fisher_detr.data import DetrDatasetMapper, GlobalBatchSampler, TrainLoader
from fisher_detr.data.train_loader import seeded

BATCH = 4


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made = []
    for i in range(7):
        width, height = (40, 32) if i % 3 else (32, 40)
        picture = np.random.default_rng(i).integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), picture)
        box = {"bbox": [3.0, 4.0, 20.0 + i, 25.0], "bbox_mode": BoxMode.XYXY_ABS, "category_id": i}
        made.append(
            {
                "file_name": str(folder / f"{i}.png"),
                "image_id": i,
                "width": width,
                "height": height,
                "annotations": [box],
            }
        )
    return made


class Restless:
    """A mapper that draws from every generator there is."""

    def __init__(self):
        augmentations = [
            T.RandomFlip(),
            T.RandomCrop("relative_range", (0.5, 0.5)),
            T.RandomBrightness(0.5, 2),
        ]
        self.mapper = DetrDatasetMapper(augmentations=augmentations, image_format="RGB")

    def __call__(self, record):
        return self.mapper(record) | {"drawn": (random.random(), torch.rand(()).item())}


def loader(records, num_workers=0, rank=0, num_ranks=1, seed=3, iteration=0):
    made = TrainLoader(
        DatasetFromList(records, copy=False),
        Restless(),
        GlobalBatchSampler(len(records), BATCH, groups=[record["width"] < 40 for record in records]),
        seed=seed,
        rank=rank,
        num_ranks=num_ranks,
        num_workers=num_workers,
    )
    made.iteration = iteration
    return made


def take(loader, count=3):
    return list(itertools.islice(loader, count))


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(itertools.chain(*found), itertools.chain(*expected), strict=True):
        assert one["image_id"] == other["image_id"]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)
        assert one["drawn"] == other["drawn"]


@pytest.fixture(scope="module")
def uninterrupted(records):
    return take(loader(records), 9)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 5])
def test_resumed_batches_are_those_of_an_uninterrupted_run(records, uninterrupted, num_workers, start):
    np.random.seed(start)  # noqa: NPY002
    torch.manual_seed(start)
    same(take(loader(records, num_workers, iteration=start)), uninterrupted[start : start + 3])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_share_what_one_would_see(records, uninterrupted, num_workers):
    ranks = [take(loader(records, num_workers, rank, 2)) for rank in range(2)]
    assert all(len(batch) == BATCH // 2 for batches in ranks for batch in batches)
    same([one + other for one, other in zip(*ranks, strict=True)], uninterrupted[:3])


def test_an_image_is_augmented_anew_each_time(uninterrupted):
    seen = {}
    for sample in itertools.chain(*uninterrupted):
        seen.setdefault(sample["image_id"], []).append(sample["drawn"])
    assert all(len(set(drawn)) == len(drawn) for drawn in seen.values())
    assert max(len(drawn) for drawn in seen.values()) > 2


def test_another_seed_gives_other_images(records, uninterrupted):
    other = take(loader(records, seed=4))
    assert [s["drawn"] for s in other[0]] != [s["drawn"] for s in uninterrupted[0]]


def test_iteration_and_seed_are_looked_at_when_the_first_batch_is_asked_for(records, uninterrupted):
    """Detectron2 0.6 makes the iterator before it has loaded the checkpoint."""
    late = loader(records, seed=9)
    batches = iter(late)
    late.iteration, late.seed = 5, 3
    same(list(itertools.islice(batches, 2)), uninterrupted[5:7])


def test_batches_of_one_group(uninterrupted):
    for batch in uninterrupted:
        assert len({sample["width"] > sample["height"] for sample in batch}) == 1


def test_random_numbers_of_the_training_are_left_alone(records):
    def draw():
        return random.random(), np.random.random(), torch.rand(()).item()  # noqa: NPY002

    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    expected = [draw() for _ in range(4)]
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    batches = iter(loader(records))
    found = []
    for _ in range(3):
        found.append(draw())
        next(batches)
    assert [*found, draw()] == expected


def test_random_numbers_are_left_alone_by_a_mapper_that_fails():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    found = [torch.rand(1)]
    with pytest.raises(KeyError), seeded(1, 2):
        found.append(torch.rand(1))
        raise KeyError
    assert torch.equal(torch.cat([found[0], torch.rand(1)]), expected)
    assert found[1] not in expected


def test_ranks_that_cannot_share_a_batch(records):
    with pytest.raises(
        ValueError, match="IMS_PER_BATCH is 4, which 3 processes cannot share: set it to a mul"
    ):
        loader(records, num_ranks=3)
