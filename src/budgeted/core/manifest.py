"""A study's own file: what was asked for, and which run is which cell of the table. Reading one needs no framework."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from .errors import StudyError
from .record import SCHEMA, atomic_write, explained

TASKS_OWN = ("off-the-shelf", "step-decay")  # schedules that each task names itself
FOLDER = "studies"  # beside the runs


@final
@dataclass(frozen=True, slots=True)
class Manifest:
    """Where a study's file is, and what it says."""

    path: Path  # the study's folder
    content: dict[str, Any]

    @classmethod
    def write(
        cls, out: Path, study: Mapping[str, Any], tasks: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]
    ) -> Manifest:
        """Write a study's file below the folder of its runs.

        Args:
            out: that folder.
            study: what was asked for, with its `name`.
            tasks: what is known of each task.
            cells: of each run its `task`, `row`, `budget` and `seed`, the name of its folder as `run`, and its `spec`.
        """
        folder = out / FOLDER / study["name"]
        content = {"schema": SCHEMA, "study": dict(study), "tasks": dict(tasks), "cells": list(cells)}
        with explained(folder):
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / "study.json", json.dumps(content, indent=1).encode())
        return cls(folder.resolve(), content)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """A study's file.

        Raises:
            StudyError: where it is missing, damaged, or from a newer version.
        """
        path = folder / "study.json"
        try:
            content = json.loads(path.read_bytes())
        except OSError as error:
            raise StudyError(f"cannot read '{path}': {error.strerror}") from None
        except ValueError:
            raise StudyError(
                f"'{path}' is damaged: it is not JSON; run the study again to have it written anew"
            ) from None
        if not isinstance(content, dict) or not {"schema", "study", "tasks", "cells"} <= content.keys():
            raise StudyError(f"'{path}' is not a study's file")
        if content["schema"] > SCHEMA:
            raise StudyError(
                f"'{path}' has schema {content['schema']}, and this version reads up to {SCHEMA}; update budgeted"
            )
        return cls(folder.resolve(), content)

    @classmethod
    def all_below(cls, out: Path) -> list[Manifest]:
        """Those of all studies whose runs are in a folder."""
        return [cls.read(path.parent) for path in sorted((out / FOLDER).glob("*/study.json"))]

    @property
    def runs(self) -> Path:
        """The folder that the runs are in."""
        return self.path.parent.parent
