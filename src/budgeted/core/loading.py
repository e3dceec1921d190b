"""Objects of the user's own, named `path/to/file.py:Name` or `module:Name`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import BudgetedError


def load_object(name: str) -> Any:
    """Import what `path/to/file.py:Name` or `module:Name` names.

    Raises:
        BudgetedError: where there is no such file or name, or the import fails.
    """
    where, colon, attribute = name.rpartition(":")
    if not colon or not where or not attribute:
        raise BudgetedError(f"'{name}' names no object; write path/to/file.py:Name or module:Name")
    module = _import(where)
    if not hasattr(module, attribute):
        raise BudgetedError(f"'{where}' has no '{attribute}'")
    return getattr(module, attribute)


def _import(where: str) -> ModuleType:
    path = Path(where)
    if where.endswith(".py") and not path.is_file():
        raise BudgetedError(f"there is no file '{where}'")
    try:
        if not where.endswith(".py"):
            if "" not in sys.path:
                sys.path.insert(0, "")  # as `python -m` does: modules of the folder that the user stands in
            return importlib.import_module(where)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
    except Exception as error:
        raise BudgetedError(f"importing '{where}' failed with {type(error).__name__}: {error}") from error
    return module
