"""A model's files: a folder as it is, a name on a model hub brought into the hub's cache."""

from __future__ import annotations

import re
from pathlib import Path

from toolenv.errors import ConfigError, RetrieverError
from toolenv.extras import require

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_FILES = ["*.json", "*.txt", "*.model", "model*.safetensors"]
_OTHER_FORMATS = ["onnx/*", "openvino/*"]


def is_hub_name(name: str) -> bool:
    """Whether it is written as hubs write them, ``owner/name``.

    Example:
        >>> is_hub_name("intfloat/e5-base-v2"), is_hub_name("minilm"), is_hub_name("/models/e5")
        (True, False, False)
    """
    return _HUB_NAME.fullmatch(name) is not None


def model_folder(name_or_path: str | Path) -> Path:
    """The folder that holds a model's files; without network, what the hub's cache holds is found at once.

    Args:
        name_or_path: A folder; or ``owner/name`` on the model hub.

    Raises:
        ConfigError: There is no such folder, and no such name on the hub.
        RetrieverError: The hub cannot be reached, and its cache does not hold the model.
        MissingExtraError: huggingface_hub is not installed.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    name = str(name_or_path)
    if not is_hub_name(name):
        raise ConfigError(f"there is no model folder {name!r}; give a folder, or owner/name on the model hub")
    hub, errors = require("huggingface_hub", "search"), require("huggingface_hub.errors", "search")
    try:
        found = Path(hub.snapshot_download(name, allow_patterns=_FILES, ignore_patterns=_OTHER_FORMATS))
        if not any(found.glob("**/*.safetensors")):
            found = Path(hub.snapshot_download(name, allow_patterns=[*_FILES, "pytorch_model*.bin"]))
        return found
    except errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"there is no folder {name!r} here and no model of this name on the hub (or it wants a token: HF_TOKEN)"
        ) from error
    except (OSError, ValueError) as error:
        raise RetrieverError(
            f"there is no folder {name!r} here, the hub's cache does not hold it, and the hub cannot be asked: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def model_files(folder: Path) -> list[Path]:
    """The files that make a model of transformers what it is: weights, tokenizer, shape."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    words = [folder / "tokenizer.json"]
    if not words[0].is_file():
        words = [*folder.glob("vocab*"), *folder.glob("*.model"), *folder.glob("merges.txt")]
    return [*weights, *words, folder / "config.json"]


def model_label(name: str, folder: Path) -> str:
    """A model's own name, wherever it lies; the hub's cache keeps it two folders up.

    Example:
        >>> model_label("/models/e5-base-v2", Path("/models/e5-base-v2"))
        'e5-base-v2'
    """
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.rpartition("--")[2]
    return Path(name).expanduser().resolve().name
