"""The house's doors, read from the imports: which room may use which, and who reads the config."""

import ast
import functools
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "fisher_detr"

# Besides `files`, which is open to everyone. Rooms that are not built yet stand here already.
DOORS = {
    "files": set(),
    "_detectron2": set(),
    "__init__": {"_detectron2", "_zoo_paths", "config", "data", "modeling"},
    "_zoo_paths": {"model_zoo"},
    "structures": set(),
    "config": {"structures"},
    "layers": {"structures"},
    "fisher": {"structures"},
    "allocation": {"structures"},
    "data": {"structures"},
    "critical": {"structures", "layers"},
    "quantization": {"structures", "layers"},
    "modeling": {"layers", "critical", "structures"},
    "evaluation": {"structures", "critical", "data", "quantization", "layers"},
    "report": {"structures", "critical", "data", "quantization"},
    "export": {"structures", "critical", "data", "quantization"},
    "checkpoint": {"structures", "quantization"},
    "engine": {
        "config",
        "structures",
        "layers",
        "critical",
        "modeling",
        "quantization",
        "fisher",
        "allocation",
        "evaluation",
        "data",
        "checkpoint",
        "export",
    },
    "model_zoo": {
        "engine",
        "modeling",
        "critical",
        "checkpoint",
        "export",
        "quantization",
        "structures",
    },
    "predict": {
        "engine",
        "model_zoo",
        "data",
        "checkpoint",
        "export",
        "quantization",
        "structures",
    },
}
# Command lines use what drives, and what its functions take and give.
TOOLS_MAY = {
    "engine",
    "model_zoo",
    "predict",
    "report",
    "checkpoint",
    "structures",
    "critical",
    "data",
    "files",
}
# They run before anything is installed.
STANDALONE = {"bootstrap.py", "install_detectron2.py"}

# Outside libraries that a room does without: what it computes can be used and tested alone.
WITHOUT = {
    "structures": {"torch", "torchvision", "detectron2", "scipy"},
    "allocation": {"torch", "torchvision", "detectron2"},
    "files": {"torch", "torchvision", "detectron2", "numpy"},
    "layers": {"detectron2"},
    "fisher": {"detectron2"},
    "report": {"torch", "torchvision", "detectron2"},
}
READ_CFG = {"config", "engine"}


Imports = list[tuple[str, list[str]]]


def paths(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


LIBRARY = paths("fisher_detr")
TOOLS = paths("tools")


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@functools.cache
def imports(path: Path) -> Imports:
    """Full module names and the names taken from them, inside functions too."""
    found: Imports = []
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(REPOSITORY).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found.append((module, [alias.name for alias in node.names]))
    return found


def rooms_used(path: Path) -> set[str]:
    used = set()
    for module, names in imports(path):
        first, *rest = module.split(".")
        if first == "fisher_detr":
            used |= {rest[0]} if rest else {name for name in names if (PACKAGE / name).exists()}
    return used


def test_every_room_is_known():
    rooms = {room_of(path) for path in LIBRARY}
    assert rooms <= DOORS.keys(), "a new room: say in house.md and here what it may use"


def test_contributing_tells_the_same():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    told = {}
    for room, doors in re.findall(r"^\| `(\w+)` \| .* \| (.*?) ?\|$", text, re.MULTILINE):
        told[room] = set(re.findall(r"`(\w+)`", doors))
    assert told["engine"] == {"report"} and told["files"] == set()
    told["engine"] = told.keys() - {"files", "engine", "model_zoo", "predict", "report"}
    assert told == {room: doors for room, doors in DOORS.items() if not room.startswith("_")}


def test_rooms_use_their_doors():
    closed = {
        name_of(path): shut
        for path in LIBRARY
        if (shut := rooms_used(path) - DOORS[room_of(path)] - {room_of(path), "files"})
    }
    assert not closed


def test_rooms_do_without():
    needless = {
        name_of(path): used
        for path in LIBRARY
        if (used := {m.split(".")[0] for m, _ in imports(path)} & WITHOUT.get(room_of(path), set()))
    }
    assert not needless


def test_nobody_takes_a_private_name_of_another_room():
    private = [
        (name_of(path), module, name)
        for path in LIBRARY + TOOLS
        for module, names in imports(path)
        for name in [*module.split(".")[2:], *names]
        if module.startswith("fisher_detr.")
        and name.startswith("_")
        and not (path in LIBRARY and module.split(".")[1] == room_of(path))
    ]
    assert not private


def test_tools_are_thin():
    closed = {
        path.name: shut
        for path in TOOLS
        if (shut := rooms_used(path) - (set() if path.name in STANDALONE else TOOLS_MAY))
    }
    assert not closed


def test_oracles_do_not_import_what_they_check():
    assert not {path.name: used for path in paths("tests/oracles") if (used := rooms_used(path))}


def test_no_compiled_detectron2():
    """0.6 as it is installed here has no `detectron2._C`."""
    for path in LIBRARY + TOOLS:
        for module, names in imports(path):
            assert module != "detectron2._C", path
            assert not (module == "detectron2" and "_C" in names), path


def test_no_print_and_no_blind_except():
    wrong = []
    for path in LIBRARY:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print":
                wrong.append(f"{name_of(path)}:{node.lineno}: print, use a logger")
            if isinstance(node, ast.ExceptHandler) and is_blind(node):
                wrong.append(f"{name_of(path)}:{node.lineno}: caught blindly and not raised again")
    assert not wrong


def is_blind(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    raises = any(isinstance(node, ast.Raise) for node in ast.walk(handler))
    return bool(kinds & {"Exception", "BaseException"}) and not raises


def test_no_path_of_a_machine():
    machine = ("/home/", "/root/", "/work/", "/mnt/", "/Users/")
    for path in LIBRARY + TOOLS:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.startswith(machine), f"{path}:{node.lineno}: {node.value}"


class CfgReads(ast.NodeVisitor):
    """Lines that read a config where none may be read.

    Outside config and engine a function may take `cfg` only as `from_config`, as a builder in one of
    Detectron2's registries, or as a helper of these at module level: never as another method, and no object
    keeps it.
    """

    def __init__(self):
        self.wrong: list[str] = []
        self._functions: list[ast.FunctionDef] = []
        self._class_depth: list[int] = []

    def visit_ClassDef(self, node):
        self._class_depth.append(len(self._functions))
        self.generic_visit(node)
        self._class_depth.pop()

    def visit_FunctionDef(self, node):
        takes = any(argument.arg == "cfg" for argument in [*node.args.args, *node.args.kwonlyargs])
        is_method = bool(self._class_depth) and self._class_depth[-1] == len(self._functions)
        if takes and is_method and node.name != "from_config":
            self.wrong.append(f"line {node.lineno}: method {node.name} takes cfg")
        self._functions.append(node)
        self.generic_visit(node)
        self._functions.pop()

    def visit_Attribute(self, node):
        if isinstance(node.value, ast.Name) and node.value.id == "cfg" and not self._in_a_function_with_cfg():
            self.wrong.append(f"line {node.lineno}: cfg.{node.attr} outside a function that takes cfg")
        if node.attr in ("cfg", "_cfg") and isinstance(node.ctx, ast.Store):
            self.wrong.append(f"line {node.lineno}: an object keeps cfg")
        self.generic_visit(node)

    def visit_Call(self, node):
        if isinstance(node.func, ast.Name) and node.func.id == "get_cfg":
            self.wrong.append(f"line {node.lineno}: get_cfg()")
        self.generic_visit(node)

    def _in_a_function_with_cfg(self) -> bool:
        return any(argument.arg == "cfg" for function in self._functions for argument in function.args.args)


def test_cfg_stops_at_the_door():
    wrong = {}
    for path in LIBRARY:
        reads = CfgReads()
        reads.visit(parse(path))
        if reads.wrong and room_of(path) not in READ_CFG:
            wrong[name_of(path)] = reads.wrong
    assert not wrong


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("class A:\n def from_config(cls, cfg):\n  return cfg.X", 0),
        ("@R.register()\ndef build(cfg, shape):\n return cfg.X", 0),
        ("class A:\n def run(self, cfg):\n  return cfg.X", 1),
        ("class A:\n def __init__(self, cfg):\n  self.cfg = cfg", 2),
        ("def f():\n cfg = get_cfg()\n return cfg.X", 2),
    ],
)
def test_the_rule_on_cfg(source, wrong):
    reads = CfgReads()
    reads.visit(ast.parse(source))
    assert len(reads.wrong) == wrong
