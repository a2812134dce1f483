"""Encoders: what they promise of their vectors, whatever the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.retrieval_fakes import CORPUS, QUERIES
from toolenv import RetrieverError
from toolenv.retrieval.encoders import Encoder, MiniLMEncoder, TransformerEncoder


@pytest.fixture(scope="session")
def minilm() -> MiniLMEncoder:
    return MiniLMEncoder(device="cpu")


def test_minilm_vectors_are_units_and_do_not_depend_on_the_batch(minilm: MiniLMEncoder) -> None:
    assert isinstance(minilm, Encoder)
    texts = [p.contents for p in CORPUS] + QUERIES
    together = minilm.encode(texts, "passage")
    assert together.shape == (len(texts), 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
    alone = np.concatenate([minilm.encode([text], "passage") for text in texts])
    np.testing.assert_allclose(together, alone, atol=2e-7)
    assert minilm.encode([], "query").shape == (0, 384)


def test_minilm_agrees_with_its_published_pooling(minilm: MiniLMEncoder) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    reference = sentence_transformers.SentenceTransformer(minilm.source, device="cpu", local_files_only=True)
    np.testing.assert_allclose(minilm.encode(QUERIES), reference.encode(QUERIES), atol=1e-5)


def test_the_query_cache_is_bounded_and_changes_nothing(minilm: MiniLMEncoder) -> None:
    encoder = TransformerEncoder(minilm.source, device="cpu", cache_size=3)
    first = encoder.encode(QUERIES)
    assert list(encoder._cache) == QUERIES[-3:]
    np.testing.assert_array_equal(first, encoder.encode(QUERIES))
    assert len(encoder._cache) == 3


def test_a_missing_model_is_a_retriever_error(tmp_path: Path) -> None:
    with pytest.raises(RetrieverError, match="cannot load the encoder"):
        TransformerEncoder(tmp_path).encode(["x"])
