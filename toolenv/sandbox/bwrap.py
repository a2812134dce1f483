"""The worker under bubblewrap: its own namespaces, no network, and of the file system only what Python needs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from toolenv.errors import SandboxError
from toolenv.sandbox.client import ENVIRONMENT, package_folders, worker_command, worker_settings
from toolenv.sandbox.process import PYTHON_OPTIONS, LocalSandbox, PipeTransport, fresh_uid

SITE = "/sandbox/site"
TMP_BYTES = 64 << 20
SHM_BYTES = 16 << 20
MAX_FILES = 4096
NOT_INSTALLED = "bwrap is not installed; install the package 'bubblewrap', or choose another sandbox"


class BwrapSandbox(LocalSandbox):
    """Programs in a namespace sandbox (bubblewrap, Linux).

    A program sees no network, no process but its own, and a read-only file system that holds Python, its libraries
    and the packages; ``/tmp`` is in memory. System calls are filtered. The kernel is shared, and memory is limited by
    process, not as a whole. Its arguments are those of ``LocalSandbox``.
    """

    kind = "bwrap"

    def _launch(self) -> PipeTransport:
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxError(NOT_INSTALLED)
        uid = fresh_uid()
        settings = worker_settings(
            path=[SITE],
            limits=self.limits,
            tmp="/tmp",
            uid=uid,
            max_processes=self.limits.max_processes if uid is not None or _counts_by_namespace() else None,
            max_files=MAX_FILES,
            warm=self.warm,
        )
        python = str(Path(sys.executable).resolve())
        command = [program, *_walls(uid is not None), *self._binds(python), "--chdir", "/tmp", "--"]
        return PipeTransport([*command, *worker_command([python, *PYTHON_OPTIONS], settings)], ENVIRONMENT)

    def _binds(self, python: str) -> list[str]:
        """What the sandbox sees of the file system."""
        binds = ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp", "--proc", "/proc", "--tmpfs", "/dev"]
        for name in ("null", "zero", "full", "random", "urandom"):
            binds += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        binds += ["--symlink", "/proc/self/fd", "/dev/fd"]
        binds += ["--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm"]
        for folder in ("/lib", "/lib64", "/lib32"):
            if os.path.islink(folder):
                binds += ["--symlink", os.readlink(folder), folder]
            else:
                binds += ["--ro-bind-try", folder, folder]
        seen = ["/usr/lib", "/usr/lib64", "/etc/ld.so.cache", python]
        if not sys.base_prefix.startswith("/usr") or sys.base_prefix == "/usr/local":
            seen.append(os.path.join(sys.base_prefix, "lib"))
        pairs = [(path, path) for path in seen]
        pairs += [(str(folder), f"{SITE}/{folder.name}") for folder in package_folders(self.packages)]
        parents = {str(parent) for _, inside in pairs for parent in Path(inside).parents}
        for folder in sorted(parents - {"/"}):  # bwrap would make them for root alone
            binds += ["--perms", "0755", "--dir", folder]
        for outside, inside in pairs:
            binds += ["--ro-bind-try", outside, inside]
        # Only /tmp and /dev/shm, which are emptied after each call, can be written to.
        return [*binds, "--remount-ro", "/dev", "--remount-ro", "/"]


def bwrap_problem() -> str | None:
    """Why bubblewrap cannot be tried here, ``None`` where there is such a program."""
    return None if shutil.which("bwrap") else NOT_INSTALLED


def _walls(is_root: bool) -> list[str]:
    walls = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    walls += ["--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox", "--cap-drop", "ALL"]
    # The worker gives this up as soon as it has limited the number of files, which bwrap cannot.
    walls += ["--cap-add", "CAP_SYS_ADMIN"]
    if is_root:
        # In a user namespace root's sandbox would be root outside; without one the worker leaves root by itself.
        return [*walls, "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return [*walls, "--unshare-user"]


def _counts_by_namespace() -> bool:
    """Whether the kernel counts a user's processes within a user namespace (Linux 5.14)."""
    major, minor = platform.release().split(".")[:2]
    return (int(major), int("".join(c for c in minor if c.isdigit()) or 0)) >= (5, 14)
