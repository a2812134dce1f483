"""What a sandbox hides of this machine, looked for without harm: planted files, sockets and variables of our own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from toolenv.sandbox.base import ExecResult

ISOLATION = ("environment", "files", "network", "processes")

Exec = Callable[[str], ExecResult]


def check_isolation(run: Exec, kinds: Collection[str]) -> None:
    """Check what a sandbox hides.

    Args:
        run: Runs a program in the sandbox.
        kinds: What to look for, each one of ``ISOLATION``.

    Raises:
        AssertionError: Something is not hidden; the message says what.
    """
    checks = {"environment": _environment, "files": _files, "network": _network, "processes": _processes}
    for kind in ISOLATION:  # the environment first: a worker gets it when it starts
        if kind in kinds:
            checks[kind](run)


def _output(run: Exec, kind: str, code: str) -> str:
    result = run(code)
    if result.status != "ok":
        raise AssertionError(f"check_sandbox: {kind}: the program that looks for it failed: {result}")
    return result.stdout.strip()


def _environment(run: Exec) -> None:
    name, secret = "TOOLENV_CHECK_SECRET", secrets.token_hex(8)
    os.environ[name] = secret
    try:
        seen = json.loads(
            _output(run, "environment", "import json, os\nprint(json.dumps({k: v for k, v in os.environ.items()}))")
        )
    finally:
        del os.environ[name]
    ours = {key for key in os.environ if re.search("TOKEN|SECRET|PASSWORD|CREDENTIAL|API_?KEY", key, re.IGNORECASE)}
    leaked = sorted(key for key in seen if key == name or (key in ours and seen[key] == os.environ[key]))
    if leaked:
        raise AssertionError(f"check_sandbox: environment: the program sees {leaked[0]} of this process; pass it none")


def _files(run: Exec) -> None:
    folder = Path(tempfile.mkdtemp(prefix="toolenv-check-"))
    try:
        secret = secrets.token_hex(8)
        (folder / "secret").write_text(secret)
        folder.chmod(0o777)  # whoever gets there may read and write: it is the sandbox that must keep them out
        code = (
            "try: print(open({path!r}).read())\nexcept OSError: pass\n"
            "try: open({new!r}, 'w').write('x')\nexcept OSError: pass"
        )
        seen = _output(run, "files", code.format(path=str(folder / "secret"), new=str(folder / "new")))
        if secret in seen:
            raise AssertionError(f"check_sandbox: files: the program read {folder / 'secret'}, a file of this machine")
        if (folder / "new").exists():
            raise AssertionError(f"check_sandbox: files: the program wrote {folder / 'new'}, on this machine")
    finally:
        shutil.rmtree(folder)
    left = f"toolenv-check-{secrets.token_hex(8)}"
    _output(run, "files", f"import tempfile\nopen(tempfile.gettempdir() + '/{left}', 'w').close()")
    look = f"import os, tempfile\nprint(os.path.exists(tempfile.gettempdir() + '/{left}'))"
    if _output(run, "files", look) != "False":
        raise AssertionError("check_sandbox: files: a temporary file of a call is there in the next one")


def _network(run: Exec) -> None:
    for family, address in _listeners():
        code = f"import socket\nsocket.socket(socket.{family}).connect({address!r})\nprint('connected')"
        if run(code).stdout.strip() == "connected":
            raise AssertionError(f"check_sandbox: network: the program connected to {address!r} on this machine")


def _listeners() -> Iterator[tuple[str, object]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield "AF_INET", server.getsockname()
    if sys.platform == "linux":
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
            name = f"\0toolenv-check-{secrets.token_hex(8)}"  # abstract: in no folder, so no file system hides it
            server.bind(name)
            server.listen()
            yield "AF_UNIX", name


def _processes(run: Exec) -> None:
    """A process is known by its number and the time of its start; its number alone may be another's in there."""
    if sys.platform != "linux":
        return
    pid = os.getpid()
    own = Path(f"/proc/{pid}/stat").read_text()
    code = f"try: print(open('/proc/{pid}/stat').read())\nexcept OSError: pass"
    seen = _output(run, "processes", code)
    if _start(seen) == _start(own):
        raise AssertionError(f"check_sandbox: processes: the program sees process {pid}, which is this one")


def _start(stat: str) -> str:
    fields = stat.rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""
