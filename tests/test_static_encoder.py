"""Static embeddings: sums by hand, wordllama's own numbers, any text."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.retrieval_fakes import CORPUS, QUERIES
from toolenv import DataError, RetrieverError
from toolenv.data.assets import fetched
from toolenv.retrieval.encoders import Encoder, StaticEncoder, TransformerEncoder, make_encoder

HARD = ["", " ", "a" * 1_000_000, "\x00", "\ud800\udfff", "".join(map(chr, range(32))), "😀" * 10_000, "\u200b", "é"]
VECTORS = np.array([[9, 9], [3, 0], [0, 4], [1, 1]], np.float32)  # of [UNK], red, blue, gas


def write_model(folder: Path, tensors: Mapping[str, NDArray[Any]]) -> Path:
    tokenizers = pytest.importorskip("tokenizers")
    numpy_files = pytest.importorskip("safetensors.numpy")
    folder.mkdir()
    words = {"[UNK]": 0, "red": 1, "blue": 2, "gas": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=7)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": False}))
    numpy_files.save_file(dict(tensors), folder / "model.safetensors")
    return folder


def test_means_by_hand(tmp_path: Path) -> None:
    encoder = make_encoder(write_model(tmp_path / "m", {"embeddings": VECTORS}))
    assert isinstance(encoder, StaticEncoder)
    assert isinstance(encoder, Encoder)
    assert encoder.dimension == 2
    level = 0.5**0.5
    np.testing.assert_allclose(
        encoder.encode(["red", "red blue", "unknown red", "unknown", "", "red red red blue blue blue blue"]),
        [[1, 0], [0.6, 0.8], [1, 0], [level, level], [level, level], np.array([9, 16]) / np.hypot(9, 16)],
        atol=1e-6,
    )
    assert encoder.encode([], "passage").shape == (0, 2)
    many = encoder.encode(["red", "blue", "gas"] * 500, "passage")
    np.testing.assert_array_equal(many, np.tile(encoder.encode(["red", "blue", "gas"]), (500, 1)))


def test_weights_and_shared_vectors_by_hand(tmp_path: Path) -> None:
    tensors = {
        "embeddings": VECTORS[1:3].astype(np.float16),
        "mapping": np.array([0, 0, 1, 1]),
        "weights": np.array([0.0, 2.0, 0.5, 1.0]),
    }
    encoder = StaticEncoder(write_model(tmp_path / "m", tensors))
    # red is 2 * (3, 0), blue 0.5 * (0, 4), gas 1 * (0, 4).
    np.testing.assert_allclose(
        encoder.encode(["red blue", "gas"]), [np.array([6, 2]) / np.hypot(6, 2), [0, 1]], atol=1e-6
    )


def test_it_goes_to_another_process_without_its_vectors(tmp_path: Path) -> None:
    encoder = StaticEncoder(write_model(tmp_path / "m", {"embeddings": VECTORS}))
    wanted = encoder.encode(["red gas"])
    sent = pickle.dumps(encoder)
    again = pickle.loads(sent)
    assert len(sent) < 1_000
    assert (again.spec, again.name) == (encoder.spec, encoder.name)
    assert (again.encode(["red gas"]) == wanted).all()


def test_names_follow_the_files(tmp_path: Path) -> None:
    first = StaticEncoder(write_model(tmp_path / "m", {"embeddings": VECTORS}))
    second = StaticEncoder(write_model(tmp_path / "n", {"embeddings": VECTORS * 2}))
    assert first.name.partition("-")[0] == "m"
    assert first.name.partition("-")[2] != second.name.partition("-")[2]
    assert make_encoder(first.spec).name == first.name


@pytest.mark.parametrize("damage", ["weights", "words", "table", "too few"])
def test_broken_files_are_a_retriever_error(tmp_path: Path, damage: str) -> None:
    tensors = {"table": {"other": VECTORS}, "too few": {"embeddings": VECTORS[:3]}}.get(damage, {"embeddings": VECTORS})
    folder = write_model(tmp_path / "m", tensors)
    if damage == "weights":
        (folder / "model.safetensors").write_bytes(b"cut")
    if damage == "words":
        (folder / "tokenizer.json").write_text("{cut")
    with pytest.raises(RetrieverError, match=r"cannot read|holds no table|has 4 tokens"):
        StaticEncoder(folder).encode(["red"])
    if damage == "weights":
        with pytest.raises(RetrieverError, match="cannot read"):
            make_encoder(folder)
    if damage == "table":
        assert isinstance(make_encoder(folder), TransformerEncoder)


def test_wordllama_must_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TOOLENV_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="run: toolenv fetch wordllama"):
        make_encoder("wordllama")


# The real one, where it was fetched -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wordllama() -> StaticEncoder:
    try:
        fetched("wordllama")
    except DataError:
        pytest.skip("wordllama was not fetched")
    return StaticEncoder.wordllama()


def test_wordllama_vectors(wordllama: StaticEncoder) -> None:
    texts = [p.contents for p in CORPUS] + QUERIES + HARD
    together = wordllama.encode(texts, "passage")
    assert together.shape == (len(texts), 256)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(together, np.concatenate([wordllama.encode([text]) for text in texts]))
    # As the package's own embed(["the red planet"], norm=True) gives them.
    want = [-0.004298804, -0.015644776, 0.038429409, 0.020356450]
    np.testing.assert_allclose(wordllama.encode(["the red planet"])[0, :4], want, atol=1e-6)


def test_wordllama_finds_meaning(wordllama: StaticEncoder) -> None:
    passages = wordllama.encode([p.contents for p in CORPUS], "passage")
    scores = wordllama.encode(["coins and money", "noble gases that glow"]) @ passages.T
    assert [CORPUS[row].title for row in scores.argmax(axis=1)] == ["Zloty", "Neon"]
