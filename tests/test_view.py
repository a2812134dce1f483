"""The page of ``toolenv view``: its data are those of the runs, and in a browser it does what its keys say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from chromium import Browser, find_browser

from agents.behaviour import failed
from agents.cli import main
from agents.records import ScoredEpisode, write_scored_episodes
from agents.viewer import files, runs, write_view
from agents.viewer.compare import differing, series
from agents.viewer.files import as_script
from agents.viewer.serve import make_server
from toolenv import Episode, Message, Task, ToolCall, ToolResult, Turn
from toolenv.episode import write_episodes
from toolenv.errors import ConfigError, DataError

HOSTILE = (
    "<img src=x onerror=window.hurt=1></script><script>window.hurt=2</script><!-- \u2028\u2029\x00\ud800\u202e"
    "]]>\"'&lt;${window.hurt=3}`<svg onload=window.hurt=4><a href=javascript:window.hurt=5>"
)
GROUP = 4
PER_UPDATE = 20


def episode(number: int = 0, text: str = "", calls: int | None = None, error: str | None = None) -> Episode:
    """Some calls, then an answer."""
    calls = number % 4 if calls is None else calls
    call = ToolCall("search", {"query": "Lyon" + text})
    result = ToolResult(call, "On the Rhone." + text, error)
    said = (Message("tool", "<information>On the Rhone." + text + "</information>"),)
    asked = [Turn(i, f"<search>Lyon{text}</search>", (call,), (result,), observation=said) for i in range(calls)]
    answer = Turn(calls, f"<answer>Rhone{text}</answer>", answer="Rhone" + text)
    task = Task(f"t{number // GROUP}{text}", f"On which river is town {number // GROUP}?{text}", ("Rhone" + text,))
    prompt = (Message("user", task.prompt),)
    return Episode("Toy-v0", task, "search_r1", prompt, (*asked, answer), True, False, "answer", seed=number)


def scored(number: int, text: str = "") -> ScoredEpisode:
    facts = episode(number, text, error="tool_error" if number % 7 == 3 else None)
    calls = facts.num_calls
    rewards = {"outcome": [None] * calls + [float(number % 3 == 0)], "found" + text: [0.25] * calls + [None]}
    advantages = [0.5 - i for i in range(calls)] + [1.5]
    group = number % PER_UPDATE // GROUP
    return ScoredEpisode(facts, 1 + number // PER_UPDATE, group, rewards, advantages)


def make_run(folder: Path, count: int = 500, text: str = "", seed: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_scored_episodes(folder / "episodes.jsonl", (scored(number, text) for number in range(count)))
    (folder / "config.json").write_text(json.dumps({"seed": seed, "model": "nano", "output_dir": str(folder)}))
    rows = [{"update": u, "success_rate": u / 10, "entropy": 1 / u} for u in range(1, 6)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def after(path: Path, begins: str) -> str:
    """What a script assigns, which must be one line of JSON and nothing else."""
    text = path.read_text(encoding="ascii")
    assert text.startswith(begins)
    return text[len(begins) :].removesuffix(";\n")


def read_index(folder: Path) -> dict:
    return json.loads(after(folder / "data" / "index.js", "var view = "))["index"]


def read_chunk(folder: Path, name: str) -> dict:
    return json.loads(after(folder / "data" / name, f'view.chunks["{name}"] = '))


# ---- What the page is made of ----


def test_every_episode_stands_in_exactly_one_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CHUNK_CHARS", 60_000)
    page, notes = write_view([make_run(tmp_path / "run")])
    index = read_index(page.parent)
    seeds, sizes = [], []
    for name, first in index["chunks"]:
        assert first == len(seeds)
        chunk = read_chunk(page.parent, name)
        seeds += [texts["facts"]["seed"] for texts in chunk["episodes"]]
        sizes.append(len(chunk["episodes"]))
        assert all(chunk["prompts"][texts["prompt"]][0]["text"] == texts["question"] for texts in chunk["episodes"])
    assert seeds == [str(number) for number in range(500)]
    assert max(sizes) <= files.CHUNK_EPISODES
    assert len(sizes) > 500 / files.CHUNK_EPISODES  # the limit of characters cut some of them
    assert {path.name for path in (page.parent / "data").iterdir()} == {"index.js", *(n for n, _ in index["chunks"])}
    assert notes == []


def test_the_index_says_of_each_episode_what_the_episode_says(tmp_path):
    page, _ = write_view([make_run(tmp_path / "run")])
    index = read_index(page.parent)
    columns = index["columns"]
    for number in range(500):
        record = scored(number)
        facts = record.episode
        assert columns["update"][number] == record.update
        assert columns["group"][number] == record.group
        assert columns["calls"][number] == facts.num_calls
        assert columns["turns"][number] == len(facts.turns)
        assert columns["errors"][number] == sum(map(failed, facts.turns))
        assert index["reasons"][columns["reason"][number]] == "answer"
        assert index["tasks"][columns["task"][number]] == [facts.task.id, facts.task.prompt]
        for name, sums in index["terms"].items():
            known = [value for value in record.rewards[name] if value is not None]
            assert sums[number] == (sum(known) if known else None)
    assert next(iter(index["terms"])) == "outcome"
    assert index["largest"] == {"term:outcome": 1.0, "term:found": 0.25, "advantage": 1.5}


def test_a_turn_holds_its_scores_and_what_was_said(tmp_path):
    page, _ = write_view([make_run(tmp_path / "run", count=4)])
    chunk = read_chunk(page.parent, read_index(page.parent)["chunks"][0][0])
    turns = chunk["episodes"][3]["turns"]
    assert [turn["advantage"] for turn in turns] == [0.5, -0.5, -1.5, 1.5]
    assert [turn["rewards"] for turn in turns[2:]] == [
        {"outcome": None, "found": 0.25},
        {"outcome": 1.0, "found": None},
    ]
    assert turns[0]["said"] == [{"by": "tool", "text": "<information>On the Rhone.</information>"}]
    assert turns[0]["errors"] == ["tool error"]
    assert (turns[3]["text"], turns[3]["answer"]) == ("<answer>Rhone</answer>", "Rhone")


def test_calls_of_a_last_turn_are_shown_though_the_model_was_not_told(tmp_path):
    call = ToolCall("search", {})
    last = Episode("e", Task("t", "?"), "hermes", (), (Turn(0, "x", (call,), (ToolResult(call, "found"),)),))
    write_episodes(tmp_path / "episodes.jsonl", [last])
    page, _ = write_view([tmp_path])
    [texts] = read_chunk(page.parent, read_index(page.parent)["chunks"][0][0])["episodes"]
    assert texts["turns"][0]["said"] == [{"by": "search", "text": "found"}]
    assert texts["reason"] == "running"


def test_bare_and_rescored_episodes_open(tmp_path):
    write_episodes(tmp_path / "episodes.jsonl", map(episode, range(3)))
    line = {"episode": episode(1).to_json(), "rewards": {"again": [None, 0.5]}}
    (tmp_path / "again.jsonl").write_text(json.dumps(line) + "\n")
    page, _ = write_view([tmp_path, tmp_path / "again.jsonl"], tmp_path / "page")
    index = read_index(page.parent)
    assert index["runs"] == [tmp_path.name, "again.jsonl"]
    assert index["starts"] == [0, 3]
    assert index["columns"]["update"] == [None] * 4
    assert index["terms"] == {"again": [None, None, None, 0.5]}
    assert "no learning curves" in page.read_text()


def test_a_run_that_still_writes_can_be_viewed_and_viewed_again(tmp_path):
    run = make_run(tmp_path / "run", count=3)
    whole = (run / "episodes.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    (run / "episodes.jsonl").write_text("".join(lines[:2]) + lines[2][:100])
    with (run / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"update": 6, "succ')
    page, notes = write_view([run])
    assert len(read_index(page.parent)["columns"]["run"]) == 2
    assert [
        f"{name}, line {n}" in note
        for note, name, n in zip(notes, ("metrics.jsonl", "episodes.jsonl"), (6, 3), strict=True)
    ]
    (run / "episodes.jsonl").write_text(whole.removesuffix("\n"))
    page, notes = write_view([run])
    assert len(read_index(page.parent)["columns"]["run"]) == 3  # a whole line needs no line end
    assert len(list((page.parent / "data").glob("episodes-*"))) == 1
    assert [note for note in notes if "episodes" in note] == []


def test_runs_of_one_name_are_told_apart_and_compared(tmp_path):
    paths = [make_run(tmp_path / name / "run", count=8, seed=seed) for seed, name in enumerate("ab")]
    page, _ = write_view(paths)
    assert read_index(page.parent)["runs"] == ["a/run", "b/run"]
    text = page.read_text()
    assert "Settings that differ" in text
    assert "output_dir" not in text
    assert text.count("<svg") == 2  # each curve holds both runs
    assert differing([{"a": 1}, {"a": 1}]) == []


def test_runs_that_differ_in_the_seed_alone_are_one_line(tmp_path):
    def source(name, **config):
        return runs.Source(name, tmp_path, (), config or None)

    found = [source("x-0", seed=0, output_dir="a"), source("x-1", seed=1, output_dir="b"), source("y", seed=0, lr=1)]
    assert series(found) == ["x (2 seeds)", "x (2 seeds)", "y"]
    assert series([source("0", seed=0), source("1", seed=1)]) == ["0, 1", "0, 1"]
    alike = [source(f"r-{n}", seed=n % 2, lr=n // 2) for n in range(4)]
    assert series(alike) == ["r-0, r-1", "r-0, r-1", "r-2, r-3", "r-2, r-3"]  # two things must not be one line
    assert series([source("a"), source("b")]) == ["a", "b"]  # nothing is known of these
    page, _ = write_view([make_run(tmp_path / f"run-{seed}", count=2, seed=seed) for seed in range(8)])
    assert "run (8 seeds)" in page.read_text()
    assert "thin lines are seeds" in page.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: (run / "episodes.jsonl").unlink(), "holds no episodes.jsonl"),
        (lambda run: (run / "episodes.jsonl").write_text(""), "no episode yet"),
        (lambda run: (run / "episodes.jsonl").write_text("nothing\n{}\n"), "line 1: not valid JSON"),
        (lambda run: (run / "episodes.jsonl").write_text('{"episode": {}}\n'), "line 1: an episode of schema None"),
        (lambda run: (run / "config.json").write_text("{"), "config.json: cannot be read"),
        (lambda run: (run / "view").mkdir() or (run / "view" / "mine.txt").touch(), "holds other files"),
        (lambda run: (run / "view").mkdir() or (run / "view" / "index.html").touch(), "holds other files"),
        (lambda run: (run / "view").touch(), "is no folder"),
    ],
)
def test_what_cannot_be_shown_is_said(tmp_path, change, message):
    run = make_run(tmp_path / "run", count=2)
    change(run)
    with pytest.raises((ConfigError, DataError), match=message):
        write_view([run])


def test_scores_that_do_not_fit_the_turns_are_refused(tmp_path):
    line = {"episode": episode(1).to_json(), "rewards": {"outcome": [1.0]}, "update": 1, "group": 0}
    (tmp_path / "episodes.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=r"line 1: 'outcome' has 1 values for 2 turns"):
        write_view([tmp_path])


def test_values_that_are_no_numbers_are_no_values():
    line = {"episode": episode(0).to_json(), "rewards": {"outcome": [float("nan")]}, "advantages": [float("inf")]}
    record = runs._scored(line)
    assert (record.rewards, record.advantages) == ({"outcome": [None]}, [None])


def test_scripts_hold_no_markup_and_say_what_was_put_in():
    script = as_script([HOSTILE])
    assert json.loads(script) == [HOSTILE]
    assert script.isascii()
    assert not set("<>&") & set(script)


def test_the_command_writes_the_page_and_says_what_is_wrong(tmp_path, capsys):
    run = make_run(tmp_path / "run", count=2)
    assert main(["view", str(run), "--output", str(tmp_path / "page")]) == 0
    assert capsys.readouterr().out == f"page: {tmp_path / 'page' / 'index.html'}\n"
    assert main(["view", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert main(["view", str(run), str(run)]) == 2
    assert "named twice" in capsys.readouterr().err
    assert main(["view", str(run), "--serve", "70000"]) == 2


def test_the_server_gives_out_the_page_to_this_machine_alone(tmp_path):
    page, _ = write_view([make_run(tmp_path / "run", count=2)])
    with make_server(page.parent, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            address = f"http://127.0.0.1:{server.server_address[1]}/"
            assert urlopen(address, timeout=5).read() == page.read_bytes()
            with pytest.raises(HTTPError, match="403"):
                urlopen(Request(address, headers={"Host": "elsewhere.example:80"}), timeout=5)
        finally:
            server.shutdown()


# ---- In a browser ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if find_browser() is None:
        pytest.skip("there is no Chromium")
    tab = Browser()
    yield tab
    tab.close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> str:
    """Address of a page over two runs."""
    folder = tmp_path_factory.mktemp("view")
    page, _ = write_view([make_run(folder / "one"), make_run(folder / "two", count=100, seed=1)])
    return page.as_uri()


def count(browser: Browser) -> str:
    return browser.run("document.getElementById('count').textContent")


def question(browser: Browser) -> str:
    return browser.run("document.querySelector('article h2').textContent")


def chosen(browser: Browser) -> int | None:
    return browser.run("state.e")


def test_keys_step_through_the_episodes_and_the_address_keeps_the_place(browser, shown):
    browser.open(shown)
    for key in ("j", "j", "ArrowDown", "k"):
        browser.press(key)
    browser.wait("document.querySelector('article')?.dataset.episode === '1'")
    assert question(browser) == "On which river is town 0?"
    assert browser.run("document.querySelector('#tall [aria-selected=true]').dataset.episode") == "1"
    address = browser.run("location.href")
    assert address.endswith("#tab=episodes&e=0.1")
    browser.open(address.replace("e=0.1", "e=1.99"))
    browser.wait("document.querySelector('article')?.dataset.episode === '599'")
    assert question(browser) == "On which river is town 24?"
    browser.press("Escape")
    assert chosen(browser) is None
    browser.open(shown + "#e=7.1&colour=nothing")  # an address that names nothing
    assert chosen(browser) is None
    assert browser.said == []


def test_a_group_is_shown_side_by_side(browser, shown):
    browser.open(shown + "#e=0.201")
    browser.wait("document.querySelector('article')")
    browser.press("g")
    browser.wait("document.querySelectorAll('article').length === 4")
    assert browser.run("[...document.querySelectorAll('article')].map((a) => +a.dataset.episode)") == [
        200,
        201,
        202,
        203,
    ]
    lefts = browser.run("[...document.querySelectorAll('article')].map((a) => a.getBoundingClientRect().left)")
    assert lefts == sorted(set(lefts))
    browser.press("j")
    assert chosen(browser) == 202
    browser.press("j")
    browser.press("j")
    assert chosen(browser) == 203  # it ends where the group ends
    browser.press("Enter")
    browser.wait("document.querySelectorAll('article').length === 1")
    assert browser.run("document.querySelector('article').dataset.episode") == "203"
    browser.press("g")
    browser.press("Escape")
    browser.press("Escape")
    assert chosen(browser) is None
    assert browser.said == []


def test_without_groups_a_task_is_compared_over_all_runs(browser, tmp_path):
    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        write_episodes(tmp_path / name / "episodes.jsonl", [episode(number) for number in (0, 4, 8)])
    page, _ = write_view([tmp_path / "before", tmp_path / "after"])
    browser.open(page.as_uri() + "#e=0.1&group_view=yes")
    browser.wait("document.querySelectorAll('article').length === 2")
    wheres = browser.run("[...document.querySelectorAll('article .where')].map((p) => p.textContent)")
    assert wheres == ["not scored · before · ended by answer", "not scored · after · ended by answer"]
    assert browser.run("document.getElementById('colour').value") == "who"  # there is nothing else to colour by
    assert browser.said == []


def test_a_large_group_is_shown_a_page_at_a_time(browser, tmp_path):
    write_episodes(tmp_path / "episodes.jsonl", [episode(0) for _ in range(1000)])
    page, _ = write_view([tmp_path])
    browser.open(page.as_uri() + "#e=0.63&group_view=yes")
    browser.wait("document.querySelectorAll('article').length === 32")
    assert "33 to 64 of 1000 are shown" in browser.run("document.querySelector('.where').textContent")
    browser.press("j")
    browser.wait("document.querySelector('article.current')?.dataset.episode === '64'")
    assert browser.run("document.querySelector('article').dataset.episode") == "64"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ("", lambda n, r: True),
        ("q=TOWN 7", lambda n, r: "town 7" in r.episode.task.prompt),
        ("was=success", lambda n, r: n % 3 == 0),
        ("was=failure", lambda n, r: n % 3 != 0),
        ("was=unscored", lambda n, r: False),
        ("errors=yes", lambda n, r: any(map(failed, r.episode.turns))),
        ("errors=no", lambda n, r: not any(map(failed, r.episode.turns))),
        ("calls-min=2", lambda n, r: r.episode.num_calls >= 2),
        ("calls-min=1&calls-max=1", lambda n, r: r.episode.num_calls == 1),
        ("update-min=3&update-max=4&group=2", lambda n, r: r.update in (3, 4) and r.group == 2),
        ("term=found&reward-min=0.3", lambda n, r: 0.25 * r.episode.num_calls >= 0.3),
        ("run=0&was=success&calls-max=0", lambda n, r: n % 3 == 0 and r.episode.num_calls == 0),
    ],
)
def test_the_filter_keeps_what_it_says(browser, shown, filters, expected):
    kept = [n for n in range(500) if expected(n, scored(n))]
    if "run=0" not in filters:
        kept += [500 + n for n in range(100) if expected(n, scored(n))]
    browser.open(f"{shown}#{filters.replace(' ', '+')}")
    assert browser.run("rows") == kept
    assert count(browser) == ("600 episodes" if len(kept) == 600 else f"{len(kept)} of 600")


def test_the_filter_is_reached_by_a_key_and_the_list_is_sorted(browser, shown):
    browser.open(shown)
    browser.press("/")
    browser.type("town 12?")
    assert count(browser) == "8 of 600"
    browser.press("Enter")
    browser.press("j")  # a key of the page again, no letter of the filter
    browser.wait("document.querySelector('article')")
    assert question(browser) == "On which river is town 12?"
    browser.run("document.querySelector('[data-sort=calls]').click()")
    assert browser.run("rows.map((e) => columns.calls[e])") == [3, 3, 2, 2, 1, 1, 0, 0]
    browser.run("document.querySelector('#filter [type=reset]').click()")
    assert count(browser) == "600 episodes"
    assert browser.said == []


def test_turns_are_coloured_by_what_is_chosen(browser, shown):
    signs = (
        "[...document.querySelectorAll('.piece')].map((p) => p.classList.contains('pos') ? 1 : "
        "p.classList.contains('neg') ? -1 : 0)"
    )
    browser.open(shown + "#e=0.3")
    browser.wait("document.querySelector('article')")
    assert browser.run(signs) == [1, -1, -1, 1]
    browser.press("c")
    browser.wait(
        "state.colour === 'term:outcome' && document.querySelector('.chip.on')?.textContent === 'outcome +1.00'"
    )
    assert browser.run(signs) == [0, 0, 0, 1]
    browser.open(shown + "#e=0.3&colour=who")
    browser.wait("document.querySelector('article.who')")
    assert browser.run("document.querySelectorAll('.model').length") == 4
    assert browser.run("document.querySelectorAll('.environment').length") == 4  # the prompt, and three results
    colours = "getComputedStyle(document.querySelector('{}')).backgroundColor"
    assert browser.run(colours.format(".model .piece")) != browser.run(colours.format(".environment pre"))


def test_curves_settings_and_help(browser, shown):
    browser.open(shown + "#tab=runs")
    assert browser.run("document.querySelectorAll('#runs svg').length") == 2
    assert browser.run("document.getElementById('runs').checkVisibility()")
    assert not browser.run("document.getElementById('episodes').checkVisibility()")
    browser.press("?")
    assert browser.run("document.getElementById('help').open")
    browser.press("Escape")
    assert not browser.run("document.getElementById('help').open")
    browser.press("r")
    assert browser.run("document.getElementById('episodes').checkVisibility()")
    browser.prefer("dark")
    dark = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.prefer("light")
    assert browser.run("getComputedStyle(document.body).backgroundColor") != dark


def test_what_a_model_wrote_does_nothing(browser, tmp_path):
    run = make_run(tmp_path / "</title><img src=x onerror=hurt=6>", count=8, text=HOSTILE)
    (run / "config.json").write_text(json.dumps({"model": HOSTILE}))
    other = make_run(tmp_path / "other", count=4)
    (run / "metrics.jsonl").write_text(json.dumps({"update": 1, HOSTILE: 1.0}) + "\n")
    page, _ = write_view([run, other], tmp_path / "page")
    browser.open(page.as_uri())
    browser.press("j")
    browser.wait("document.querySelector('article')")
    browser.press("g")
    browser.wait("document.querySelectorAll('article').length === 4")
    for _ in range(4):
        browser.press("c")
    browser.press("r")
    browser.wait("document.querySelectorAll('img, article a, article script').length === 0")
    assert browser.run("document.querySelectorAll('script').length") == 4
    assert browser.run("window.hurt === undefined")
    assert "<img src=x onerror=window.hurt=1></script><script>" in browser.run(
        "document.querySelector('pre').textContent"
    )
    assert browser.said == []


def test_nothing_but_the_pages_own_files_is_asked_for(browser, shown):
    browser.open(shown + "#e=0.3")
    browser.wait("document.querySelector('article')")
    own = shown.rpartition("/")[0]
    assert browser.asked
    assert all(address.startswith(own) for address in browser.asked)
    refused = "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => 'refused')"
    assert browser.run(refused) == "refused"
    assert any("Content Security Policy" in said for said in browser.said)


def test_the_page_works_from_the_server_too(browser, tmp_path):
    page, _ = write_view([make_run(tmp_path / "run", count=2)])
    with make_server(page.parent, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            browser.open(f"http://127.0.0.1:{server.server_address[1]}/")
            browser.press("j")
            browser.wait("document.querySelector('article')")
        finally:
            server.shutdown()
    assert [said for said in browser.said if "404" not in said] == []  # a browser asks for an icon; there is none


def test_a_page_that_was_written_anew_under_the_reader_says_so(browser, tmp_path):
    run = make_run(tmp_path / "run", count=2)
    page, _ = write_view([run])
    browser.open(page.as_uri())
    write_scored_episodes(run / "episodes.jsonl", [scored(2)])
    write_view([run])
    browser.press("j")
    browser.wait("document.querySelector('#transcript .wrong')?.textContent.includes('Reload')")


def test_of_ten_thousand_episodes_only_what_is_seen_is_drawn_and_loaded(browser, tmp_path):
    page, _ = write_view([make_run(tmp_path / "run", count=10_000)])
    browser.open(page.as_uri())
    assert count(browser) == "10,000 episodes"
    browser.run("go({q: 'town 9', 'calls-min': '1', sort: '-calls'})")
    assert browser.run("rows.length") == 333
    browser.run("go({q: '', 'calls-min': '', sort: ''})")
    browser.run("list.box.scrollTop = 200000; list.draw()")
    assert browser.run("document.querySelectorAll('#tall .row').length") < 100
    assert len(browser.asked) == 6  # no chunk before one is read
    browser.run("go({e: 9999})")
    browser.wait("document.querySelector('article')?.dataset.episode === '9999'")
    assert len(browser.asked) == 7
    assert browser.run("document.querySelector('#tall [aria-selected=true]').textContent").startswith("✓500")
    for read in range(0, 10_000, files.CHUNK_EPISODES):
        browser.run(f"go({{e: {read}}})")
        browser.wait(f"document.querySelector('article')?.dataset.episode === '{read}'")
    assert browser.run("Object.keys(view.chunks).length") == browser.run("KEPT")  # what was read long ago is let go
    browser.run("go({e: 0})")
    browser.wait("document.querySelector('article')?.dataset.episode === '0'")
    assert browser.said == []
