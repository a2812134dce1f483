"""What of a build is done: noted in a file, so that a killed build goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Steps:
    """Which steps of a build are done, and with what.

    Args:
        path: The file that notes them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._done: dict[str, Any] = {}

    def read(self) -> None:
        """Take up what an earlier call noted."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            self._done = found if isinstance(found, dict) else {}
        except (OSError, ValueError):
            self._done = {}

    def has(self, step: str, key: list[Any]) -> bool:
        """Whether a step is done, with this."""
        return bool(self._done.get(step) == key)

    def finish(self, step: str, key: list[Any]) -> None:
        """Note that a step is done."""
        self._done[step] = key
        aside = self.path.with_name(f"{self.path.name}.new")
        aside.write_text(json.dumps(self._done), encoding="utf-8")
        os.replace(aside, self.path)

    def clear(self) -> None:
        """Forget all steps."""
        self._done = {}
        self.path.unlink(missing_ok=True)
