"""What is installed is held against what the package says that it needs."""

from importlib import metadata
from types import SimpleNamespace

import pytest

from distwatch.cli.doctor import software
from distwatch.cli.doctor.software import look_at_software

NEEDED = [
    "numpy>=1.26",
    "zarr>=3.1.3",
    "rich>=13.7",
    'keras>=3.12; extra == "tensorflow"',
    'tensorflow>=2.20; extra == "tensorflow"',
    'plotly>=6.0; extra == "report"',
    'distwatch[report]; extra == "png"',
    'kaleido>=1.0; extra == "png"',
    'pyarrow>=16; extra == "parquet"',
    'pytest>=8; extra == "test"',
]
THERE = {
    "keras": "3.15.1",
    "numpy": "2.4.6",
    "tensorflow": "2.21.0",
    "zarr": "3.1.6",
    "rich": "15.0.0",
    "plotly": "7.1.0",
    "kaleido": "1.5.0",
    "pyarrow": "20.0.0",
}


@pytest.fixture
def findings(monkeypatch):
    """What is found where these packages are installed, in these versions."""

    class About(dict):
        def get_all(self, _):
            return ["tensorflow", "report", "png", "parquet", "test"]

    def found(*, gone=(), python=">=3.11", **versions):
        there = {name: is_ for name, is_ in {**THERE, **versions}.items() if name not in gone}

        def version(name):
            if name not in there:
                raise metadata.PackageNotFoundError(name)
            return there[name]

        asked = SimpleNamespace(
            PackageNotFoundError=metadata.PackageNotFoundError,
            version=version,
            metadata=lambda _: About({"Requires-Python": python}),
            requires=lambda _: NEEDED,
            packages_distributions=lambda: (
                {"tensorflow": ["tensorflow-cpu"]} if "tensorflow-cpu" in there else {}
            ),
        )
        monkeypatch.setattr(software, "metadata", asked)
        return {finding.name: finding for finding in look_at_software()}

    return found


def test_all_is_there(findings, monkeypatch):
    monkeypatch.setattr(software, "browser", lambda: "/usr/bin/chromium")
    found = findings()
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert found["tensorflow"].text == "2.21.0"
    assert found["others"].text == "rich 15.0.0"
    assert "kaleido 1.5.0" in found["[png]"].text
    assert "plotly 7.1.0" in found["[png]"].text
    assert "[test]" not in found
    assert "[tensorflow]" not in found


def test_what_is_needed_and_missing_is_a_problem(findings):
    found = findings(gone=["tensorflow", "rich"])
    for name in ("tensorflow", "rich"):
        assert found[name].verdict == "problem"
        assert "not installed" in found[name].text
    assert found["tensorflow"].remedy == "pip install --upgrade 'tensorflow>=2.20'"
    assert found["keras"].verdict == "ok"


def test_who_only_reads_needs_neither_tensorflow_nor_keras(findings):
    found = findings(gone=["tensorflow", "keras"])
    assert not {"tensorflow", "keras"} & set(found)
    assert found["[tensorflow]"].verdict == "note"
    assert found["[tensorflow]"].remedy == "pip install 'distwatch[tensorflow]'"


def test_what_is_too_old_is_a_problem(findings):
    found = findings(keras="3.9.2")
    assert found["keras"].verdict == "problem"
    assert "3.9.2 is not >=3.12" in found["keras"].text


def test_tensorflow_may_have_another_name(findings):
    found = findings(gone=["tensorflow"], **{"tensorflow-cpu": "2.20.1"})
    assert (found["tensorflow"].verdict, found["tensorflow"].text) == ("ok", "2.20.1")


def test_an_extra_that_is_missing_is_a_note_with_its_command(findings):
    found = findings(gone=["pyarrow", "plotly"])
    assert found["[parquet]"].verdict == "note"
    assert found["[parquet]"].remedy == "pip install 'distwatch[parquet]'"
    # png asks for report, which asks for plotly.
    assert found["[png]"].verdict == "note"
    assert "plotly not installed" in found["[png]"].text


def test_images_want_a_browser_too(findings, monkeypatch, tmp_path):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    found = findings()
    assert found["[png]"].verdict == "note"
    assert "apt install chromium" in found["[png]"].remedy
    (tmp_path / "none").touch()
    assert findings()["[png]"].verdict == "ok"
    monkeypatch.delenv("BROWSER_PATH")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert software.browser() is None
    (tmp_path / "google-chrome").touch(mode=0o755)
    assert software.browser() == str(tmp_path / "google-chrome")


def test_another_python_is_a_problem(findings):
    found = findings(python="<3.9")
    assert found["Python"].verdict == "problem"
    assert "<3.9" in found["Python"].text


def test_a_checkout_that_is_not_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(software.metadata, "metadata", missing)
    found = {finding.name: finding for finding in look_at_software()}
    assert found["distwatch"].verdict == "warning"
    assert "pip install -e ." in found["distwatch"].remedy


def test_this_machine_can_run_these_tests():
    found = {finding.name: finding for finding in look_at_software()}
    assert "problem" not in {finding.verdict for finding in found.values()}
    for name in ("Python", "distwatch", "tensorflow", "keras", "numpy", "zarr", "[demo]"):
        assert found[name].verdict == "ok"
