"""What a sentence encoder's folder says of how it wants to be used; and what is known where the folder is silent."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolenv.errors import ConfigError

POOLINGS = ("mean", "cls")
MAX_TOKENS = 256
_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a sentence encoder makes a vector of a text.

    Attributes:
        pooling: ``"mean"`` of the tokens' vectors, or that of the first token, ``"cls"``.
        query_prefix: Put before queries.
        passage_prefix: Put before passages.
        max_tokens: Longest text; the rest is cut off.
    """

    pooling: str
    query_prefix: str
    passage_prefix: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class _Family:
    """What a family of models was trained with, and often leaves unsaid in its folder."""

    name: re.Pattern[str]
    pooling: str
    query_prefix: str = ""
    passage_prefix: str = ""


# As the model cards have them. Instruction-tuned E5 wants another prompt for each task, so it is none of these.
_FAMILIES = (
    _Family(re.compile(r"(?<![a-z0-9])e5-(small|base|large)(?!.*instruct)", re.I), "mean", "query: ", "passage: "),
    _Family(
        re.compile(r"(?<![a-z0-9])bge-(small|base|large)-en", re.I),
        "cls",
        "Represent this sentence for searching relevant passages: ",
    ),
)
_NO_FAMILY = _Family(re.compile(""), "mean")


def read_settings(
    folder: Path,
    name: str,
    *,
    pooling: str | None = None,
    query_prefix: str | None = None,
    passage_prefix: str | None = None,
    max_tokens: int | None = None,
) -> ModelSettings:
    """Settings of a model: those given here, else what its folder says, else what is known of a model of this name.

    Read are sentence-transformers' ``modules.json``, ``1_Pooling/config.json``, ``sentence_bert_config.json`` and the
    prompts in ``config_sentence_transformers.json``.

    Args:
        folder: The model's files.
        name: Its name, of which the family is read: E5, or BGE for English.
        pooling: ``"mean"`` or ``"cls"``.
        query_prefix: Put before queries.
        passage_prefix: Put before passages.
        max_tokens: Longest text.

    Raises:
        ConfigError: A setting or a file that cannot be used.
    """
    known = _known(name)
    _check_modules(folder)
    prompts = _read(folder / "config_sentence_transformers.json").get("prompts") or {}
    stored_max = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    settings = ModelSettings(
        pooling=pooling or _stored_pooling(folder) or known.pooling,
        query_prefix=_first(query_prefix, prompts.get("query"), known.query_prefix),
        passage_prefix=_first(passage_prefix, prompts.get("passage") or prompts.get("document"), known.passage_prefix),
        max_tokens=max_tokens if max_tokens is not None else stored_max or MAX_TOKENS,
    )
    if settings.pooling not in POOLINGS:
        raise ConfigError(f"{folder} pools by {settings.pooling!r}; choose one of {', '.join(POOLINGS)}")
    if not isinstance(settings.max_tokens, int) or settings.max_tokens < 8:
        raise ConfigError(f"max_tokens must be a whole number of at least 8, not {settings.max_tokens!r}")
    return settings


def known_prefixes(name: str) -> tuple[str, str]:
    """What goes before queries and before passages, for a model of this name; ``""`` where nothing is known.

    Example:
        >>> known_prefixes("intfloat/e5-base-v2")
        ('query: ', 'passage: ')
    """
    known = _known(name)
    return known.query_prefix, known.passage_prefix


def _known(name: str) -> _Family:
    return next((family for family in _FAMILIES if family.name.search(name)), _NO_FAMILY)


def _first(given: str | None, stored: str | None, known: str | None) -> str:
    """An empty stored prompt says nothing: sentence-transformers writes one for every model."""
    return given if given is not None else stored or known or ""


def _stored_pooling(folder: Path) -> str | None:
    stored = _read(folder / "1_Pooling" / "config.json")
    if not stored:
        return None
    if stored.get("include_prompt") is False:
        raise ConfigError(f"{folder} leaves prompts out of its pooling, which this encoder cannot")
    if "pooling_mode" in stored:
        return str(stored["pooling_mode"])
    names = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    modes = [names.get(key, key) for key, value in stored.items() if key.startswith("pooling_mode_") and value is True]
    return " + ".join(modes) or None


def _check_modules(folder: Path) -> None:
    """Refuse a model with a further layer: without it, its vectors would be wrong and look right."""
    modules = _read(folder / "modules.json", kind=list)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules if isinstance(module, dict)]
    if further := sorted(set(kinds) - set(_MODULES)):
        raise ConfigError(
            f"{folder} has layers that this encoder does not know: {', '.join(further)}; it knows "
            f"{', '.join(_MODULES)}. Serve it behind /embeddings and give that address"
        )


def _read(path: Path, kind: type = dict) -> Any:
    """A JSON file; empty where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if not isinstance(content, kind):
        raise ConfigError(f"{path} must hold a JSON {'object' if kind is dict else 'array'}")
    return content
