"""What there is."""

from __future__ import annotations

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(as_json: bool) -> None:
    """Version, devices, and the bundled weights with their card."""
    import json

    from ..about import facts, prose

    told = facts()
    click.echo(json.dumps(told, indent=1) if as_json else prose(told))
