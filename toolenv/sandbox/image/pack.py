"""Packs the Python that runs this, with NumPy and SymPy, into a folder that can be the root of a container.

This file runs as a script, alone: in the base image while the image is built, and on the host where that Python is to
be the base (``toolenv sandbox build --from-this-python``). What is packed is the interpreter, its standard library,
the packages and the shared libraries that these load. So there is no shell, no pip, no set-uid file, nothing else.

    python pack.py FOLDER [--no-compile]
"""

from __future__ import annotations

import compileall
import importlib.util
import os
import py_compile
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("numpy", "sympy", "mpmath")
LEFT_OUT = {
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
}
LEFT_OUT_STARTS = ("config-", "_ctypes_test", "_test", "_tkinter", "_xxtest", "xxlimited")
PREFIX = "usr/local"
# Python gets this library by itself when a thread ends; nothing names it as needed.
ON_USE = "libgcc_s.so.1"
ACCOUNTS = {
    "passwd": "root:x:0:0:root:/root:/nowhere\nnobody:x:65534:65534:nobody:/tmp:/nowhere\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
}


def main() -> None:
    """Install what is missing, pack, compile."""
    root, compiled = Path(sys.argv[1]), "--no-compile" not in sys.argv
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--root-user-action=ignore", *missing],
            check=True,
        )
        importlib.invalidate_caches()
    library = root / PREFIX / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    copy_folder(Path(sysconfig.get_path("stdlib")), library)
    copy_folder(Path(sysconfig.get_path("platstdlib")), library)
    packages = library / package_folder_name()
    for folder in package_folders():
        copy_folder(folder, packages / folder.name)
    python = Path(sys.executable).resolve()
    copy_file(python, root / PREFIX / "bin" / "python", 0o755)
    (root / PREFIX / "bin" / "python3").symlink_to("python")
    extensions = [path for path in library.rglob("*.so*") if path.is_file()]
    copy_libraries(libraries([python, *original_extensions()]), {path.name for path in extensions}, root)
    copy_accounts(root)
    if compiled:
        # Checked hashes and times would be looked up at each import, for files that nobody can change.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(library, quiet=2, workers=0, invalidation_mode=mode, stripdir=str(root), prependdir="/")


def package_folder_name() -> str:
    """``site-packages``, or what this Python has instead of it (Debian: ``dist-packages``)."""
    return Path(next(iter(site.getsitepackages()))).name


def package_folders() -> list[Path]:
    """Folders of the packages, of the libraries that their wheels carry, and of their names and versions."""
    folders = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            sys.exit(f"pack.py: {name} is not installed here, and could not be installed")
        folder = Path(next(iter(spec.submodule_search_locations)))
        folders += [folder, folder.with_name(f"{name}.libs"), *folder.parent.glob(f"{name}-*.dist-info")]
    return [folder for folder in folders if folder.is_dir()]


def is_left_out(name: str) -> bool:
    """Whether a file or folder of this name is not packed."""
    return name in LEFT_OUT or name.startswith(LEFT_OUT_STARTS) or name.endswith((".a", ".pyc"))


def files(folder: Path) -> Iterator[Path]:
    """All files to pack below a folder."""
    for top, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_left_out(name)]
        yield from (Path(top, name) for name in names if not is_left_out(name))


def original_extensions() -> list[Path]:
    """Shared libraries among the files to pack, where they lie now."""
    folders = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("platstdlib")), *package_folders()]
    return sorted({path for folder in folders for path in files(folder) if ".so" in path.suffixes})


def copy_folder(source: Path, target: Path) -> None:
    """Copy what is to be packed of a folder."""
    for path in files(source):
        copy_file(path, target / path.relative_to(source), 0o644)


def copy_file(source: Path, target: Path, mode: int) -> None:
    """Copy a file's content, under rights that everybody may have."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def libraries(programs: Iterable[Path]) -> dict[str, str]:
    """All shared libraries that the programs load, as the loader finds them: ``{name: path}``."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    loader = next(line.split()[-1] for line in maps if os.path.basename(line.split()[-1]).startswith("ld-"))
    found: dict[str, str] = {}
    for program in programs:
        listed = subprocess.run([loader, "--list", str(program)], capture_output=True, text=True, check=False)
        for (
            line
        ) in listed.stdout.splitlines():  # "libm.so.6 => /lib/libm.so.6 (0x7f...)" or "/lib64/ld-linux.so (0x...)"
            name, arrow, path = line.rpartition(" (")[0].strip().rpartition(" => ")
            if os.path.isabs(path):
                found.setdefault(name if arrow else path, path)
    return found


def copy_libraries(found: dict[str, str], packed: set[str], root: Path) -> None:
    """Copy libraries into the folder of the C library, where the loader of any of them looks."""
    c_library = found.get("libc.so.6", "")
    folder = os.path.dirname(c_library) or "/lib"
    on_use = Path(folder, ON_USE)
    if on_use.exists():
        found = {ON_USE: str(on_use), **found}
    for name, path in found.items():
        if os.path.isabs(name):  # the loader, which programs name by its whole path
            copy_file(Path(path), root / name.lstrip("/"), 0o755)
        elif os.path.basename(path) not in packed:
            copy_file(Path(path), root / folder.lstrip("/") / name, 0o644)


def copy_accounts(root: Path) -> None:
    """The few names of users that programs ask for, and a place for temporary files."""
    (root / "etc").mkdir(exist_ok=True)
    for name, text in ACCOUNTS.items():
        (root / "etc" / name).write_text(text)
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)


if __name__ == "__main__":
    main()
