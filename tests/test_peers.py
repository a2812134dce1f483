"""The comparison with other projects: rounds with scripted players, ratios by hand, the stub, the table."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import requests

from benchmarks.peers import __main__ as run
from benchmarks.peers import catalogue, installing, playing, search_server, search_stub, works
from benchmarks.peers.catalogue import Player
from benchmarks.peers.ratios import ratio
from benchmarks.peers.table import cell, duration, short, table

ROOT = Path(__file__).parent.parent

GOOD = """
import sys
sys.path.insert(0, {folder!r})
from works import Pass, check, play

def count(job):
    done = []
    def step():
        done.append(1)
        check(len(done) < job["broken_after"], "it should not break")
    return Pass(step, 3, lambda: print("closed"), {{"said": job["word"]}})

play({{"count": count}})
"""


def player(name: str, folder: Path, **fields: Any) -> Player:
    script = folder / f"{name}.py"
    script.write_text(GOOD.format(folder=str(catalogue.FOLDER)))
    return Player(name, name.title(), name, name, script, **fields)


def test_a_player_is_run_in_its_own_process_and_its_last_line_is_read(tmp_path: Path) -> None:
    job = {"work": "count", "at_least_s": 0.0, "broken_after": 100, "word": "hello"}
    found = playing.play_once(player("one", tmp_path), Path(sys.executable), job)
    assert found["units"] == 3
    assert found["seconds"] > 0
    assert found["facts"] == {"said": "hello"}


def test_broken_work_is_not_measured(tmp_path: Path) -> None:
    job = {"work": "count", "at_least_s": 5.0, "broken_after": 4, "word": ""}
    with pytest.raises(SystemExit, match=r"could not play 'count'(?s:.*)it should not break"):
        playing.play_once(player("one", tmp_path), Path(sys.executable), job)


def test_every_player_plays_every_round_and_another_begins_each_time(tmp_path: Path) -> None:
    order: list[str] = []

    def measure(who: Player) -> dict[str, Any]:
        order.append(who.name)
        return {"seconds": float(len(order))}

    ours, one, two = (player(name, tmp_path) for name in ("ours", "one", "two"))
    found = playing.play_rounds(ours, [one, two], measure, 3)
    assert order == ["ours", "one", "two", "one", "two", "ours", "two", "ours", "one"]
    assert [run["seconds"] for run in found["ours"]] == [1.0, 6.0, 8.0]


def test_what_a_peer_cannot_do_is_none_with_the_reason(tmp_path: Path) -> None:
    ours, able = player("ours", tmp_path), player("able", tmp_path)
    unable = player("unable", tmp_path, cannot={"count": "it cannot count"})
    times = {"ours": 2.0, "able": 6.0}

    def measure(who: Player) -> dict[str, Any]:
        return {"seconds": times[who.name], "units": 1, "setup_s": 0.5, "facts": {}}

    told = run.compared(ours, [able, unable], "count", measure, 2)
    assert told["peers"]["able"]["ratio"]["median"] == 3.0
    assert told["peers"]["able"]["seconds"] == [6.0, 6.0]
    assert told["peers"]["unable"] == {"ratio": None, "why": "it cannot count"}


def test_long_episodes_of_other_lengths_are_not_compared(tmp_path: Path) -> None:
    ours, other = player("ours", tmp_path), player("other", tmp_path)
    tokens = {"ours": 1000, "other": 1101}

    def measure(who: Player) -> dict[str, Any]:
        return {"seconds": 1.0, "units": 1, "setup_s": 0.0, "facts": {"tokens": tokens[who.name]}}

    with pytest.raises(SystemExit, match="1000 tokens with us and 1101 in Other"):
        run.compared(ours, [other], "history", measure, 1)
    tokens["other"] = 1100
    assert run.compared(ours, [other], "history", measure, 1)["peers"]["other"]["ratio"]["median"] == 1.0


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    # By rounds 2, 8, 3; the medians alone would say 6 / 2 = 3, the means 13 / 7.
    found = ratio([4.0, 8.0, 6.0], [2.0, 1.0, 2.0])
    assert found["rounds"] == [2.0, 8.0, 3.0]
    assert found["median"] == 3.0
    # A median of three draws is 2 with 7 of 27 (two or three of them are 2), likewise 8: both are beyond 2.5 %.
    assert (found["low"], found["high"]) == (2.0, 8.0)
    assert ratio([3.0] * 5, [2.0] * 5) == {"median": 1.5, "low": 1.5, "high": 1.5, "rounds": [1.5] * 5}


@pytest.mark.parametrize(("theirs", "ours"), [([], []), ([1.0], [0.0]), ([-1.0], [1.0])])
def test_a_ratio_of_nothing_is_refused(theirs: list[float], ours: list[float]) -> None:
    with pytest.raises(ValueError, match="one time above 0 a round"):
        ratio(theirs, ours)


def test_the_graders_agree_on_the_action() -> None:
    assert works.graded(works.ACTION) == 1.0
    assert works.graded("<answer> The  paris. </answer>") == 1.0
    assert works.graded("<answer> Paris </answer> <answer> Lyon </answer>") == 0.0
    assert works.graded("Paris") == 0.0


def test_a_program_prints_its_roots() -> None:
    code, printed = works.program(4)
    assert printed == "[4, 5, 6]"
    sympy = pytest.importorskip("sympy")
    x = sympy.symbols("x")
    assert str(sympy.solve(sympy.expand((x - 4) * (x - 5) * (x - 6)), x)) == printed
    assert "(x - 4) * (x - 5) * (x - 6)" in code


def test_the_stub_answers_each_in_its_own_way() -> None:
    pytest.importorskip("bm25s")
    with search_server.serving() as server:
        query, title = server["queries"][0]
        batch = requests.post(f"{server['url']}/retrieve", json={"queries": [query], "topk": 3}, timeout=10).json()
        nested = requests.post(server["nested_url"], json={"query": query, "topk": 3}, timeout=10).json()
        assert batch == nested
        assert [len(batch["result"]), len(batch["result"][0])] == [1, works.TOP_K]
        assert batch["result"][0][0]["document"]["contents"].startswith(f'"{title}"\n')
        asked = b"\x83\xa5query" + search_stub.packed(query).replace(b"\xdb\0\0", b"\xda", 1)
        asked += b"\xa4topk\x03\xadreturn_scores\xc3"
        answer = requests.post(server["msgpack_url"], data=asked, timeout=10).content
        assert answer == search_stub.packed({"result": batch["result"][0]})


def test_message_pack_as_its_specification_has_it() -> None:
    assert search_stub.packed({"a": [1.5]}) == b"\x81\xdb\0\0\0\x01a\x91\xcb\x3f\xf8\0\0\0\0\0\0"
    asked = b"\x83\xa5query\xd9\x02ab\xa4topk\x03\xadreturn_scores\xc3"
    assert search_stub.unpacked(asked) == {"query": "ab", "topk": 3, "return_scores": True}
    with pytest.raises(ValueError, match="0xca"):
        search_stub.unpacked(b"\x81\xa1a\xca\0\0\0\0")
    with pytest.raises(ValueError, match="None"):
        search_stub.packed(None)


def test_the_same_environment_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def pretend(words: list[str]) -> str:
        ran.append(words[2])
        (tmp_path / "one").mkdir(exist_ok=True)
        return ""

    monkeypatch.setattr(installing, "_run", pretend)
    peer = Player("one", "One", "one", "one", packages=("one==1.0",))
    assert installing.installed(peer, tmp_path) == tmp_path / "one" / "bin" / "python"
    assert ran == ["venv", "pip"]
    installing.installed(peer, tmp_path)
    assert ran == ["venv", "pip"]
    installing.installed(Player("one", "One", "one", "one", packages=("one==1.1",)), tmp_path)
    assert ran == ["venv", "pip", "venv", "pip"]
    assert installing.installed(Player("ours", "", "", ""), tmp_path) == Path(sys.executable)


def test_the_catalogue_is_whole() -> None:
    told = catalogue.read_catalogue()
    assert not told.ours.packages
    for peer in told.peers.values():
        assert set(peer.cannot) < set(told.works)
        assert all("==" in package for package in peer.packages)
        assert peer.script is None or peer.script.exists()
        for work in set(told.works) - set(peer.cannot) - {"import", "update"}:
            assert peer.script is not None
            assert f'"{work}": {work}' in peer.script.read_text()


RECORD = {
    "players": {
        "ours": {"title": "toolenv", "version": "0.1.0"},
        "one": {"title": "One", "version": "1.0"},
        "two": {"title": "Two", "version": "2.0"},
    },
    "works": {
        "cheap": {
            "ours": {"median_s": 2.13e-5},
            "peers": {
                "one": {"ratio": {"median": 24.9, "low": 9.96, "high": 31.2}},
                "two": {"ratio": None, "why": "it has none"},
            },
        }
    },
}


def test_the_table_by_hand() -> None:
    assert table(RECORD).splitlines() == [
        "|  | ours | One 1.0 | Two 2.0 |",
        "| --- | --- | --- | --- |",
        "| answer turns | 21 µs | 25 [10.0, 31] | - |",
    ]
    assert [short(value) for value in (0.1234, 1.278, 24.9, 1301.4)] == ["0.12", "1.3", "25", "1,301"]
    assert [duration(value) for value in (0.0098, 2.4)] == ["9.8 ms", "2.4 s"]
    assert cell(None) == "-"


def results() -> dict[str, Any]:
    if not run.RESULTS.exists():
        pytest.skip("the benchmark has not been run: there is no benchmarks/results/peers.json")
    return json.loads(run.RESULTS.read_text())


def test_the_kept_results_are_of_all_works_and_peers() -> None:
    found, told = results(), catalogue.read_catalogue()
    assert list(found["works"]) == list(told.works)
    assert set(found["players"]) == {"ours", *told.peers}
    for name, peer in told.peers.items():
        pinned = dict(package.split("==") for package in peer.packages)
        assert found["players"][name]["version"] == pinned.get(peer.distribution, found["players"][name]["version"])
        for work in told.works:
            entry = found["works"][work]["peers"][name]
            if work in peer.cannot:
                assert entry == {"ratio": None, "why": peer.cannot[work]}
            else:
                ours = found["works"][work]["ours"]["seconds"]
                assert entry["ratio"] == ratio(entry["seconds"], ours)


def test_the_readme_shows_the_kept_results() -> None:
    assert table(results()) in (ROOT / "README.md").read_text(encoding="utf-8")
