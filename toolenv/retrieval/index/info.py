"""What an index is, and which indexes there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolenv.errors import DataError
from toolenv.retrieval.index.job import size
from toolenv.retrieval.index.manifest import BUILDING, MANIFEST, Manifest, read_manifest
from toolenv.retrieval.index.places import found_index, indexes_folder

_UNNAMED = "passages-"
"""How the names of indexes begin that were built of passages in memory."""


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index is.

    Attributes:
        folder: Where it is.
        manifest: What it says of itself.
        bytes: What it takes on the disk.
    """

    folder: Path
    manifest: Manifest
    bytes: int

    def __str__(self) -> str:
        found = self.manifest
        lines = [("index", str(self.folder)), ("retriever", found.asked.retriever)]
        lines += [("corpus", f"{corpus.path} ({size(corpus.bytes)})") for corpus in found.corpora]
        lines.append(("passages", f"{found.passages:,}"))
        if found.encoder is not None:
            lines.append(("encoder", f"{found.encoder.name}, {found.encoder.dimension} dimensions"))
        if found.dense is not None:
            lines.append(("kind", f"{found.dense['kind']} ({found.dense['factory']}), {_settings(found.dense)}"))
            lines.append(("because", str(found.dense["why"])))
            taken = found.dense["bytes_per_passage"]
            lines.append(("memory", f"{size(taken * found.passages)}, {taken:.0f} bytes a passage, mapped"))
        if found.recall is not None:
            measured = ", ".join(f"@{k} {found.recall[f'recall@{k}']:.3f}" for k in (1, 3, 5))
            lines.append(("recall", f"{measured} ({found.recall['sample']} queries, against every vector compared)"))
        if found.bm25 is not None:
            lines.append(("bm25", f"k1 {found.bm25['k1']:g}, b {found.bm25['b']:g}"))
        lines.append(("on disk", size(self.bytes)))
        lines.append(("built with", ", ".join(f"{name} {version}" for name, version in found.versions.items())))
        return "\n".join(f"{name:10} {value}" for name, value in lines)


def index_info(index: str | Path) -> IndexInfo:
    """What an index is, by its manifest.

    Args:
        index: As for ``open_index``.

    Raises:
        DataError: There is none, or one that cannot be read.
    """
    folder = found_index(index)
    manifest = read_manifest(folder)
    return IndexInfo(folder, manifest, sum(facts["bytes"] for facts in manifest.files.values()))


def list_indexes() -> list[str]:
    """A line for each index in ``$TOOLENV_CACHE/indexes`` that has a name; unfinished ones and damaged ones too."""
    lines = []
    for folder in sorted(indexes_folder().glob("*")):
        if folder.name.startswith(_UNNAMED) or not folder.is_dir():
            continue
        if folder.name.endswith(BUILDING):
            lines.append(f"{folder.name.removesuffix(BUILDING):44} not finished; the same toolenv index build goes on")
        elif (folder / MANIFEST).exists():
            lines.append(_line(folder))
    return lines


def _line(folder: Path) -> str:
    try:
        info = index_info(folder)
    except DataError as error:
        return f"{folder.name:44} {error}"
    kind = info.manifest.dense["kind"] if info.manifest.dense else "words"
    return f"{folder.name:44} {info.manifest.passages:>12,} passages  {kind:10} {size(info.bytes):>9}"


def _settings(dense: dict[str, object]) -> str:
    settings = dense["settings"]
    assert isinstance(settings, dict)
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "no settings"
