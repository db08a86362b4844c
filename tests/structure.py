"""The size and shape of the package: ``python tests/structure.py [PATH OF A PACKAGE]``.

Counts, from the source alone: names at the top, floors (the longest chain of imports between
those names), files, lines, statements without docstrings, and arrows (pairs of rooms of which
one imports the other). Imports for type checking alone do not count.
"""

from __future__ import annotations

import argparse
import ast
import json
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "distwatch"


def measure(package: Path) -> dict[str, int]:
    """The figures of a package that lies in the folder ``package``."""
    files = sorted(package.rglob("*.py"))
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    rooms = {
        path.stem
        for path in package.iterdir()
        if path.name != "__init__.py"
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    arrows = {
        (room, target)
        for path, tree in trees.items()
        if (room := path.relative_to(package).with_suffix("").parts[0]) in rooms
        for target in _imported_rooms(tree, package.name) & rooms
        if target != room
    }
    return {
        "names at the top": len(rooms),
        "floors": max(_height(room, arrows) for room in rooms),
        "arrows between them": len(arrows),
        "files": len(files),
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files),
        "statements": sum(map(_statements, trees.values())),
    }


def _imported_rooms(tree: ast.Module, package: str) -> set[str]:
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    modules: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in modules if name.startswith(f"{package}.")}


def _height(room: str, arrows: set[tuple[str, str]], above: tuple[str, ...] = ()) -> int:
    if room in above:
        raise ValueError(f"rooms import each other: {' -> '.join([*above, room])}")
    below = [target for source, target in arrows if source == room]
    return 1 + max((_height(each, arrows, (*above, room)) for each in below), default=0)


def _statements(tree: ast.Module) -> int:
    return sum(
        isinstance(node, ast.stmt) and not _is_docstring(node) for node in ast.walk(tree)
    )


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", nargs="?", type=Path, default=PACKAGE)
    print(json.dumps(measure(parser.parse_args().package), indent=2))
