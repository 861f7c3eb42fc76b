import pytest
from detectron2.data import Metadata

from fisher_detr.critical import as_defined, metric_names, resolve_category_set, resolve_category_sets
from fisher_detr.structures import CategorySet

METADATA = Metadata(name="toy").set(
    thing_classes=["fish", "shark", "traffic light", "pedestrian", "cyclist", "dining-table"],
    thing_supercategories=["fish", "fish", "light", "person", "person", ""],
    thing_dataset_id_to_contiguous_id={1: 0, 2: 1, 10: 2, 20: 3, 30: 4, 40: 5},
)


@pytest.mark.parametrize(
    ("spec", "name", "indices"),
    [
        ("shark", "shark", (1,)),
        ("person", "person", (3, 4)),
        ("fish", "fish", (0, 1)),  # both: the super-category wins
        ("category:fish", "fish", (0,)),
        ("supercategory:fish", "fish", (0, 1)),
        ("traffic light", "traffic_light", (2,)),
        ("dining-table", "dining_table", (5,)),
        ("20", "20", (3,)),
        ("id:20", "id_20", (3,)),
        ("cyclist+shark", "cyclist_shark", (1, 4)),
        ("vru=pedestrian+cyclist", "vru", (3, 4)),
        ("vru = person + 30", "vru", (3, 4)),
        ("water animals=category:fish+shark", "water_animals", (0, 1)),
    ],
)
def test_what_a_user_writes(spec, name, indices):
    category_set = resolve_category_set(spec, METADATA)
    assert (category_set.name, category_set.indices, category_set.num_classes) == (name, indices, 6)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pedestrain", "unknown critical category 'pedestrain': did you mean 'pedestrian'"),
        ("Person", "did you mean 'person'"),
        ("vru=pedestrian+bicyclist", "'bicyclist': did you mean 'cyclist'"),
        ("category:person", "unknown critical category 'category:person'"),
        ("supercategory:shark", "unknown critical category 'supercategory:shark'"),
        ("99", "unknown critical category '99': known are fish, light, person, shark"),
        ("id:fish", "unknown critical category 'id:fish': known are 1, 2, 10, 20, 30, 40"),
        ("", "critical set '' has an empty member"),
        ("vru=", "critical set 'vru=' has an empty member"),
        ("shark++fish", "has an empty member"),
    ],
)
def test_mistakes_have_one_clear_error(spec, message):
    with pytest.raises(ValueError) as error:
        resolve_category_set(spec, METADATA)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_supercategory_is_a_set():
    sets = resolve_category_sets(["supercategories", "shark", "person"], METADATA)
    assert {s.name: s.indices for s in sets} == {
        "fish": (0, 1),
        "light": (2,),
        "person": (3, 4),
        "shark": (1,),
    }


def test_one_name_for_two_sets():
    with pytest.raises(
        ValueError, match="two category sets are called 'fish' .the second from 'category:fish'"
    ):
        resolve_category_sets(["supercategories", "category:fish"], METADATA)


def test_metadata_without_supercategories_or_ids():
    metadata = Metadata(name="plain").set(thing_classes=["person", "car"])
    assert resolve_category_set("person", metadata).indices == (0,)
    assert resolve_category_sets(["supercategories"], metadata) == []
    with pytest.raises(ValueError, match="unknown critical category 'vehicle'"):
        resolve_category_sets(["supercategories", "vehicle"], metadata)


def test_names_of_other_scripts_and_names_that_become_equal():
    metadata = Metadata(name="names").set(
        thing_classes=["自転車", "a-b", "a b", "ä"],
        thing_supercategories=["vélo", "x-y", "x y", "x-y"],
        thing_dataset_id_to_contiguous_id={10: 0, 20: 1, 30: 2, 40: 3},
    )
    assert resolve_category_set("自転車", metadata).name == "自転車"
    sets = resolve_category_sets(["supercategories"], metadata)
    assert {s.name: s.indices for s in sets} == {"vélo": (0,), "x_y_20": (1, 3), "x_y_30": (2,)}
    assert metric_names(metadata.thing_classes, [10, 20, 30, 40]) == ["自転車", "a_b_20", "a_b_30", "ä"]


def test_resolved_sets_pass_through():
    mine = CategorySet("mine", (1, 2), 6)
    assert resolve_category_sets([mine, "shark"], METADATA)[0] is mine
    with pytest.raises(ValueError, match="'mine' is one of 7 categories, the data set has 6"):
        resolve_category_sets([CategorySet("mine", (1, 2), 7)], METADATA)


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("vru", "vru=pedestrian+cyclist"),
        (" water animals ", "water animals=fish"),
        ("water_animals", "water animals=fish"),  # as metrics call it
        ("shark", "shark=fish+shark"),  # before the category
        ("fish", "fish"),
        ("a=fish", "a=fish"),
        ("", ""),
    ],
)
def test_a_defined_name_stands_for_its_set(spec, found):
    known = ("supercategories", "vru=pedestrian+cyclist", "water animals=fish", "shark=fish+shark")
    assert as_defined(spec, (*known, CategorySet("fish", (0,), 6))) == found
