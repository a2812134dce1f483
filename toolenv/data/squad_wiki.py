"""The questions of ``toolenv fetch squad-wiki``: real ones, each with the paragraph that it was asked about."""

from __future__ import annotations

from toolenv.data.assets import fetched
from toolenv.data.squad import Squad, load_squad
from toolenv.episode import TaskSet

FILES = ("squaddev_v1.1.json", "new_wiki_v1.0.json")


def load_squad_wiki() -> Squad:
    """Read the development set of SQuAD 1.1 and SQuADShifts' new Wikipedia set, one after the other.

    Their authors ask that nobody trains on them: evaluate with them. The questions were written by people who saw the
    paragraph, which favours a search for words.

    Raises:
        DataError: The asset was not fetched.

    Source:
        SQuAD: Rajpurkar et al. (2016), CC BY-SA 4.0. SQuADShifts: Miller et al. (2020), CC BY 4.0.
    """
    folder = fetched("squad-wiki")
    parts = [load_squad(folder / name) for name in FILES]
    tasks = TaskSet([task for part in parts for task in part.tasks], name="squad-wiki")
    return Squad(tasks, tuple(passage for part in parts for passage in part.passages))
