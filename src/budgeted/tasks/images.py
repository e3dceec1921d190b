"""Image files: found in class folders or read in place from tar files, decoded by Pillow."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ..core.errors import TaskError
from ..train.stream import Unreadable

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".tif", ".tiff", ".webp"})


class Stored(NamedTuple):
    """Where an image is: a file, or bytes of one that holds many."""

    path: str
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return self.path if self.size < 0 else f"{self.path} (byte {self.offset:,})"

    def bytes(self) -> bytes:
        """What is stored.

        Raises:
            Unreadable: where it is not there.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise Unreadable(f"'{self}': {error.strerror or error}") from None


@contextmanager
def opened(stored: Stored) -> Iterator[Image.Image]:
    """An image whose pixels are decoded when they are asked for.

    Raises:
        Unreadable: where it is truncated, or no image.
    """
    content = stored.bytes()
    try:
        yield Image.open(io.BytesIO(content))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(f"'{stored}': {error}") from None


def decode(stored: Stored) -> Image.Image:
    """The image in colour.

    Raises:
        Unreadable: where it is truncated, or no image.
    """
    with opened(stored) as image:
        return image.convert("RGB")


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images and the numbers of their classes.

    Args:
        images: where they are.
        labels: of each, from 0.
        classes: their names.
    """

    images: tuple[Stored, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def class_folders(folder: Path) -> Labelled:
    """Images in a folder for each class, as torchvision's ImageFolder reads them.

    Raises:
        TaskError: for no class folder, or one without images.
    """
    try:
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise TaskError(f"cannot read '{folder}': {error.strerror}") from None
    if not classes:
        raise TaskError(f"'{folder}' has no folders; it is to hold one for each class, with images in it")
    images: list[Stored] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = [path for path in (folder / name).rglob("*") if path.suffix.lower() in EXTENSIONS]
        if not found:
            known = ", ".join(sorted(EXTENSIONS))
            raise TaskError(f"class folder '{folder / name}' has no images ({known}); fill it, or remove it")
        images += [Stored(str(path)) for path in sorted(found)]
        labels += [label] * len(found)
    return Labelled(tuple(images), tuple(labels), tuple(classes))
