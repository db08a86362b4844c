"""The map of the house, enforced: imports point down, and the two wings never meet."""

import ast
from pathlib import Path

import pytest

import distwatch

ROOT = Path(distwatch.__file__).parent

#: Each floor imports only from floors above it in this list.
FLOORS = (
    {"errors", "text", "keras_calls"},
    {"statistics"},
    {"signals"},
    {"records"},
    {"phases"},
    {"store"},
    {"findings"},
    {"actions", "event_files"},
    {"config"},
    {"training", "analysis", "export"},
    {"compat", "report"},
    {"testing", "cli"},
)
#: The same inside the training wing.
TRAINING_FLOORS = (
    {
        "gradient_registry",
        "shutdown",
        "epoch_logs",
        "measuring",
        "printing",
        "provenance",
        "virtual_devices",
    },
    {"strategies", "sinks", "acting", "overhead"},
    {"device", "multiworker"},
    {"taps", "traps"},
    {"retargeting", "agreement"},
    {"phase"},
    {"progress", "requested"},
    {"claiming", "estimate"},
    {"session"},
    {"validations", "watched_functions"},
    {"tracker", "watch", "loop"},
    {"amplification"},
    {"scripts"},
)
#: What reads runs never imports what trains, nor the other way round.
READING = {"analysis", "export", "report"}
#: Which rooms alone import a library. "cli/doctor" trains in a process of its own.
OWNERS = {
    "zarr": {"store"},
    "tensorflow": {"training", "statistics/arrays", "cli/digits", "cli/doctor"},
    "keras": {"training", "cli/digits", "cli/doctor"},
    "xarray": {"analysis", "export", "report", "cli/digits"},
    "plotly": {"analysis/figures", "report"},
    "kaleido": {"report"},
    "jinja2": {"report"},
    "pydantic": {"actions", "config", "event_files", "signals", "store"},
    "tensorboard": {"event_files"},
    "pyarrow": {"export"},
    "typer": {"cli"},
    "rich": {"cli"},
}


def imported_modules(path):
    """What a file imports at run time, as dotted names."""
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
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from distwatch import x` may import the room x or a name of the public face.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


#: (file's parts below the package, imported module's parts)
IMPORTS = [
    (path.relative_to(ROOT).with_suffix("").parts, tuple(module.split(".")))
    for path in sorted(ROOT.rglob("*.py"))
    if path.parent != ROOT or path.name != "__init__.py"
    for module in imported_modules(path)
]


def rooms_in(folder):
    return {
        path.stem
        for path in folder.iterdir()
        if path.name != "__init__.py"
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }


@pytest.mark.parametrize("inside, floors", [((), FLOORS), (("training",), TRAINING_FLOORS)])
def test_imports_point_down(inside, floors):
    level = {room: i for i, floor in enumerate(floors) for room in floor}
    depth = len(inside)
    assert rooms_in(ROOT.joinpath(*inside)) == set(level)
    wrong = [
        (file, module)
        for file, module in IMPORTS
        if file[:depth] == inside and module[: depth + 1] == ("distwatch", *inside)
        and len(module) > depth + 1 and module[depth + 1] in level
        and file[depth] != module[depth + 1]
        and level[module[depth + 1]] >= level[file[depth]]
    ]  # fmt: skip
    assert wrong == []


def test_the_wings_never_meet():
    pairs = [(file[0], module[1:2]) for file, module in IMPORTS if module[0] == "distwatch"]
    assert not [pair for pair in pairs if pair[0] in READING and pair[1] == ("training",)]
    assert not [pair for pair in pairs if pair[0] == "training" and set(pair[1]) & READING]


def test_each_library_has_its_room():
    wrong = [
        (file, module)
        for file, module in IMPORTS
        if module[0] in OWNERS and not {file[0], "/".join(file[:2])} & OWNERS[module[0]]
    ]
    assert wrong == []


def test_nothing_imports_testing():
    importers = {file[0] for file, module in IMPORTS if module[:2] == ("distwatch", "testing")}
    assert importers <= {"testing"}
