"""Encoders: what they promise of their vectors, whatever the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.retrieval_fakes import CORPUS, QUERIES
from toolenv import ConfigError, RetrieverError
from toolenv.retrieval.encoders import Encoder, MiniLMEncoder, TransformerEncoder
from toolenv.retrieval.encoders.transformer import Dtype


@pytest.fixture(scope="session")
def minilm() -> MiniLMEncoder:
    return MiniLMEncoder(device="cpu")


def test_minilm_vectors_are_units_and_queries_do_not_depend_on_the_batch(minilm: MiniLMEncoder) -> None:
    assert isinstance(minilm, Encoder)
    texts = ["gas", "", "a", "no", "x y", *[p.contents for p in CORPUS], *QUERIES]
    fresh = [MiniLMEncoder(device="cpu") for _ in range(2)]
    together = fresh[0].encode(texts, "query")
    assert (together.shape, together.dtype) == ((len(texts), 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
    alone = np.concatenate([fresh[1].encode([text], "query") for text in texts])
    np.testing.assert_array_equal(together, alone)
    assert minilm.encode([], "query").shape == minilm.encode([], "passage").shape == (0, 384)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 2e-7), ("bfloat16", 0.02)])
def test_passages_are_padded_and_stay_what_they_are(minilm: MiniLMEncoder, dtype: Dtype, most: float) -> None:
    texts = [p.contents for p in CORPUS] + QUERIES
    passages = MiniLMEncoder(device="cpu", dtype=dtype).encode(texts, "passage")
    np.testing.assert_allclose(passages, minilm.encode(texts, "query"), atol=most)
    np.testing.assert_allclose(np.linalg.norm(passages, axis=1), 1.0, atol=1e-6)


def test_minilm_agrees_with_its_published_pooling(minilm: MiniLMEncoder) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    reference = sentence_transformers.SentenceTransformer(minilm.source, device="cpu", local_files_only=True)
    np.testing.assert_allclose(minilm.encode(QUERIES), reference.encode(QUERIES), atol=1e-5)


def test_the_query_cache_is_bounded_and_changes_nothing(minilm: MiniLMEncoder) -> None:
    encoder = TransformerEncoder(minilm.source, device="cpu", cache_size=3)
    first = encoder.encode(QUERIES)
    assert [query in encoder._queries for query in QUERIES] == [False] * 4 + [True] * 3
    np.testing.assert_array_equal(first, encoder.encode(QUERIES))
    assert len(encoder._queries) == 3


def test_a_missing_model_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        TransformerEncoder(tmp_path)
    with pytest.raises(ConfigError, match="there is no model folder '/nowhere'"):
        TransformerEncoder("/nowhere")


def test_a_broken_model_is_a_retriever_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 8}')
    with pytest.raises(RetrieverError, match="cannot load the encoder"):
        TransformerEncoder(tmp_path).encode(["x"])
