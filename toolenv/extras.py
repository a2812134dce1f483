"""Optional dependencies: imported on use, and missed with one clear line."""

from __future__ import annotations

import importlib
from types import ModuleType

from toolenv.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, which the optional extra ``extra`` installs.

    Args:
        module: Dotted name of the module.
        extra: Name of the extra in ``pyproject.toml`` that brings it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: The module is not installed; the message holds the command that installs it.

    Example:
        >>> require("json", "search").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise MissingExtraError(f"{missing!r} is not installed; run: pip install 'toolenv[{extra}]'") from error
