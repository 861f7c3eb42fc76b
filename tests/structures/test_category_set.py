import pytest

from fisher_detr.structures import CategorySet


def test_category_set():
    assert CategorySet("person", (1, 3), 5).others == (0, 2, 4)
    assert CategorySet("all", (0, 1), 2).others == ()
    assert len(CategorySet("all", (0, 1), 2)) == 2
    for name, indices in (("a-b", (0,)), ("", (0,)), ("a", ()), ("a", (1, 0)), ("a", (0, 0)), ("a", (2,))):
        with pytest.raises(ValueError, match="category set"):
            CategorySet(name, indices, 2)
