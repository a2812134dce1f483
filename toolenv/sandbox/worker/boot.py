"""Loads the worker from its command line: settings, then the name and the source of each of its files.

This file is itself the program that the command names (``python -c``), so it imports nothing of the worker.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType

PACKAGE = "toolenv_worker"


class Sources(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads modules whose sources are in memory."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.sources = sources

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module, where it is one of these."""
        if fullname not in self.sources:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=self.is_package(fullname))

    def is_package(self, fullname: str) -> bool:
        """Only the worker as a whole is a package."""
        return fullname == PACKAGE

    def exec_module(self, module: ModuleType) -> None:
        """Load a module with builtins of its own: a program that changes those of Python does not change the worker."""
        vars(module)["__builtins__"] = dict(vars(builtins))
        super().exec_module(module)

    def get_source(self, fullname: str) -> str:
        """The source of a module."""
        return self.sources[fullname]

    def get_code(self, fullname: str) -> CodeType:
        """The code of a module, under a name that tracebacks of the worker show."""
        return compile(self.get_source(fullname), f"<{fullname}>", "exec", dont_inherit=True)


def boot() -> None:
    """Load the worker and run it; programs do not see how."""
    settings, *files = sys.argv[1:]
    sources = {PACKAGE: ""} | {f"{PACKAGE}.{name}": text for name, text in zip(files[::2], files[1::2], strict=True)}
    finder = Sources(sources)
    sys.meta_path.insert(0, finder)
    main = importlib.import_module(f"{PACKAGE}.main")
    sys.meta_path.remove(finder)
    for name in sources:
        del sys.modules[name]
    sys.argv, sys.orig_argv = [""], [sys.executable]
    main.main(settings)


if __name__ == "__main__":
    boot()
