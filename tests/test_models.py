from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from agents_fixtures import make_model, make_tokenizer

from agents import models, nano
from agents.models import load_model, played_as
from toolenv import ConfigError

HIDDEN, FORWARD, HEADS = 32, 64, 2


def write_tiny_gguf(path: Path) -> None:
    """A llama of one layer with drawn weights and the fixtures' tokenizer."""
    tokenizer = make_tokenizer()
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_eos_token_id(vocabulary["<|im_end|>"])
    writer.add_bos_token_id(vocabulary["<|im_start|>"])
    writer.add_pad_token_id(vocabulary["<|endoftext|>"])
    writer.add_chat_template(tokenizer.chat_template)
    generator = np.random.default_rng(0)
    matrices = {f"attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")}
    matrices |= {"ffn_gate": (FORWARD, HIDDEN), "ffn_up": (FORWARD, HIDDEN), "ffn_down": (HIDDEN, FORWARD)}
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    shapes |= {"blk.0.attn_norm": (HIDDEN,), "blk.0.ffn_norm": (HIDDEN,)}
    shapes |= {f"blk.0.{name}": shape for name, shape in matrices.items()}
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else generator.normal(0.0, 0.1, shape)
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_model_trains_and_comes_back_from_a_saved_folder(tmp_path: Path) -> None:
    write_tiny_gguf(tmp_path / "tiny.gguf")
    model, tokenizer = load_model(tmp_path, device="cpu", precision="float32")
    assert not model.training
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template == make_tokenizer().chat_template
    ids = tokenizer("What is the capital of France?", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [make_tokenizer()("What is the capital of France?")["input_ids"]]
    model(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, _ = load_model(tmp_path / "saved", device="cpu", precision="float32")
    with torch.no_grad():
        assert torch.equal(model(ids).logits, again(ids).logits)


def test_a_folder_in_transformers_layout_loads_in_the_precision_asked_for(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = load_model(str(tmp_path), device="cpu", precision="bfloat16")
    assert model.dtype == torch.bfloat16
    assert len(tokenizer) == len(make_tokenizer())


def test_nano_without_its_weights_says_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano, "ASSETS", tmp_path)
    with pytest.raises(ConfigError, match=r"python -m agents\.nano"):
        load_model("nano")


def test_a_folder_is_never_completed_from_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    for auto in (transformers.PreTrainedTokenizerFast, transformers.AutoModelForCausalLM):
        real = auto.from_pretrained

        def seen(source: object, real: Any = real, **options: Any) -> Any:
            asked.append(options.get("local_files_only"))
            return real(source, **options)

        monkeypatch.setattr(auto, "from_pretrained", seen)
    make_model().save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    load_model(tmp_path, device="cpu")
    assert asked == [True, True]


def test_the_nano_policy_is_known_by_its_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model().save_pretrained(tmp_path / "here")
    assert played_as(tmp_path / "here") is None
    monkeypatch.setattr(nano, "ASSETS", tmp_path / "here")
    assert played_as(str(tmp_path / "here")) == "nano"
    assert played_as("some/hub-name") is None


def test_what_is_no_model_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model at"):
        load_model(tmp_path / "missing.gguf")
    with pytest.raises(ConfigError, match=r"no config\.json and 0 \.gguf files"):
        load_model(tmp_path)
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ConfigError, match=r"2 \.gguf files"):
        load_model(tmp_path)
    (tmp_path / "weights.bin").touch()
    with pytest.raises(ConfigError, match="no model at"):
        load_model(tmp_path / "weights.bin")


def test_a_plain_tokenizer_beside_a_qwen_model_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    model, tokenizer = load_model("nano", device="cpu")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_model(tmp_path, device="cpu")[1]
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    # A combining accent and a ligature: a normaliser would change them.
    text = "cafe\u0301 \ufb01ve 12 <search> x </search>\n\n\x00"
    for loaded in (tokenizer, again):
        assert loaded.decode(loaded(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smollm", "did you mean 'smollm2-135m'? toolenv fetch smollm2-135m fetches it"),
        ("nanno", "did you mean 'nano'?"),
        ("no/folder", "the hub has none"),
    ],
)
def test_a_name_that_no_model_answers_to_says_what_was_tried(
    name: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(source: object) -> Any:
        raise OSError("the hub has none\nand much more")

    monkeypatch.setattr(models, "load_tokenizer", unknown)
    with pytest.raises(ConfigError) as caught:
        load_model(name, device="cpu")
    said = str(caught.value)
    assert f"there is no model {name!r}: it is no folder, no .gguf file, not 'nano'" in said
    assert said.endswith(hint)
    assert "much more" not in said


def test_a_folder_that_is_broken_is_no_unknown_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(Exception, match="JSON") as caught:
        load_model(tmp_path, device="cpu")
    assert "model hub" not in str(caught.value)


def test_a_device_that_is_not_here_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch has no CUDA here, so there is no device 'cuda:0'; take 'cpu'"):
        load_model("no-such-model", device="cuda:0")
    with pytest.raises(
        ConfigError, match="device must be 'auto' or as torch names it: 'cpu', 'cuda', 'cuda:1'; got 'gpu'"
    ):
        load_model("no-such-model", device="gpu")
