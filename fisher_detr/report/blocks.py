"""What a page is made of: sections of charts, tables, pictures and text, as plain data."""

import base64
import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Cell:
    """One value of a table.

    Attributes:
        text: the value.
        note: smaller, below it.
        strong: whether it stands out.
    """

    text: str
    note: str = ""
    strong: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row names it.

    Attributes:
        columns: their headings.
        rows: a cell for each column.
        caption: what it shows.
        collapsed: shown only on demand.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    collapsed: bool = False
    kind: str = "table"


@dataclasses.dataclass(frozen=True)
class Chart:
    """An interactive figure.

    Attributes:
        name: unique in the page.
        spec: Plotly's figure as JSON.
        caption: what it shows.
        height: in CSS pixels.
    """

    name: str
    spec: str
    caption: str
    height: int = 420
    kind: str = "chart"


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image that the page carries within.

    Attributes:
        content: of a JPEG file.
        caption: what it shows.
    """

    content: bytes
    caption: str

    @property
    def source(self) -> str:
        """For an `img` element."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.content).decode()}"


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Pictures side by side where there is room."""

    pictures: Sequence[Picture]
    kind: str = "gallery"


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph, or what was typed or written."""

    text: str
    preformatted: bool = False
    title: str = ""
    kind: str = "text"


@dataclasses.dataclass(frozen=True)
class Missing:
    """Stands where files are missing.

    Attributes:
        what: is missing.
        command: makes it.
    """

    what: str
    command: str
    kind: str = "missing"


Block = Table | Chart | Gallery | Text | Missing


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        name: of its anchor.
        title: heading.
        lead: what is to be seen here, and how it is read.
        blocks: from top to bottom.
    """

    name: str
    title: str
    lead: str
    blocks: Sequence[Block]
