"""A COCO annotation file, checked in itself and against the images that it is of."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import TaskError

LABELS = 90  # COCO's ids go from 1 to this; 80 of them are in use

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Photograph:
    """An image and the objects in it that are trained on.

    Args:
        number: its id in the annotation file.
        path: where it is.
        height, width: in pixels, as the annotation file has them.
        objects: annotations of single objects whose box has an area, crowds left out.
    """

    number: int
    path: str
    height: int
    width: int
    objects: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Annotations:
    """A COCO annotation file that goes with its images.

    Args:
        photographs: all of them, in the order of their ids.
        content: of the file.
        crowds: annotations of many objects at once, which are not trained on.
        degenerate: annotations whose box has no area in its image, which cannot be.
    """

    photographs: tuple[Photograph, ...]
    content: Mapping[str, Any]
    crowds: int
    degenerate: int

    @classmethod
    def read(cls, file: Path, folder: Path) -> Annotations:
        """The annotations of the images in a folder.

        Args:
            file: such as `annotations/instances_val2017.json`.
            folder: with the images.

        Raises:
            TaskError: where the file is no annotation file, or does not go with the images.
        """
        content = _content(file)
        images = sorted(content["images"], key=lambda image: image["id"])
        _check(file, content, folder)
        objects: dict[int, list[Entry]] = {image["id"]: [] for image in images}
        sizes = {image["id"]: (image["height"], image["width"]) for image in images}
        crowds = degenerate = 0
        for entry in content["annotations"]:
            left, top, right, bottom = corners(entry, *sizes[entry["image_id"]])
            if entry["iscrowd"]:
                crowds += 1
            elif right <= left or bottom <= top:
                degenerate += 1
            else:
                objects[entry["image_id"]].append(entry)
        photographs = [
            Photograph(image["id"], str(folder / image["file_name"]), *sizes[image["id"]], tuple(objects[image["id"]]))
            for image in images
        ]
        return cls(tuple(photographs), content, crowds, degenerate)


def corners(entry: Entry, height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of an annotation's box, within the image."""
    x, y, w, h = map(float, entry["bbox"])
    return max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise TaskError(f"cannot read '{file}': {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise TaskError(f"'{file}' is damaged: it is no JSON ({error}); get it again") from None
    kinds = {"images": _is_image, "categories": _is_category, "annotations": _is_annotation}
    if not isinstance(content, dict) or not all(isinstance(content.get(kind), list) for kind in kinds):
        raise TaskError(f"'{file}' is no COCO annotation file: that has lists of {', '.join(kinds)}")
    for kind, is_one in kinds.items():
        entries = content[kind]
        _refuse(file, kind, "lack what one has, or have it of another kind", [e for e in entries if not is_one(e)])
        ids = Counter(entry["id"] for entry in entries)
        _refuse(file, kind, "share their id with another", [entry for entry in entries if ids[entry["id"]] > 1])
    return content


def _check(file: Path, content: Mapping[str, Any], folder: Path) -> None:
    """That annotations, categories and images go together."""
    try:
        there = set(os.listdir(folder))
    except OSError as error:
        raise TaskError(f"cannot read the images' folder '{folder}': {error.strerror}") from None
    images, labels = {e["id"] for e in content["images"]}, {e["id"] for e in content["categories"]}

    def refuse(kind: str, what: str, wrong: Callable[[Entry], bool]) -> None:
        _refuse(file, kind, what, filter(wrong, content[kind]))

    refuse("categories", f"have an id that is not from 1 to {LABELS}", lambda e: not 1 <= e["id"] <= LABELS)
    refuse("annotations", "are of an image that the file does not have", lambda e: e["image_id"] not in images)
    refuse("annotations", "are of a category that the file does not have", lambda e: e["category_id"] not in labels)
    refuse(
        "images",
        f"have no file in '{folder}'",
        lambda e: e["file_name"] not in there and not (folder / e["file_name"]).is_file(),
    )


def _refuse(file: Path, kind: str, what: str, wrong: Iterable[Any]) -> None:
    found = list(wrong)
    if found:
        raise TaskError(
            f"'{file}' cannot be used: {len(found)} of its {kind} {what}; the first is {str(found[0])[:200]}. Get the file and "
            "the images again, or correct the file"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_image(e: Any) -> bool:
    return (
        isinstance(e, dict)
        and isinstance(e.get("file_name"), str)
        and all(isinstance(e.get(key), int) for key in ("id", "height", "width"))
        and min(e["height"], e["width"]) > 0
    )


def _is_category(e: Any) -> bool:
    return isinstance(e, dict) and isinstance(e.get("id"), int)


def _is_annotation(e: Any) -> bool:
    return (
        isinstance(e, dict)
        and all(isinstance(e.get(key), int) for key in ("id", "image_id", "category_id"))
        and e.get("iscrowd") in (0, 1)
        and _is_number(e.get("area"))
        and isinstance(e.get("bbox"), list)
        and len(e["bbox"]) == 4
        and all(map(_is_number, e["bbox"]))
        and isinstance(e.get("segmentation"), list | dict)
    )
