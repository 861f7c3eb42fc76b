"""Tables and plans are files of one kind each."""

import pytest

from fisher_detr.structures import BitAllocation, SensitivityTable


def test_saving_again_gives_the_same_bytes(table, allocation, tmp_path):
    for content in (table, allocation):
        content.save(tmp_path / "first")
        type(content).load(tmp_path / "first").save(tmp_path / "second")
        assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("cls", [SensitivityTable, BitAllocation])
def test_files_that_are_none(cls, table, allocation, tmp_path):
    path = tmp_path / "file.json"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        cls.load(path)
    path.write_text('{"bits": ')
    with pytest.raises(ValueError, match="not valid JSON"):
        cls.load(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=f"is no {cls.__name__}: it has \\['list'\\]"):
        cls.load(path)
    (allocation if cls is SensitivityTable else table).save(path)
    with pytest.raises(ValueError, match=f"is no {cls.__name__}"):
        cls.load(path)
