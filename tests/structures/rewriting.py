import json


def rewrite(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))
