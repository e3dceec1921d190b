"""Write docs/cli.md from the commands themselves; a test checks that it is up to date."""

from __future__ import annotations

from pathlib import Path

import click

from budgeted.cli.main import cli

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"


def render() -> str:
    """The whole page: each command's help at 100 columns."""
    parts = ["# The command line\n\nMade by `python scripts/cli_pages.py`; not written by hand.\n"]
    root = click.Context(cli, info_name="budgeted", terminal_width=100, **cli.context_settings)
    for name, command in [("", cli), *sorted(cli.commands.items())]:
        context = root
        if name:
            context = click.Context(command, info_name=name, parent=root, max_content_width=100, terminal_width=100)
        title = f"budgeted {name}".strip()
        parts.append(f"## {title}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
