"""The mechanism that runs pages finds what does not hold."""

import pytest

from tests.docs import pages
from tests.docs.pages import Reader, blocks, check_output

PAGE = """\
# Title

```bash
# a comment, no heading
echo "one 12.5 s"; echo two
pwd -P > here
```

prints

```text
one ... s
two
```

## Files

1. In a list:

   ```python title="a/b.py"
   if True:
       print("b")
   ```

```python
x = 2
print(x)
```
```python
print(x + 1)
```
```text
3
```
```yaml
read: only
```
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "REPOSITORY", tmp_path)
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_blocks_know_where_they_are(page):
    found = blocks(page)
    assert [block.kind for block in found] == ["bash", "text", "python", "python", "python", "text", "yaml"]
    assert [block.section for block in found] == ["Title"] * 2 + ["Files"] * 5
    assert [block.place for block in found[:3]] == ["page.md:3", "page.md:11", "page.md:20"]
    assert (found[2].title, found[2].text) == ("a/b.py", 'if True:\n    print("b")\n')


def test_a_page_is_followed(page, tmp_path):
    reader = Reader(tmp_path / "clone")
    reader.folder.mkdir()
    reader.follow(blocks(page))
    assert (reader.folder / "here").read_text() == f"{reader.folder}\n"
    assert (reader.folder / "a/b.py").read_text().startswith("if True:\n")
    assert reader.names["x"] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("echo two", "echo three"), "page.md:11: expected\none"),
        (("echo two", "false"), "page.md:3: one 12.5 s"),
        (("print(x + 1)", "print(x)"), "page.md:32: expected\n3"),
        (("print(x + 1)", "assert x == 3"), ""),
    ],
)
def test_what_does_not_hold_is_an_error(page, tmp_path, change, message):
    page.write_text(PAGE.replace(*change))
    with pytest.raises(AssertionError) as error:
        Reader(tmp_path).follow(blocks(page))
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("b\nc", "a\nb\nc\nd", True),
        ("a\nc", "a\nb\nc", False),
        ("a\n...\nc", "a\nb\nb\nc", True),
        ("a\n...\nc", "a\nc", False),
        ("AP ... | x", "AP 1.2 | x", True),
        ("AP", "AP 1.2", False),
        ("a.b", "axb", False),
        ("a", "a  ", True),
    ],
)
def test_outputs(expected, printed, same):
    if same:
        check_output(expected, printed, "page")
    else:
        with pytest.raises(AssertionError):
            check_output(expected, printed, "page")
