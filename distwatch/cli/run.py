"""``distwatch run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distwatch.cli.conventions import (
    ModuleOption,
    ScriptArgument,
    ScriptsArguments,
    app,
    examples,
)


@app.command(
    # Options after the script are the script's own, also --store and --help.
    context_settings={"allow_interspersed_args": False},
    epilog=examples(
        "distwatch run train.py --epochs 3",
        "distwatch run --config watch.yaml --store runs train.py",
        "distwatch run -m package.train --lr 0.1",
        further="Exit codes: the script's own. Before it starts: 1 refused, with the reason on "
        "stderr, 2 bad usage.",
    ),
)
def run(
    script: ScriptArgument,
    args: ScriptsArguments = None,
    *,
    is_module: ModuleOption = False,
    config: Annotated[
        Path | None,
        typer.Option(help="A YAML file with the arguments of each Watch.", show_default=False),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The folder or URL in which runs are written: fit-000.zarr, fit-001.zarr, ... "
            "in the order of the fits. With a slash at its end each start has a new folder in "
            "it, such as runs/2026-11-25-1412-train. By default what the configuration names "
            "as 'store', or else runs/.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete existing runs first.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print nothing on stderr at the end.")
    ] = False,
) -> None:
    """Run a script that knows nothing of distwatch, and watch every fit in it.

    The script is not changed, nor what it prints, computes and returns.
    A fit that cannot be watched runs unwatched, and stderr says why;
    with 'strict: true' in the configuration it ends the script.
    """
    from distwatch.training.scripts.launching import Script, prepare

    asked = Script(script, tuple(args or ()), is_module=is_module)
    launch = prepare(asked, config=config, store=store, overwrite=overwrite, quiet=quiet)
    launch.go()
