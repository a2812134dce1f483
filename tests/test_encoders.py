"""Encoders of transformers: what they promise of their vectors, and what a model's folder says."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.retrieval_fakes import CORPUS, QUERIES
from toolenv import ConfigError, RetrieverError
from toolenv.retrieval.encoders import Encoder, MiniLMEncoder, ServerEncoder, TransformerEncoder, make_encoder
from toolenv.retrieval.encoders.model_settings import ModelSettings, read_settings
from toolenv.retrieval.encoders.transformer import Dtype, has_fast_bfloat16

HARD = ["", " ", "a" * 1_000_000, "\x00", "\ud800\udfff", "".join(map(chr, range(32))), "😀" * 10_000, "\u200b", "é"]
"""Texts that break tokenizers."""


@pytest.fixture(scope="session")
def minilm() -> MiniLMEncoder:
    return MiniLMEncoder(device="cpu")


def test_minilm_vectors_are_units_and_queries_do_not_depend_on_the_batch(minilm: MiniLMEncoder) -> None:
    assert isinstance(minilm, Encoder)
    texts = ["gas", "", "a", "no", "x y", *[p.contents for p in CORPUS], *QUERIES]
    fresh = [MiniLMEncoder(device="cpu") for _ in range(2)]
    together = fresh[0].encode(texts, "query")
    assert together.shape == (len(texts), 384)
    assert together.dtype == np.float32
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


def test_any_text_has_a_unit_vector(minilm: MiniLMEncoder) -> None:
    for kind in ("query", "passage"):
        vectors = minilm.encode(HARD, kind)
        assert np.isfinite(vectors).all()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


# What a folder says ------------------------------------------------------------------------------------------------


def model(folder: Path, **files: Any) -> Path:
    """A copy of MiniLM whose settings are these; its weights are links."""
    folder.mkdir(parents=True)
    source = Path(MiniLMEncoder().source)
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(source / name)
    shutil.copy(source / "config.json", folder)
    for name, content in files.items():
        path = folder / {"pooling": "1_Pooling/config.json", "prompts": "config_sentence_transformers.json"}.get(
            name, f"{name}.json"
        )
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return folder


CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
BGE_QUERY = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("name", "files", "want"),
    [
        ("plain", {}, ("mean", "", "", 256)),
        ("e5-base-v2", {}, ("mean", "query: ", "passage: ", 256)),
        ("multilingual-e5-small", {}, ("mean", "query: ", "passage: ", 256)),
        ("multilingual-e5-large-instruct", {}, ("mean", "", "", 256)),
        ("some5-base", {}, ("mean", "", "", 256)),
        ("BGE-small-en-v1.5", {}, ("cls", BGE_QUERY, "", 256)),
        ("bge-m3", {"pooling": CLS}, ("cls", "", "", 256)),
        ("gte-base", {}, ("mean", "", "", 256)),
        ("new", {"pooling": {"pooling_mode": "cls"}}, ("cls", "", "", 256)),
        ("long", {"sentence_bert_config": {"max_seq_length": 512}}, ("mean", "", "", 512)),
        ("a", {"prompts": {"prompts": {"query": "Q: ", "document": "D: "}}}, ("mean", "Q: ", "D: ", 256)),
        ("a", {"prompts": {"prompts": {"query": "Q: ", "passage": "P: "}}}, ("mean", "Q: ", "P: ", 256)),
        ("e5-small", {"prompts": {"prompts": {"query": "", "document": ""}}}, ("mean", "query: ", "passage: ", 256)),
    ],
)
def test_settings_of_a_folder(tmp_path: Path, name: str, files: Any, want: tuple[str, str, str, int]) -> None:
    folder = model(tmp_path / name, **files)
    assert read_settings(folder, name) == TransformerEncoder(folder).settings == ModelSettings(*want)
    given = {"pooling": "cls", "query_prefix": "", "passage_prefix": "x", "max_tokens": 9}
    assert read_settings(folder, name, **given) == ModelSettings("cls", "", "x", 9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pooling": {"pooling_mode_max_tokens": True}}, "pools by 'pooling_mode_max_tokens'; choose one of mean, cls"),
        ({"pooling": {**CLS, "pooling_mode_mean_tokens": True}}, r"pools by 'cls \+ mean'"),
        ({"pooling": {**CLS, "include_prompt": False}}, "leaves prompts out"),
        ({"pooling": [1]}, "must hold a JSON object"),
        ({"modules": [{"type": "a.Transformer"}, {"type": "a.Pooling"}, {"type": "a.Dense"}]}, "not know: Dense"),
        ({"sentence_bert_config": {"max_seq_length": 2}}, "max_tokens must be"),
    ],
)
def test_what_a_folder_asks_and_the_encoder_cannot_is_refused(tmp_path: Path, files: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransformerEncoder(model(tmp_path / "m", **files))
    (tmp_path / "m" / "1_Pooling").mkdir(exist_ok=True)
    (tmp_path / "m" / "1_Pooling" / "config.json").write_text("{cut")
    with pytest.raises(ConfigError, match=f"{message}|cannot read"):
        TransformerEncoder(tmp_path / "m")


def test_the_first_token_and_prefixes_are_used(tmp_path: Path, minilm: MiniLMEncoder) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = model(
        tmp_path / "e5-base",
        modules=[{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                 {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}],
        pooling={"word_embedding_dimension": 384, **CLS},
    )  # fmt: skip
    encoder = TransformerEncoder(folder, device="cpu", dtype="float32")
    reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    for kind, prefix in (("query", "query: "), ("passage", "passage: ")):
        want = reference.encode([prefix + query for query in QUERIES], normalize_embeddings=True)
        np.testing.assert_allclose(encoder.encode(QUERIES, kind), want, atol=1e-5)  # type: ignore[arg-type]


# Names -------------------------------------------------------------------------------------------------------------


def test_a_name_says_all_that_changes_vectors_and_not_where_the_model_lies(tmp_path: Path) -> None:
    first = TransformerEncoder(model(tmp_path / "a" / "m")).name
    assert first.startswith("m-")
    assert TransformerEncoder(model(tmp_path / "b" / "m"), device="cpu", dtype="float32").name == first
    others = [
        TransformerEncoder(tmp_path / "a" / "m", query_prefix="q: ").name,
        TransformerEncoder(tmp_path / "a" / "m", passage_prefix="q: ").name,
        TransformerEncoder(tmp_path / "a" / "m", pooling="cls").name,
        TransformerEncoder(tmp_path / "a" / "m", max_tokens=128).name,
    ]
    changed = tmp_path / "a" / "m" / "tokenizer.json"
    text = changed.read_text()
    changed.unlink()
    changed.write_text(text.replace("[unused7]", "[unused8]"))
    others.append(TransformerEncoder(tmp_path / "a" / "m").name)
    assert len({first, *others}) == 6
    in_hub_cache = model(tmp_path / "models--intfloat--e5-base-v2" / "snapshots" / "0123abc")
    assert TransformerEncoder(in_hub_cache).name.startswith("e5-base-v2-")
    assert TransformerEncoder(in_hub_cache).settings.query_prefix == "query: "


def test_specs_make_the_encoder_again(tmp_path: Path, minilm: MiniLMEncoder) -> None:
    folder = model(tmp_path / "m")
    for encoder in (minilm, TransformerEncoder(folder), ServerEncoder("http://localhost:1/v1", "m")):
        again = make_encoder(encoder.spec)
        assert (type(again), again.name, again.spec) == (type(encoder), encoder.name, encoder.spec)
    assert make_encoder(folder).name == TransformerEncoder(folder).name
    assert TransformerEncoder(folder, max_tokens=9).spec == ""  # a folder alone would not make it again
    assert make_encoder(minilm) is minilm


def test_an_encoder_goes_to_another_process_without_its_weights(minilm: MiniLMEncoder, tmp_path: Path) -> None:
    encoder = TransformerEncoder(model(tmp_path / "m"), query_prefix="q: ", device="cpu")
    want = encoder.encode(["a"])
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 10_000
    again = pickle.loads(pickled)
    assert again.name == encoder.name
    np.testing.assert_array_equal(again.encode(["a"]), want)


def test_what_is_no_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'unknown encoder .minlm.; choose "minilm", "wordllama", a folder'):
        make_encoder("minlm")
    with pytest.raises(ConfigError, match="unknown dtype 'float16'; choose one of auto, float32, bfloat16"):
        MiniLMEncoder(dtype="float16")  # type: ignore[arg-type]
    assert has_fast_bfloat16("mps") is False


def test_a_hub_that_cannot_be_asked_is_said_at_once(tmp_path: Path) -> None:
    program = "from toolenv.retrieval.encoders import make_encoder; make_encoder('nobody/nothing')"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("toolenv.errors.RetrieverError: there is no folder 'nobody/nothing' here, the hub's cache")


def test_a_name_that_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def download(name: str, **_: Any) -> str:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ConfigError, match="no folder 'nobody/nothing' here and no model of this name on the hub"):
        make_encoder("nobody/nothing")
