"""The map of the house, enforced: imports point down, and the two wings never meet."""

import ast
from pathlib import Path

import distwatch

ROOT = Path(distwatch.__file__).parent

LEVELS = {
    "errors": 0,
    "_array": 0,
    "_text": 0,
    "browsers": 0,
    "addresses": 1,
    "binning": 1,
    "statistics": 1,
    "schedules": 1,
    "ending": 1,
    "signals": 2,
    "records": 3,
    "config": 6,
    "store": 4,
    "digest": 4,
    "readings": 4,
    "event_files": 5,
    "epoch_logs": 5,
    "kernels": 4,
    "replicas": 4,
    "references": 5,
    "tensor_slots": 5,
    "compat": 5,
    "traps": 6,
    "recorder": 6,
    "taps": 7,
    "recording": 8,
    "session": 9,
    "forecast": 9,
    "layers": 10,
    "callbacks": 10,
    "loops": 10,
    "facts": 5,
    "overview": 5,
    "figures": 6,
    "analysis": 7,
    "tail": 8,
    "export": 8,
    "report": 8,
    "scripts": 11,
    "demo": 11,
    "doctor": 11,
    "cli": 12,
    "testing": 11,
}
RUNNING = {"kernels", "replicas", "references", "tensor_slots", "recorder", "taps"}
RUNNING |= {
    "forecast",
    "traps",
    "compat",
    "ending",
    "recording",
    "session",
    "layers",
    "callbacks",
    "loops",
    "scripts",
}
READING = {"facts", "overview", "figures", "analysis", "tail", "export", "report"}
#: Which room alone may import a library.
OWNERS = {
    "zarr": {"store"},
    "tensorflow": RUNNING | {"_array", "doctor"},
    "keras": {"taps", "traps", "compat", "layers", "callbacks", "scripts", "demo", "doctor"},
    "xarray": READING | {"demo"},
    "plotly": {"figures", "report"},
    "kaleido": {"report"},
    "jinja2": {"report"},
    "pydantic": {"config"},
    "tensorboard": {"event_files"},
    "pyarrow": {"export"},
    "typer": {"cli"},
    "rich": {"cli", "demo", "tail"},
}


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports():
    """Every import in the package: (room, imported module, whether at the top level)."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts == ("__init__",):
            continue
        tree = ast.parse(path.read_text())
        typing_only = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in typing_only:
                continue
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "distwatch":
                rooms = [alias.name for alias in node.names if alias.name in LEVELS]
                names = [f"distwatch.{room}" for room in rooms]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            for name in names:
                yield parts[0], name


def test_every_room_is_on_the_map():
    rooms = {
        p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert rooms - {"__init__"} == set(LEVELS)


def test_imports_point_down():
    wrong = [
        (room, name)
        for room, name in imports()
        if name.startswith("distwatch.")
        and room_of(name) != room
        and LEVELS[room_of(name)] >= LEVELS[room]
    ]
    assert wrong == []


def test_the_wings_never_meet():
    wrong = [
        (room, name)
        for room, name in imports()
        if name.startswith("distwatch.")
        and ((room in RUNNING and room_of(name) in READING)
             or (room in READING and room_of(name) in RUNNING))
    ]  # fmt: skip
    assert wrong == []


def test_each_library_has_its_room():
    wrong = [
        (room, name)
        for room, name in imports()
        if room not in OWNERS.get(name.split(".")[0], {room})
    ]
    assert wrong == []


def test_nothing_imports_testing():
    assert [room for room, name in imports() if name.startswith("distwatch.testing")] == [
        room for room, name in imports() if room == "testing" and "testing" in name
    ]
