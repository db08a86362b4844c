"""``distwatch config init``, ``check`` and ``schema``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distwatch.cli.conventions import EXIT_CODES, REFUSED, JsonOption, app, examples
from distwatch.errors import ConfigError
from distwatch.text import format_bytes, printable

if TYPE_CHECKING:
    from distwatch.config import WatchConfig
    from distwatch.signals import Selector

#: The file that `distwatch config init` writes by default.
WATCH_FILE = Path("watch.yaml")

#: The schema that editors read next to it.
SCHEMA_FILE = "watch.schema.json"

config = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", epilog=EXIT_CODES)
app.add_typer(
    config,
    name="config",
    help="Write, check and describe configuration files.",
    epilog=examples(
        "distwatch config init",
        "distwatch config check watch.yaml",
        "distwatch config schema",
    ),
)


def _complete_use(incomplete: str) -> list[str]:
    from distwatch.config import templates

    return [use for use in templates() if use.startswith(incomplete)]


@config.command(
    epilog=examples(
        "distwatch config init",
        "distwatch config init production.yaml --use production",
        "distwatch config init --schema",
    )
)
def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = WATCH_FILE,
    *,
    use: Annotated[
        str,
        typer.Option(
            help="minimal (each key, explained), gradients, everything, production, "
            "every_10th_step or tensorboard.",
            autocompletion=_complete_use,
        ),
    ] = "minimal",
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            help=f"Write {SCHEMA_FILE} next to it, and refer to it in the first line, so that "
            "editors complete keys and mark mistakes.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Write a commented configuration file to start from."""
    from distwatch.config import json_schema, template

    text = template(use)
    schema_file = file.with_name(SCHEMA_FILE)
    written = [file, schema_file] if schema else [file]
    if there := [str(each) for each in written if each.exists() and not force]:
        raise ConfigError(f"{' and '.join(there)} would be replaced: pass --force to do so.")
    if schema:
        text = f"# yaml-language-server: $schema={SCHEMA_FILE}\n\n{text}"
    try:
        if schema:
            schema_file.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}.") from error
    typer.echo(f"Wrote {' and '.join(map(str, written))}. Then:")
    typer.echo(f"  distwatch run --config {file} train.py")


@config.command(
    epilog=examples(
        "distwatch config check watch.yaml",
        "distwatch config check watch.yaml --json",
        further="Exit codes: 0 valid, 1 not valid, with each mistake on a line of stderr, "
        "2 bad usage.",
    )
)
def check(
    file: Annotated[Path, typer.Argument(help="The file to check.")] = WATCH_FILE,
    *,
    as_json: JsonOption = False,
) -> None:
    """Describe what a configuration file watches, or list all mistakes in it."""
    from distwatch.config import WatchConfig, examine

    found = examine(file)
    described = list(_described(found)) if isinstance(found, WatchConfig) else []
    mistakes = [] if isinstance(found, WatchConfig) else found
    if as_json:
        listed = [mistake._asdict() for mistake in mistakes]
        typer.echo(json.dumps({"right": not listed, "mistakes": listed, "says": described}))
    else:
        for line in described:
            typer.echo(printable(line))
        for mistake in mistakes:
            # In the form of compilers, which editors can jump to.
            line = f"{file}:{mistake.line or 1}: {mistake.text}"
            typer.echo(printable(line), err=True)
    if mistakes:
        raise typer.Exit(REFUSED)


@config.command(
    epilog=examples(
        "distwatch config schema",
        f"distwatch config schema > {SCHEMA_FILE}",
    )
)
def schema() -> None:
    """Print the JSON Schema of configuration files, for editors."""
    from distwatch.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _described(config: WatchConfig) -> Iterator[str]:
    """What such a Watch does, in words."""
    from distwatch.store.new_runs import FolderOfRuns

    if config.signals is None:
        yield f"Watches the usual layers, against {config.reference}, {config.schedule}."
    for selector in config.signals or ():
        yield f"Watches {_chosen(selector, config)}."
    bound = "" if config.max_bytes is None else f", of {format_bytes(config.max_bytes)} at most"
    new = "a new run in " if isinstance(config.store, FolderOfRuns) else ""
    yield f"Writes {new}{config.store}{bound}; phases: {', '.join(config.phases)}."
    if not isinstance(config.store, FolderOfRuns):
        yield (
            "Under 'distwatch run' that is a folder, in which each fit writes a run: "
            "fit-000.zarr, fit-001.zarr, ..."
        )


def _chosen(selector: Selector, config: WatchConfig) -> str:
    patterns = [
        each if isinstance(each, str) else f"re:{each.pattern}"
        for each in selector.chosen or ()
    ]
    reference = selector.reference or config.reference
    against = "their values" if reference == "none" else f"against {reference}"
    further = "".join(f", with {each.spec()['name']}" for each in selector.statistics)
    which = f" of {', '.join(patterns)}" if patterns else ""
    return f"{selector.kind}{which}, {against}, {selector.schedule or config.schedule}{further}"
