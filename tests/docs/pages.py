"""Pages as programs: their fenced blocks, in the order in which a reader meets them.

| block | what the reader does with it |
| --- | --- |
| of any kind with `title="path"` | saves it as that file |
| `bash` | runs it, in a shell that ends at the first error |
| `python` | runs it; all of a page share their names |
| `text` | compares it with what the last one printed: `...` is any text, a line of it some lines |

Every other block is for reading only.
"""

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *REPOSITORY.glob("docs/**/*.md"),
        *(REPOSITORY / path for path in ("README.md", "CONTRIBUTING.md", "MODEL_ZOO.md")),
        *(REPOSITORY / folder / "README.md" for folder in ("benchmarks", "datasets")),
    ]
)
_FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        kind: its language.
        title: path of the file that it is; empty: it is none.
        text: without the fence's indentation.
        section: the heading above it.
        place: file and line, for messages.
    """

    kind: str
    title: str
    text: str
    section: str
    place: str


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in _FENCE.finditer(text):
        indent, kind, title, content = fence.groups(default="")
        outside = _FENCE.sub("", text[: fence.start()])  # "# ..." in a block is a comment
        heading = (_HEADING.findall(outside) or [""])[-1]
        place = f"{page.relative_to(REPOSITORY)}:{text.count(chr(10), 0, fence.start()) + 1}"
        content = re.sub(f"^{indent}", "", content, flags=re.MULTILINE)
        found.append(Block(kind, title, content, heading, place))
    return found


class Reader:
    """Follows a page in a folder that stands for a clone.

    Attributes:
        folder: where files are written and commands run.
        names: of the page's Python blocks.
        printed: by the last block that was run.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.names: dict[str, Any] = {"__name__": "page"}
        self.printed = ""

    def follow(self, page: Iterable[Block]) -> None:
        """Do what the blocks say, one after the other; AssertionError where something else happens."""
        for block in page:
            if block.title:
                path = self.folder / block.title
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.kind == "bash":
                self.printed = self._run(block)
            elif block.kind == "python":
                self.printed = self._execute(block)
            elif block.kind == "text":
                check_output(block.text, self.printed, block.place)

    def environment(self) -> dict[str, str]:
        """That of the commands."""
        return environment(self.folder)

    def _run(self, block: Block) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{block.place}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def _execute(self, block: Block) -> str:
        code = compile(block.text, block.place, "exec")
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(io.StringIO()) as told:
            exec(code, self.names)
        return told.getvalue()


def environment(folder: Path) -> dict[str, str]:
    """That of the commands: this environment's programs, this repository, no GPU, no network."""
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "DETECTRON2_DATASETS": str(folder / "datasets"),
    }


def check_output(expected: str, printed: str, place: str) -> None:
    """Raise AssertionError unless the expected lines are among the printed ones, one below the other."""
    lines = [re.escape(line.rstrip()).replace(r"\.\.\.", ".*?") for line in expected.splitlines()]
    pattern = "\n".join(r"(?:.*\n)*?.*?" if line == ".*?" else line + r"[ \t]*" for line in lines)
    found = re.search(f"^{pattern}$", printed, re.MULTILINE)
    assert found, f"{place}: expected\n{expected}\nin what was printed:\n{printed[-5000:]}"
