"""Files that were changed behind the back of what wrote them."""

import json

import pytest


def assert_refused(written, kind, path, changes, message):
    """What was written and then changed is a broken file of its kind, in one line."""
    written.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=f"{kind} {path} is broken .*{message}"):
        type(written).load(path)
