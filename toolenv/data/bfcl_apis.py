"""The APIs that BFCL's multi-turn tasks are played on: a file system, a car, a broker and five others.

They are BFCL's own classes, read out of its package by ``toolenv fetch bfcl-apis`` at a pinned sha256, and run in this
process: trusted code without network, files or subprocesses. They are modules of no package, so that they neither
need nor disturb an installed ``bfcl_eval``.

Source:
    ShishirPatil/gorilla, ``berkeley-function-call-leaderboard/bfcl_eval/eval_checker/multi_turn_eval`` (Apache-2.0):
    ``func_source_code``, and ``multi_turn_utils.py`` for how results become text.
"""

from __future__ import annotations

import ast
import copy
import decimal
import json
import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from toolenv.data.assets import cache_dir
from toolenv.errors import DataError
from toolenv.messages import ToolCall

API_FILES: Mapping[str, str] = {
    "GorillaFileSystem": "gorilla_file_system",
    "MathAPI": "math_api",
    "MessageAPI": "message_api",
    "TicketAPI": "ticket_api",
    "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking",
    "TwitterAPI": "posting_api",
    "VehicleControlAPI": "vehicle_control",
}
_SHARED = "long_context"
# What a call could use to keep the process busy for ever, by size; the tasks need less than a tenth of it.
_AT_MOST = {"exponent": 300, "precision": 10_000, "decimal_places": 10_000}


class World:
    """APIs in a state that calls change.

    Args:
        apis: Names of the APIs, keys of ``API_FILES``.
        config: The state of each at the start.
        long_context: Whether they answer with much more than was asked for.
        folder: Where ``toolenv fetch bfcl-apis`` put their code; ``None``: in the cache.

    Raises:
        DataError: An API that does not exist, or its code is not there.
    """

    def __init__(
        self,
        apis: tuple[str, ...],
        config: Mapping[str, Any],
        long_context: bool = False,
        folder: str | Path | None = None,
    ) -> None:
        folder = Path(folder) if folder is not None else cache_dir() / "bfcl-apis"
        self.apis: dict[str, Any] = {}
        for name in apis:
            api = _api_class(folder, name)()
            if hasattr(api, "_load_scenario"):
                api._load_scenario(copy.deepcopy(config.get(name, {})), long_context=long_context)
            # With a long context the state holds objects of the module itself, such as credit cards.
            self.apis[name] = copy.deepcopy(api)

    def call(self, call: ToolCall) -> str:
        """Run a call and write its result, or its error, as BFCL does."""
        owners = [api for api in self.apis.values() if callable(getattr(api, call.name, None))]
        if not owners or call.name.startswith("_"):
            return f"Error during execution: name '{call.name}' is not defined"
        for name, most in _AT_MOST.items():
            if _size(call.arguments.get(name)) > most:
                return f"Error during execution: {name} must be at most {most}"
        try:
            with _kept_precision() if "MathAPI" in self.apis else nullcontext():
                return _as_text(getattr(owners[-1], call.name)(**copy.deepcopy(dict(call.arguments))))
        except Exception as error:
            return f"Error during execution: {error}"

    def differs_from(self, other: World) -> str:
        """The first ``api.attribute`` in which the states differ; empty where they are the same."""
        for name, api in other.apis.items():
            for attribute, value in vars(api).items():
                if not attribute.startswith("_") and getattr(self.apis[name], attribute) != value:
                    return f"{name}.{attribute}"
        return ""


def _size(value: Any) -> float:
    """How large a number is, also one that is written as text: the APIs read it as one."""
    try:
        return abs(float(value))
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return 0.0


_calculating, _loading = threading.Lock(), threading.RLock()


@contextmanager
def _kept_precision() -> Iterator[None]:
    """``MathAPI`` sets the precision of all arithmetic in the process; it is set back, and one thread at a time."""
    import mpmath  # type: ignore[import-untyped]

    with _calculating, decimal.localcontext(), mpmath.workdps(mpmath.mp.dps):
        yield


def _as_text(result: Any) -> str:
    if not isinstance(result, dict):
        return str(result)
    try:
        return json.dumps(result)
    except (TypeError, ValueError):
        return str(result)


def _api_class(folder: Path, name: str) -> Any:
    if name not in API_FILES:
        raise DataError(f"BFCL has no API {name!r}; it has {', '.join(API_FILES)}")
    with _loading:  # two threads would make two modules of one file, and what is equal in one differs in the other
        return getattr(_module(folder, API_FILES[name]), name)


@cache
def _module(folder: Path, stem: str) -> ModuleType:
    """Run a file as a module of its own. Its only import from BFCL, a file of long texts, is handed to it."""
    path = folder / f"{stem}.py"
    if not path.is_file():
        raise DataError(f"{path} is not there; run: toolenv fetch bfcl-apis")
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    outside = [node for node in tree.body if not _is_from_bfcl(node)]
    module = ModuleType(f"bfcl_api_{stem}")
    if len(outside) < len(tree.body):
        shared = vars(_module(folder, _SHARED))
        vars(module).update({key: value for key, value in shared.items() if not key.startswith("__")})
    tree.body = outside
    exec(compile(tree, str(path), "exec"), vars(module))
    return module


def _is_from_bfcl(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bfcl_eval.")
