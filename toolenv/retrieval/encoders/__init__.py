"""Encoders: texts to unit vectors."""

from __future__ import annotations

from pathlib import Path

from toolenv.errors import ConfigError
from toolenv.retrieval.encoders.base import Encoder, Kind
from toolenv.retrieval.encoders.hub import is_hub_name, model_folder
from toolenv.retrieval.encoders.server import ServerEncoder
from toolenv.retrieval.encoders.static import StaticEncoder, is_static
from toolenv.retrieval.encoders.transformer import MiniLMEncoder, TransformerEncoder

__all__ = ["Encoder", "Kind", "MiniLMEncoder", "ServerEncoder", "StaticEncoder", "TransformerEncoder", "make_encoder"]


def make_encoder(spec: str | Path | Encoder, *, device: str | None = None) -> Encoder:
    """The encoder that this names; or the encoder itself.

    - ``"minilm"``: all-MiniLM-L6-v2, 384 dimensions, from a package.
    - ``"wordllama"``: static embeddings, 256 dimensions, 50 times as fast on a CPU, after ``toolenv fetch wordllama``.
    - A folder of a model of transformers or model2vec, or a name on the model hub, such as ``"intfloat/e5-base-v2"``.
    - ``"http://HOST/v1#MODEL"``: a server with OpenAI's ``/embeddings``.

    Args:
        spec: The name, folder or address; or an ``Encoder``.
        device: Torch device, where the encoder runs on one; ``None``: a GPU where there is one.

    Raises:
        ConfigError: Nothing has this name.
        DataError: ``"wordllama"`` was not fetched.
        RetrieverError: The model hub cannot be asked for the name.
        MissingExtraError: What the encoder needs is not installed.

    Example:
        >>> make_encoder("minilm").dimension
        384
    """
    if not isinstance(spec, str | Path):
        return spec
    name = str(spec)
    if name == "minilm":
        return MiniLMEncoder(device)
    if name == "wordllama":
        return StaticEncoder.wordllama()
    if name.startswith(("http://", "https://")):
        return ServerEncoder.at(name)
    if not Path(name).expanduser().is_dir() and not is_hub_name(name):
        raise ConfigError(
            f'unknown encoder {name!r}; choose "minilm", "wordllama", a folder of a model, its owner/name on the '
            'model hub, or "http://HOST/v1#MODEL" for a server'
        )
    folder = model_folder(name)
    return StaticEncoder(name) if is_static(folder) else TransformerEncoder(name, device=device)
