"""Arguments that make no sense: refused by name, before a worker is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from toolenv.errors import ConfigError, SandboxError, SandboxUnavailable
from toolenv.sandbox import ExecJob, ExecResult, Limits, SandboxPool, make_sandbox
from toolenv.sandbox.client import WorkerSandbox
from toolenv.sandbox.process import PipeTransport
from toolenv.sandbox.remote import RemoteSandbox

pytestmark = pytest.mark.core


def never(*_: object, **__: object) -> Any:
    raise AssertionError("a worker was taken")


class Untouched:
    """A sandbox that no call may reach."""

    exec = exec_keeping = staticmethod(never)

    def close(self) -> None:
        pass


ENTRANCES: dict[str, Callable[..., ExecResult]] = {
    "worker": WorkerSandbox(never, "x").exec,
    "worker's session": WorkerSandbox(never, "x").exec_keeping,
    "pool": SandboxPool(Untouched).exec,
    "session": SandboxPool(Untouched).session().exec,
    "remote": RemoteSandbox("http://localhost:9", retries=0).exec,
    "job": ExecJob,  # type: ignore[dict-item]
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"code": None}, "code must be text, not None"),
        ({"code": b"1"}, "code must be text, not b'1'"),
        ({"stdin": None}, "stdin must be text, not None"),
        ({"timeout_s": None}, "timeout_s must be a number of seconds from 0 to 1e+06, not None"),
        ({"timeout_s": "5"}, "not '5'"),
        ({"timeout_s": True}, "not True"),
        ({"timeout_s": -1}, "not -1"),
        ({"timeout_s": float("nan")}, "not nan"),
        ({"timeout_s": float("inf")}, "not inf"),
        ({"timeout_s": 10**400}, "from 0 to 1e+06"),
        ({"max_output_bytes": 1}, "max_output_bytes must be a whole number of at least 2, such as 64_000; got 1"),
        ({"max_output_bytes": 1e3}, "got 1000.0"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused_before_it_costs_a_worker(
    entrance: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        ENTRANCES[entrance](**{"code": "1", "timeout_s": 1, **arguments})
    assert message in str(refused.value)


@pytest.mark.parametrize("name", ["memory_bytes", "max_processes", "max_file_bytes"])
@pytest.mark.parametrize("value", [1e9, 512.0, "1g", None, True, 0, -1, -2, 1 << 63])
def test_limits_that_are_none_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number .*, such as .*; got ") as refused:
        Limits(**{name: value})
    assert str(refused.value).endswith(repr(value))


def test_limits_may_be_of_numpy() -> None:
    nine: Any = np.int64(9)
    assert Limits(max_processes=nine) == Limits(max_processes=9)
    assert type(Limits(max_processes=nine).max_processes) is int  # JSON knows no other


@pytest.mark.parametrize("workers", [2.5, "2", True, 0, None])
@pytest.mark.parametrize(
    "make", [lambda workers: make_sandbox("process", workers=workers), lambda workers: SandboxPool(Untouched, workers)]
)
def test_workers_are_counted(make: Callable[[Any], SandboxPool], workers: Any) -> None:
    with pytest.raises(ConfigError, match="workers must be a whole number of at least 1, such as 2; got ") as refused:
        make(workers)
    assert str(refused.value).endswith(repr(workers))


def test_errors_that_leave_the_package_are_public() -> None:
    pool = SandboxPool(Untouched, 1)
    session = pool.session()
    session.close()
    unstartable = SandboxPool(lambda: WorkerSandbox(lambda: PipeTransport(["/no/such/program"], {}), "x"), 1)
    remote = RemoteSandbox("http://localhost:9", retries=0)
    pool.close()
    for attempt, kind in (
        (session.exec, SandboxUnavailable),
        (pool.exec, SandboxUnavailable),
        (unstartable.exec, SandboxUnavailable),
        (remote.exec, SandboxError),
    ):
        with pytest.raises(SandboxError) as caught:
            attempt("1", timeout_s=1)
        assert caught.type is kind


@pytest.mark.parametrize("token", ["secret\n", "two\nlines", " secret", "sécret", "", 5])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(token: Any) -> None:
    with pytest.raises(ConfigError, match="token must be ") as refused:
        RemoteSandbox("http://localhost:9", token)
    assert "cret" not in str(refused.value)
