"""Which videos there are and what they show: class folders, the official lists of Kinetics, or lists of paths and labels."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import BudgetWarning, TaskError
from .sources import by_class
from .video import EXTENSIONS

_MOST_MISSING = 0.25  # of the videos of a list
_PARTS = {"train": {"train"}, "val": {"val", "validate", "validation"}}  # what lists call them
_OFFICIAL = ("label", "youtube_id", "time_start", "time_end")


@dataclass(frozen=True, slots=True)
class Videos:
    """Videos and their classes.

    Args:
        paths: of the videos.
        labels: of each, a number in `classes`.
        classes: their names.
        missing: videos that a list named and that are not there.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    missing: int = 0

    def first(self, count: int | None) -> Videos:
        """So many of them: the first of each class, then the second of each, and so on."""
        if count is None:
            return self
        seen = [0] * len(self.classes)
        turns = []
        for place, label in enumerate(self.labels):
            turns.append((seen[label], label, place))
            seen[label] += 1
        places = [place for _, _, place in sorted(turns)[:count]]
        paths, labels = (tuple(of[place] for place in places) for of in (self.paths, self.labels))
        return Videos(paths, labels, self.classes, self.missing)  # type: ignore[arg-type]


def find(folder: Path, part: str, classes: tuple[str, ...] | None = None) -> Videos:
    """The videos of a part: of `PART.csv`, an official list; `PART.txt`, of paths and labels; or the class folders in `PART`.

    Args:
        folder: of the data set.
        part: `train` or `val`.
        classes: those that it may have; None for those that it has.

    Raises:
        TaskError: where there are none, or it is not clear what they show.
    """
    lists = [path for path in (folder / f"{part}.csv", folder / f"{part}.txt") if path.exists()]
    if len(lists) == 2:
        raise TaskError(f"'{folder}' has both {part}.csv and {part}.txt; keep the one that is meant")
    missing: list[str] = []
    if not lists:
        entries = list(_class_folders(folder, part))
    elif lists[0].suffix == ".csv":
        entries = list(_official(lists[0], part, missing))
    else:
        entries = list(_plain(lists[0], missing))
    there = [(path, name) for path, name in entries if path]
    if lists:
        _tell(lists[0], len(there), missing)
    names = {name for _, name in entries}
    found = _known(names, classes, str(lists[0] if lists else folder / part))
    number = {name: place for place, name in enumerate(found)}
    return Videos(tuple(path for path, _ in there), tuple(number[name] for _, name in there), found, len(missing))


def _known(names: set[str], classes: tuple[str, ...] | None, where: str) -> tuple[str, ...]:
    """The classes: names in alphabetical order, numbers in theirs."""
    numbers = all(name.isdecimal() for name in names)
    if classes is None:
        if numbers and (gap := next((k for k in range(len(names)) if str(k) not in names), None)) is not None:
            raise TaskError(
                f"'{where}' has no video of class {gap}; number the {len(names)} classes from 0, without gaps"
            )
        return tuple(sorted(names, key=int) if numbers else sorted(names))
    strange = sorted(names - set(classes))
    if strange:
        raise TaskError(
            f"'{where}' has class '{strange[0]}' ({len(strange)} such classes), which has no training video; "
            "give it some, or take it out"
        )
    if lacking := [name for name in classes if name not in names]:
        warnings.warn(
            f"'{where}' has no video of {len(lacking)} classes, such as '{lacking[0]}'", BudgetWarning, stacklevel=4
        )
    return classes


def _tell(path: Path, there: int, missing: list[str]) -> None:
    count = there + len(missing)
    if not count:
        raise TaskError(f"the list '{path}' is empty")
    if not missing:
        return
    what = f"{len(missing):,} of the {count:,} videos in '{path}' are not there, such as {missing[0]}"
    if len(missing) > _MOST_MISSING * count:
        raise TaskError(f"{what}; at most a quarter may be missing: get them, or take them out of the list")
    warnings.warn(f"{what}; the others are used", BudgetWarning, stacklevel=4)


Entry = tuple[str, str]  # a path, empty where there is no file, and a class


def _class_folders(folder: Path, part: str) -> Iterator[Entry]:
    home = folder / part
    if not home.is_dir():
        raise TaskError(
            f"there is neither a list '{folder / part}.csv' or '.txt' nor a folder '{home}' with a folder of videos for each class"
        )
    for name, paths in by_class(home, _videos, "videos", EXTENSIONS).items():
        for path in paths:
            yield path, name


def _videos(folder: Path) -> Iterator[str]:
    for place, _, files in os.walk(folder, followlinks=True):
        for name in files:
            if os.path.splitext(name)[1].lower() in EXTENSIONS and not name.startswith("."):
                yield os.path.join(place, name)


def _official(path: Path, part: str, missing: list[str]) -> Iterator[Entry]:
    """A list with a line `label,youtube_id,time_start,time_end,split` for each video; the files may lie anywhere in the part's folder."""
    files: dict[str, str] = {}
    for file in _videos(path.parent / part):
        stem = Path(file).stem
        if stem in files:
            raise TaskError(f"'{files[stem]}' and '{file}' are the same video by their names; keep one")
        files[stem] = file
    rows = csv.DictReader(_lines(path))
    if lacking := [name for name in _OFFICIAL if name not in (rows.fieldnames or ())]:
        raise TaskError(
            f"the list '{path}' has no column '{lacking[0]}'; an official list begins with {','.join(_OFFICIAL)},split, "
            f"and a list of paths and labels is called {part}.txt"
        )
    for number, row in enumerate(rows, 2):
        try:
            stem = f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}"
        except (TypeError, ValueError):
            raise TaskError(
                f"line {number} of '{path}' has no whole seconds as time_start and time_end; correct it"
            ) from None
        if not row["label"]:
            raise TaskError(f"line {number} of '{path}' has no label; name a class, or take it out")
        if (row.get("split") or part) not in _PARTS[part]:
            raise TaskError(f"line {number} of '{path}' is of split '{row['split']}'; move it to that one's list")
        if stem not in files:
            missing.append(stem)
        yield files.get(stem, ""), row["label"]


def _plain(path: Path, missing: list[str]) -> Iterator[Entry]:
    """A list with a line `PATH LABEL` for each video: a path, absolute or below the list's folder, and the number of a class."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not (label.isascii() and label.isdecimal()):
            raise TaskError(
                f"line {number} of '{path}' is '{line.strip()}'; each is PATH LABEL, where LABEL is the number of a class, from 0"
            )
        file = path.parent / name.strip()
        if not file.is_file():
            missing.append(str(file))
        yield str(file) if file.is_file() else "", str(int(label))


def _lines(path: Path) -> Iterable[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise TaskError(f"cannot read the list '{path}': {error}") from None
