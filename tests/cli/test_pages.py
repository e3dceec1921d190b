"""docs/cli.md is what the commands say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from budgeted.cli.main import cli

ROOT = Path(__file__).parents[2]


def test_the_page_is_what_the_commands_say():
    spec = importlib.util.spec_from_file_location("cli_pages", ROOT / "scripts" / "cli_pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == pages.render(), "run python scripts/cli_pages.py"
    assert all(f"## budgeted {name}\n" in page for name in cli.commands)
