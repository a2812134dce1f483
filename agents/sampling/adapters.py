"""LoRA adapters for vLLM: a new name for each version, since vLLM caches prefixes under an adapter's name.

Only the adapter travels, some megabytes, and vLLM keeps the base model that it was started with. Actions that are on
their way when a new version comes are finished with the one that they began with.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.sampling.transfer import is_sender, shared_memory
from agents.sharding import full
from toolenv.errors import ConfigError
from toolenv.quiet import without_transformers_bars


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version of an adapter.

    Attributes:
        name: What vLLM knows it as.
        number: A number of its own, from 1.
        folder: Where it lies, as PEFT writes it.
        version: Version of its weights.
    """

    name: str
    number: int
    folder: Path
    version: int


class AdapterShelf:
    """Writes versions of an adapter, and says which have become too old.

    Args:
        name: What their names begin with.
        max_staleness: How many versions before the last one are kept; vLLM must have room for ``max_staleness + 2``
            adapters at once.
        directory: Where they go, on the machine that vLLM runs on; ``None``: as for ``FileTransfer``.

    Attributes:
        held: The versions that are kept, the oldest first.

    Raises:
        ConfigError: ``max_staleness`` below 0.
    """

    def __init__(self, name: str, max_staleness: int, directory: Path | None = None) -> None:
        if max_staleness < 0:
            raise ConfigError(f"max_staleness must be at least 0, not {max_staleness!r}")
        self.name = name
        self.max_staleness = max_staleness
        self.held: list[Adapter] = []
        self._written = 0
        self._folder = tempfile.TemporaryDirectory(prefix="toolenv-lora-", dir=directory or shared_memory())

    def add(self, model: Any, version: int) -> Adapter:
        """Write the adapter of a PEFT model as a version of its own.

        Raises:
            ConfigError: A model without an adapter.
        """
        if not hasattr(model, "peft_config"):
            raise ConfigError(f"the sampler takes adapters, and {type(model).__name__} has none; wrap it by PEFT first")
        self._written += 1
        # A version may come twice, after a resume say; a name and a number must not.
        name = f"{self.name}-v{version}" + ("" if self._fresh(version) else f"-{self._written}")
        adapter = Adapter(name, self._written, Path(self._folder.name) / name, version)
        weights = {name: full(weight) for name, weight in model.state_dict().items() if "lora_" in name}
        with without_transformers_bars():
            model.save_pretrained(
                adapter.folder, state_dict=weights, save_embedding_layers=False, is_main_process=is_sender()
            )
        self.held.append(adapter)
        return adapter

    def drop_old(self) -> list[Adapter]:
        """Take the versions off the shelf that are too old; their folders are gone already."""
        old, self.held = self.held[: -self.max_staleness - 1], self.held[-self.max_staleness - 1 :]
        for adapter in old:
            shutil.rmtree(adapter.folder, ignore_errors=not is_sender())  # the sender alone has written it
        return old

    def close(self) -> None:
        """Delete all."""
        self._folder.cleanup()

    def _fresh(self, version: int) -> bool:
        return all(adapter.version != version for adapter in self.held)
