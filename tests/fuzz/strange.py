"""Strange JSON, and sound JSON in which something was changed."""

import copy
from typing import Any

from hypothesis import strategies as st

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**63, -(2**70), 10**400, 0.5, 1e308, -0.0]),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(["\ud800", "a\0b", "a\nb", "../x", ""]),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place in nested lists and dictionaries, the whole itself first."""
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        found += places(part, (*path, key))
    return found


@st.composite
def changed(draw, sound: Any, most: int = 3) -> Any:
    """A copy in which up to so many places are replaced, removed or repeated."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(places(value)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(JSON)
            continue
        *above, key = path
        parent = value
        for part in above:
            parent = parent[part]
        action = draw(st.sampled_from(["replace", "replace", "remove", "repeat", "swap"]))
        if action == "replace":
            parent[key] = draw(JSON)
        elif action == "remove":
            del parent[key]
        elif action == "repeat" and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif action == "swap":
            other = draw(st.sampled_from([x for x in places(parent) if len(x) == 1]))[0]
            parent[key], parent[other] = parent[other], parent[key]
    return value


def one_line(error: Exception, *told: str) -> str:
    """The text of an error, which has to be one line, and to have these words."""
    text = str(error)
    assert text and "\n" not in text, text
    assert all(word in text for word in told), text
    return text
