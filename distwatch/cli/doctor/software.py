"""What is installed, compared with the requirements of distwatch's own package."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import distwatch
from distwatch.cli.doctor.findings import Finding, graded, note, ok, problem, warning
from distwatch.report.browsers import browser

#: Packages with a line of their own; the others share one if nothing is wrong.
_NAMED = ("tensorflow", "keras", "numpy", "zarr")

#: What each extra brings. Those of developers are not here.
_EXTRAS = {
    "tensorflow": "training that is watched",
    "demo": "distwatch demo",
    "report": "distwatch report, run.plot",
    "png": "distwatch report --png",
    "tensorboard": "event files for TensorBoard",
    "parquet": "distwatch export --parquet",
    "dask": "runs that are larger than memory",
    "cloud": "runs in buckets",
}


def look_at_software() -> Iterator[Finding]:
    """Python, distwatch, what it needs, and what it could have besides."""
    cpus = os.cpu_count() or 1
    yield ok(
        "machine",
        f"{platform.system()} {platform.machine()}, {cpus} CPUs",
        figures={"cpus": cpus},
    )
    try:
        package = metadata.metadata("distwatch")
        needed = [Requirement(text) for text in metadata.requires("distwatch") or []]
    except metadata.PackageNotFoundError:
        yield ok("Python", platform.python_version())
        text = f"{distwatch.__version__}, not installed, so what it needs is not known"
        yield warning("distwatch", text, "pip install -e . in its checkout.")
        return
    have, wanted = platform.python_version(), package["Requires-Python"] or ""
    yield graded(
        "Python",
        f"{have}; distwatch needs {wanted}",
        "use another Python.",
        is_problem=not SpecifierSet(wanted).contains(have, prereleases=True),
    )
    yield ok("distwatch", distwatch.__version__)
    required = [each for each in needed if _applies(each, "")]
    known = set(package.get_all("Provides-Extra") or []) & set(_EXTRAS)
    training = list(_members("tensorflow", needed))
    if any(version_of(each.name) for each in training):
        # Who trains needs both, in these versions; who only reads needs neither.
        required += training
        known.discard("tensorflow")
    yield from _required(required)
    for extra in filter(known.__contains__, _EXTRAS):
        yield _extra(extra, _EXTRAS[extra], needed)


def version_of(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    # TensorFlow also comes as tensorflow-cpu, tf-nightly, ...
    others = metadata.packages_distributions().get(name) if name == "tensorflow" else None
    return metadata.version(others[0]) if others else None


def _required(needed: list[Requirement]) -> Iterator[Finding]:
    others = []
    for each in needed:
        have = version_of(each.name)
        wrong = _what_is_wrong(each)
        if wrong:
            remedy = f"pip install --upgrade '{each.name}{each.specifier}'"
            yield problem(each.name, f"{wrong}, and distwatch needs it", remedy)
        elif each.name in _NAMED:
            yield ok(each.name, f"{have}")
        else:
            others.append(f"{each.name} {have}")
    yield ok("others", ", ".join(others))


def _extra(extra: str, purpose: str, needed: list[Requirement]) -> Finding:
    members = list(_members(extra, needed))
    missing = [f"{each.name} {wrong}" for each in members if (wrong := _what_is_wrong(each))]
    if missing:
        text = f"for {purpose}: {', '.join(missing)}"
        return note(f"[{extra}]", text, f"pip install 'distwatch[{extra}]'")
    if extra == "png" and browser() is None:
        text = f"for {purpose}: there is neither Chromium nor Chrome"
        remedy = "install one (on Debian: apt install chromium), or name it in BROWSER_PATH."
        return note("[png]", text, remedy)
    there = ", ".join(f"{each.name} {version_of(each.name)}" for each in members)
    return ok(f"[{extra}]", f"for {purpose}: {there}")


def _members(extra: str, needed: list[Requirement]) -> Iterator[Requirement]:
    """What an extra adds, with what the extras add that it names."""
    for each in needed:
        if not _applies(each, extra) or _applies(each, ""):
            continue
        if each.name == "distwatch":
            yield from (m for inner in sorted(each.extras) for m in _members(inner, needed))
        else:
            yield each


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _what_is_wrong(requirement: Requirement) -> str:
    """Empty if nothing is."""
    have = version_of(requirement.name)
    if have is None:
        return "not installed"
    if not requirement.specifier.contains(have, prereleases=True):
        return f"{have} is not {requirement.specifier}"
    return ""
