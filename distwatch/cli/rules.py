"""``distwatch rules``."""

from __future__ import annotations

import json

import typer
from rich.console import Console

from distwatch.cli.conventions import (
    JsonOption,
    RulesOption,
    app,
    examples,
    listing,
    rules_in,
)


@app.command(
    epilog=examples(
        "distwatch rules",
        "distwatch rules --json",
        "distwatch rules --rules rules.yaml",
    )
)
def rules(own: RulesOption = None, as_json: JsonOption = False) -> None:
    """List the rules that findings come from, with their thresholds and sources."""
    from distwatch.findings import RULES

    known = [*RULES, *rules_in(own)]
    if as_json:
        listed = [
            {
                "rule": rule.name,
                "says": rule.says,
                "thresholds": dict(rule.thresholds),
                "source": rule.source,
                "asked": rule.asked,
            }
            for rule in known
        ]
        typer.echo(json.dumps({"rules": listed}, indent=2))
        return
    rows = [
        (
            rule.name,
            rule.says,
            ", ".join(f"{name}={value:g}" for name, value in rule.thresholds.items()),
            rule.source,
            rule.asked,
        )
        for rule in known
    ]
    headings = ("rule", "what it looks for", "thresholds", "source", "asked in training")
    Console().print(listing(headings, rows))
