import sys

import pytest

from distwatch import cli

pytest_plugins = "pytester"


def pytest_addoption(parser):
    parser.addoption(
        "--whole-matrix",
        action="store_true",
        help="try every strategy with every kind of model in every mode (half an hour)",
    )


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process: exit code, stdout and stderr."""

    def run(*arguments, width=120):
        monkeypatch.setattr(sys, "argv", ["distwatch", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return run
