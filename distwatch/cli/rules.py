"""``distwatch rules``."""

from __future__ import annotations

import json

import typer
from rich.console import Console

from distwatch.cli.conventions import JsonOption, app, examples, listing


@app.command(
    epilog=examples(
        "distwatch rules",
        "distwatch rules --json",
    )
)
def rules(as_json: JsonOption = False) -> None:
    """List the rules that findings come from, with their thresholds and sources."""
    from distwatch.findings import RULES

    if as_json:
        listed = [
            {
                "rule": rule.name,
                "says": rule.says,
                "thresholds": dict(rule.thresholds),
                "source": rule.source,
            }
            for rule in RULES
        ]
        typer.echo(json.dumps({"rules": listed}, indent=2))
        return
    rows = [
        (
            rule.name,
            rule.says,
            ", ".join(f"{name}={value:g}" for name, value in rule.thresholds.items()),
            rule.source,
        )
        for rule in RULES
    ]
    Console().print(listing(("rule", "what it looks for", "thresholds", "source"), rows))
