"""What is installed, what importing it costs, and what happens where another package has taken one of our names."""

from __future__ import annotations

import ast
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("agents", "rewards", "toolenv")
HEAVY = ("torch", "faiss", "docker", "transformers", "sympy", "math_verify", "bm25s", "matplotlib")


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def recipe(*words: str) -> list[str]:
    """The commands that make would run, did it have to make everything."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    shown = subprocess.run(["make", "-n", "-B", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()


def test_torch_comes_first_from_the_index_that_is_named() -> None:
    named = "https://example.org/whl"
    [torch, rest] = [line for line in recipe(".venv/stamp", f"TORCH_INDEX={named}") if " -m pip install " in line]
    assert torch.endswith(f"--no-deps --index-url {named} torch")
    assert "-c constraints.txt" in torch
    assert rest.endswith("-e '.[all,dev]'")
    assert named not in rest
    assert [line for line in recipe(".venv/stamp", "TORCH_INDEX=") if " -m pip install " in line] == [rest]


def test_clean_leaves_no_environment() -> None:
    removed = {word for line in recipe("clean") for word in line.split()}
    assert {".venv", ".venv-core", ".venv-vllm"} <= removed
    assert "runs" not in removed


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("wheel")
    built = run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("toolenv-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_wheel_holds_the_three_packages_and_nothing_else(wheel_names: list[str]) -> None:
    assert {name.split("/")[0] for name in wheel_names if ".dist-info/" not in name} == set(PACKAGES)


def test_wheel_holds_every_tracked_file_of_the_packages(wheel_names: list[str]) -> None:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    tracked = [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    missing = sorted(set(tracked) - set(wheel_names))
    assert len(tracked) > 20
    assert not missing
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel_names)


def test_wheel_carries_the_licence_and_no_compiled_leftovers(wheel_names: list[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)
    assert not [name for name in wheel_names if name.endswith((".pyc", ".pyo", ".orig"))]


@pytest.mark.core
@pytest.mark.parametrize("package", ["toolenv", "rewards"])
def test_import_loads_nothing_heavy(package: str) -> None:
    code = f"import sys, {package}; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = run_python("-c", code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


@pytest.mark.core
def test_command_line_loads_nothing_heavy() -> None:
    code = f"import sys, agents.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    result = run_python("-c", code)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


@pytest.mark.core
@pytest.mark.parametrize("package", ["toolenv", "rewards"])
def test_all_is_sorted_and_every_name_exists(package: str) -> None:
    module = importlib.import_module(package)
    assert module.__all__ == sorted(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.core
@pytest.mark.parametrize("package", PACKAGES)
def test_modules_of_the_package_name_only_layers_below(package: str) -> None:
    """The direction of imports, also inside functions: import-linter says it too, this says it without the extra."""
    above = set(PACKAGES[: PACKAGES.index(package)])
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found += [f"{path.relative_to(ROOT)} imports {name}" for name in names if name.split(".")[0] in above]
    assert not found


@pytest.mark.core
def test_a_distribution_that_shadows_agents_is_named(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").touch()
    info = tmp_path / "openai_agents-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: openai-agents\nVersion: 0.1.0\n")
    (info / "top_level.txt").write_text("agents\n")
    # -P keeps the checkout itself off the front of the path, as for a user in another folder.
    result = run_python("-P", "-m", "pytest", "--collect-only", "-q", __file__, PYTHONPATH=str(tmp_path))
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "openai-agents also installs a package called 'agents'" in result.stderr
    assert "pip uninstall openai-agents" in result.stderr


@pytest.mark.core
def test_a_loose_folder_that_shadows_rewards_is_named(tmp_path: Path) -> None:
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "__init__.py").touch()
    result = run_python("-P", "-m", "pytest", "--collect-only", "-q", __file__, PYTHONPATH=str(tmp_path))
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"'import rewards' finds {tmp_path / 'rewards'}" in result.stderr
