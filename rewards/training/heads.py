"""From a causal language model to a classifier with one label, trained whole or through LoRA, and saved as a plain one.

What comes out is read by ``rewards.scoring.HFScorer``: for outcomes at the last token of a conversation, for turns at
the last token of each tool message.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

from rewards.engine import one_label_head
from rewards.scoring import CLASSES, Kind
from toolenv.errors import ConfigError
from toolenv.extras import require

WRITING = ("o_proj", "down_proj")
"""Through which attention and feed-forward part of a layer write into the residual stream, in Llama's names."""


def make_classifier(
    model: Any,
    kind: Kind,
    *,
    pad_token_id: int | None,
    layers: int | None = None,
    extra_layers: int = 0,
    seed: int = 0,
) -> Any:
    """A classifier with one label over the backbone of a causal language model.

    The backbone is handed over, not copied: use the causal model no more. The head is drawn.

    Args:
        model: A transformers causal language model.
        kind: ``"outcome"``: a model for sequence classification; ``"turns"``: for token classification.
        pad_token_id: Of the tokenizer; a sequence classifier finds the last token by it.
        layers: Keep the first so many layers alone; ``None``: all.
        extra_layers: Put so many new layers on top, which at first change nothing. The last layers of a language model
            say what it expects next; layers above them can compare that with what came.
        seed: Draws the head and the new layers.

    Returns:
        The classifier, in evaluation mode, with the weights' precision of the model.

    Raises:
        ConfigError: transformers has no such classifier for the model, it has fewer layers than asked for, layers of
            its kind cannot be added, or the tokenizer has no padding token.

    Example:
        >>> from transformers import Qwen2Config, Qwen2ForCausalLM
        >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
        >>> tiny = Qwen2ForCausalLM(Qwen2Config(vocab_size=9, num_hidden_layers=3, **size))
        >>> classifier = make_classifier(tiny, "outcome", pad_token_id=0, layers=2)
        >>> type(classifier).__name__, len(classifier.base_model.layers), tuple(classifier.score.weight.shape)
        ('Qwen2ForSequenceClassification', 2, (1, 8))
    """
    torch, transformers = require("torch", "train"), require("transformers", "train")
    if pad_token_id is None:
        raise ConfigError("the tokenizer has no pad token; set tokenizer.pad_token, for example to its eos_token")
    backbone = model.base_model
    if layers is not None:
        _keep_first(backbone, layers)
    draws = torch.Generator().manual_seed(seed)
    _add_on_top(backbone, extra_layers, draws)
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    config.get_text_config().pad_token_id = pad_token_id
    maker = getattr(transformers, f"AutoModel{CLASSES[kind]}")
    try:
        with torch.device("meta"):  # the weights are taken over, so none are made
            classifier = maker.from_config(config, dtype=model.dtype)
    except ValueError as error:
        raise ConfigError(f"transformers has no {CLASSES[kind]} of a {type(model).__name__}: {error}") from error
    setattr(classifier, classifier.base_model_prefix, backbone)
    for module in backbone.modules():
        # Layers ask their own reference for how to attend: one that stayed with the old would not hear of changes.
        if getattr(module, "config", None) is model.config:
            module.config = config
    head = one_label_head(classifier).to_empty(device=model.device)
    _draw(head, _spread(config), draws)
    return classifier.eval()


def add_lora(
    classifier: Any,
    rank: int,
    alpha: float | None = None,
    *,
    upper_layers: int | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Any:
    """Put LoRA beside the weights of a classifier: its matrices and the head are trained, the rest stays.

    Args:
        classifier: What ``make_classifier`` gave; it is changed in place.
        rank: Rank of the matrices.
        alpha: Their product is scaled by ``alpha / rank``; by default ``alpha`` is twice the rank.
        upper_layers: Only the last so many layers get matrices, and gradients stop below them; ``None``: all.
        dropout: Share of the inputs that the matrices do not see in training mode.
        seed: Draws the matrices.

    Returns:
        The classifier in PEFT's hands.

    Raises:
        ConfigError: A rank below 1, or more layers than there are.
        MissingExtraError: PEFT is not installed.
    """
    peft, torch = require("peft", "train"), require("torch", "train")
    if rank < 1:
        raise ConfigError(f"the rank of LoRA must be at least 1, not {rank!r}")
    kind = next(kind for kind, suffix in CLASSES.items() if type(classifier).__name__.endswith(suffix))
    settings = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=_linear_names(classifier, upper_layers),
        modules_to_save=[_head_name(classifier)],
        lora_dropout=dropout,
        task_type="SEQ_CLS" if kind == "outcome" else "TOKEN_CLS",
    )
    # PEFT would look there for the vocabulary at each checkpoint: it may be a .gguf file, or the hub without a network.
    classifier.name_or_path = ""
    devices = sorted({p.device.index or 0 for p in classifier.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for things by old names
        torch.manual_seed(seed)
        return peft.get_peft_model(classifier, settings)


def train_upper(classifier: Any, count: int) -> None:
    """Train the last so many layers, the norm above them and the head, whole; all below stays as it is.

    Raises:
        ConfigError: More layers than there are.

    Example:
        >>> from transformers import Qwen2Config, Qwen2ForCausalLM
        >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
        >>> tiny = Qwen2ForCausalLM(Qwen2Config(vocab_size=9, num_hidden_layers=3, **size))
        >>> classifier = make_classifier(tiny, "outcome", pad_token_id=0)
        >>> train_upper(classifier, 1)
        >>> sorted({".".join(n.split(".")[:3]) for n, p in classifier.named_parameters() if p.requires_grad})
        ['model.layers.2', 'model.norm.weight', 'score.weight']
    """
    backbone, head = parts_of(classifier)
    upper = _upper(backbone, count)
    classifier.requires_grad_(False)
    above = [module for name, module in backbone.named_children() if name.endswith("norm")]
    for module in (*upper, *above, head):
        module.requires_grad_(True)


def parts_of(classifier: Any) -> tuple[Any, Any]:
    """Backbone and head of a classifier with one label, also in PEFT's hands: what is called runs what is trained."""
    linear = require("torch", "train").nn.Linear
    plain = classifier.get_base_model() if hasattr(classifier, "get_base_model") else classifier
    # PEFT wraps the head that it trains, and keeps the one before.
    heads = [m for m in plain.children() if isinstance(getattr(m, "original_module", m), linear)]
    return plain.base_model, heads[-1]


def own_parameters(classifier: Any, extra_layers: int) -> set[int]:
    """``id`` of each trained weight that the causal model had: not of the head, nor of the layers put on top."""
    backbone, _ = parts_of(classifier)
    new = {id(p) for layer in _layers(backbone)[-extra_layers:] for p in layer.parameters()} if extra_layers else set()
    return {id(p) for p in backbone.parameters() if p.requires_grad and id(p) not in new}


def merged(classifier: Any) -> Any:
    """A plain classifier: where there is LoRA, with its matrices added into the weights, in place."""
    return classifier.merge_and_unload(safe_merge=True) if hasattr(classifier, "merge_and_unload") else classifier


def _layers(backbone: Any) -> Any:
    layers = getattr(backbone, "layers", None)
    if layers is None:
        raise ConfigError(f"{type(backbone).__name__} keeps its layers elsewhere than in .layers; take all of them")
    return layers


def _upper(backbone: Any, count: int) -> Any:
    """The last so many layers."""
    layers = _layers(backbone)
    if not 1 <= count <= len(layers):
        raise ConfigError(f"this model has 1 to {len(layers)} upper layers to train, not {count!r}")
    return layers[-count:]


def _keep_first(backbone: Any, count: int) -> None:
    """Drop the layers above the first ``count``."""
    layers = _layers(backbone)
    if not 1 <= count <= len(layers):
        raise ConfigError(f"the model has {len(layers)} layers; keep from 1 to all of them, not {count!r}")
    backbone.layers = layers[:count]
    config = backbone.config.get_text_config()
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:count]


def _add_on_top(backbone: Any, count: int, draws: Any) -> None:
    """Add layers of the last one's kind, with drawn weights, that write nothing into the residual stream yet."""
    if count < 0:
        raise ConfigError(f"extra_layers must be at least 0, not {count!r}")
    for _ in range(count):
        layers = _layers(backbone)
        new = copy.deepcopy(layers[-1])
        writing = [module for name, module in new.named_modules() if name.rpartition(".")[2] in WRITING]
        if len(writing) != len(WRITING):
            raise ConfigError(
                f"extra_layers needs layers that write through {' and '.join(WRITING)}; {type(new).__name__} does not"
            )
        for module in new.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = len(layers)
            if hasattr(module, "in_features"):
                _draw(module, 0.0 if module in writing else _spread(backbone.config), draws)
        layers.append(new)
        config = backbone.config.get_text_config()
        config.num_hidden_layers = len(layers)
        if getattr(config, "layer_types", None):
            config.layer_types = [*config.layer_types, config.layer_types[-1]]


def _draw(linear: Any, spread: float, draws: Any) -> None:
    """Draw the matrix of a linear module; its bias is zero."""
    torch = require("torch", "train")
    with torch.no_grad():
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=draws) * spread)
        if linear.bias is not None:
            linear.bias.zero_()


def _spread(config: Any) -> float:
    return float(getattr(config.get_text_config(), "initializer_range", 0.02))


def _linear_names(classifier: Any, upper_layers: int | None) -> list[str]:
    """The linear modules of the layers, of the last so many where that is asked for."""
    torch = require("torch", "train")
    parts = [classifier.base_model]
    if upper_layers is not None:
        parts = list(_upper(classifier.base_model, upper_layers))
    meant = {id(m) for part in parts for m in part.modules() if isinstance(m, torch.nn.Linear)}
    if not meant:
        raise ConfigError(f"{type(classifier).__name__} has no linear layers that LoRA could stand beside")
    return [name for name, module in classifier.named_modules() if id(module) in meant]


def _head_name(classifier: Any) -> str:
    head = one_label_head(classifier)
    found: str = next(name for name, module in classifier.named_children() if module is head)
    return found
