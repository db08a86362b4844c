"""``distwatch demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from distwatch.cli.conventions import app, examples
from distwatch.errors import RunExistsError

#: Where the demo writes by default; the next demo replaces it.
DEMO_STORE = Path("distwatch-demo.zarr")


@app.command(epilog=examples("distwatch demo", "distwatch demo --healthy --store healthy.zarr"))
def demo(
    store: Annotated[
        Path | None,
        typer.Option(help=f"Where the run is written; {DEMO_STORE} unless given."),
    ] = None,
    replicas: Annotated[
        int,
        typer.Option(
            min=3, max=16, help="Virtual CPU replicas that train together; of three one is odd."
        ),
    ] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the digits.")] = 3,
    healthy: Annotated[
        bool, typer.Option("--healthy", help="Give all replicas data of the same scale.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the run at --store, if there is one.")
    ] = False,
) -> None:
    """Train a small CNN on handwritten digits with odd data on one replica, and name it.

    One replica's digits are scaled otherwise, which the loss hides. The run and its report are
    written to the current folder. The digits come with scikit-learn; nothing is downloaded.
    """
    # Without --overwrite only the default path is replaced, and only if it holds a run.
    replace = overwrite or store is None
    path = store or DEMO_STORE
    _check_demo_store(path, replace)
    from distwatch.cli.digits import run_demo

    run_demo(path, replicas=replicas, epochs=epochs, overwrite=replace, healthy=healthy)


def _check_demo_store(store: Path, replace: bool) -> None:
    """Refuse before TensorFlow is loaded what Watch would refuse, in terms of this command."""
    from distwatch.store import is_run

    if not store.exists() or (store.is_dir() and not any(store.iterdir())):
        return
    if not is_run(store):
        raise RunExistsError(
            f"{store} exists and is not a distwatch run, so it is left alone; "
            "choose another path with --store, or remove it yourself."
        )
    if not replace:
        raise RunExistsError(
            f"{store} holds a run already; choose another path, or pass --overwrite "
            "to delete that run first."
        )
