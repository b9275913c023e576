"""Where analyses are found: in every wing of this package, a file dropped into one included, and wherever you say.

A module of `analyses/<wing>/` registers what stands in it under `@analysis` when it is imported; nothing lists it.
`package.module:function` names an analysis of any other package, if it is yours (`landscape.imports`).
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from pathlib import Path
from typing import Any

from landscape import imports

_PACKAGE = "analyses"
_NOT_ASKED = {"studies"}  # asks questions and holds none
_seen: set[str] = set()


def import_wings() -> None:
    """Import every module of the wings that was not imported yet; one that cannot be is warned of and left out.

    Cost: listing some folders; the imports once a process.
    """
    root = str(Path(__file__).parent)
    for wing in pkgutil.iter_modules([root]):
        if not wing.ispkg or wing.name in _NOT_ASKED:
            continue
        for module in pkgutil.iter_modules([str(Path(root) / wing.name)]):
            name = f"{_PACKAGE}.{wing.name}.{module.name}"
            if name in _seen:
                continue
            _seen.add(name)
            importlib.invalidate_caches()  # the file may be younger than what Python knows of its folder
            try:
                importlib.import_module(name)
            except Exception as error:  # somebody's file; all others can still be asked
                warnings.warn(
                    f"{name}: its analyses are left out, importing it raised {type(error).__name__}: {error}",
                    stacklevel=3,
                )


def imported(path: str) -> Any:
    """What `package.module:function` names.

    Raises:
        PermissionError: A file named it, and nobody allowed it.
        ValueError: There is no such module or function.
    """
    imports.met([path])
    imports.require("analysis", path)
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"analysis {path!r}: expected an importable package.module:function, got {error}. "
            "Is its folder on PYTHONPATH?"
        ) from error
