"""Verifying an index: every file read again, and what the files hold compared with each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolenv.errors import ConfigError, DataError, MissingExtraError, RetrieverError
from toolenv.progress import Progress
from toolenv.retrieval.encoders import Encoder
from toolenv.retrieval.index.encoding import encoded
from toolenv.retrieval.index.manifest import Manifest, file_sha256, read_manifest
from toolenv.retrieval.index.opening import Parts, encoder_of, open_parts
from toolenv.retrieval.index.places import found_index
from toolenv.retrieval.index.store_files import check_size
from toolenv.seeding import rng

SPOT_CHECKS = 8
ALIKE = 0.99
"""Least inner product of a stored vector with the same one made again: float16 and bfloat16 give 0.999."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        ok: Whether it is as it should be.
        detail: What was found.
    """

    name: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'BAD'}  {self.name:22} {self.detail}"


@dataclass(frozen=True, slots=True)
class Verified:
    """What ``verify_index`` found.

    Attributes:
        folder: The index.
        checks: What was looked at.
    """

    folder: Path
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all is as it should be."""
        return all(check.ok for check in self.checks)

    def __str__(self) -> str:
        bad = sum(not check.ok for check in self.checks)
        end = f"{self.folder}: whole" if not bad else f"{self.folder}: DAMAGED; toolenv index build makes it again"
        return "\n".join([*map(str, self.checks), end])


def verify_index(index: str | Path, *, encoder: str | Encoder | None = None, progress: bool = True) -> Verified:
    """Read all of an index again: every file's bytes and sha256, counts, and some vectors made anew.

    Args:
        index: As for ``open_index``.
        encoder: As for ``open_index``.
        progress: Whether to say on stderr how far it is.

    Raises:
        DataError: There is no index, or nothing can be read of what it says of itself.
    """
    folder = found_index(index)
    manifest = read_manifest(folder)
    checks = list(_files(folder, manifest, progress))
    if all(check.ok for check in checks):
        checks += _contents(folder, encoder)
    return Verified(folder, tuple(checks))


def _files(folder: Path, manifest: Manifest, progress: bool) -> Iterator[Check]:
    said = Progress("reading", sum(facts["bytes"] for facts in manifest.files.values())) if progress else None
    done = 0
    for name, facts in manifest.files.items():
        try:
            check_size(folder / name, facts["bytes"])
            sha256 = file_sha256(folder / name)
        except (DataError, OSError) as error:
            yield Check(name, False, str(error))
            continue
        same = sha256 == facts["sha256"]
        found = f"{facts['bytes']:,} bytes" if same else f"has another content: sha256 {sha256[:12]}, "
        yield Check(name, same, found if same else found + f"built with {facts['sha256'][:12]}")
        done += facts["bytes"]
        if said:
            said.show(done, name)
    if said:
        said.close(f"{len(manifest.files)} files, {done:,} bytes")


def _contents(folder: Path, encoder: str | Encoder | None) -> Iterator[Check]:
    """Whether the parts fit each other."""
    try:
        parts = open_parts(folder)
    except (DataError, RetrieverError) as error:
        yield Check("opening", False, str(error))
        return
    count = len(parts.store)
    yield Check("passages", count == parts.manifest.passages, f"{count:,}")
    if parts.bm25 is not None:
        yield Check("words", len(parts.bm25.passages) == count, f"of {count:,} passages")
    if parts.dense is not None:
        yield Check(
            "vectors", len(parts.dense) == count, f"{len(parts.dense):,} of {parts.dense.choice.dimension} dimensions"
        )
        yield _spot_check(parts, encoder)


def _spot_check(parts: Parts, encoder: str | Encoder | None) -> Check:
    """Whether some stored vectors are what the encoder makes of the passages."""
    name, dense = "spot check of vectors", parts.dense
    assert dense is not None
    try:
        made = encoder_of(parts.folder, parts.manifest, encoder)
        rows = np.sort(rng(0, "verify").choice(len(parts.store), min(SPOT_CHECKS, len(parts.store)), replace=False))
        vectors = encoded(made, [parts.store[int(row)].contents for row in rows])
    except (ConfigError, MissingExtraError, RetrieverError) as error:
        # Without the encoder the files can still be whole; with another one they cannot be used.
        unknown = encoder is None and parts.manifest.encoder is not None and not parts.manifest.encoder.spec
        return Check(name, unknown or isinstance(error, MissingExtraError), f"not done: {error}")
    scores = [dense.scores(vector[None], [np.array([row])])[0][0] for vector, row in zip(vectors, rows, strict=True)]
    lowest = float(min(scores))
    return Check(name, lowest >= ALIKE, f"{len(rows)} made again, at least {lowest:.4f} alike")
