"""The reward models of the comparison, made by the workshop's own commands, once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from agents import cli
from toolenv.errors import ConfigError

EPISODES = 2000
"""Half of the warm start's own, half of a script that makes every kind of mistake; on training questions in the
training wording. Renamed copies, from which a model learns to read names instead of to remember them, may hold names
of held-out entities, as the warm start's own training did; nothing of their facts."""

POLICIES = {"nano": ["--policy", "nano"],
            "scripted": ["--policy", "scripted:agents.varied_searcher:VariedSearcher", "--like", "nano"]}  # fmt: skip
COPIES = 3
MODELS = ("product", "quality", "necessity", "orm")
"""TRMs by what labels they learn, and a trajectory ORM, which learns whether the episode succeeded."""
LEARNING = {
    "product": [
        "--model",
        "nano",
        "--extra-layers",
        "2",
        "--learning-rate",
        "5e-4",
        "--label",
        "value",
        "--epochs",
        "2",
    ],
    "others": ["--epochs", "1", "--learning-rate", "5e-4"],
}
"""The others go on from the product's model, which has learned to read, with the episodes as they were played."""


class Models:
    """The models in their folder: TRMs of three labels, and a trajectory ORM.

    Args:
        folder: Where they, their episodes and their labels stand.
        episodes: How many episodes they learn from.
        product: A finished TRM of product labels, to be taken instead of making one.
    """

    def __init__(self, folder: Path, episodes: int = EPISODES, product: Path | None = None) -> None:
        self._root = folder
        self._episodes = episodes
        self._product = product

    def folder(self, name: str) -> Path:
        """Where a model stands."""
        return self._product if self._product and name == "product" else self._root / name

    def commands(self, name: str) -> list[list[str]]:
        """What makes a model, in order; one that is not the product's needs that one first."""
        labels, renamed = str(self._root / "labels.jsonl"), str(self._root / "renamed.jsonl")
        into = ["--device", "cpu", "--output", str(self.folder(name))]
        if name == "product":
            rename = ["trm", "rename", labels, "--copies", str(COPIES), "--output", renamed]
            return [*self._labelling(labels), rename, ["trm", "train", renamed, *LEARNING["product"], *into]]
        learned = ["--level", "episode"] if name == "orm" else ["--label", name]
        learned += ["--model", str(self.folder("product")), *LEARNING["others"]]
        return [*self._labelling(labels), ["trm", "train", labels, *learned, *into]]

    def made_by(self, name: str) -> list[list[str]]:
        """All that a model depends on."""
        product = [[str(self._product)]] if self._product else self.commands("product")
        return product if name == "product" else [*product, self.commands(name)[-1]]

    def _labelling(self, labels: str) -> list[list[str]]:
        """What plays and labels the episodes."""
        tasks = ["--env-id", "ToolSearchQA-v0", "--split", "train", "--env-kwargs", json.dumps({"wording": "seen"})]
        tasks += ["--episodes", str(self._episodes // len(POLICIES))]
        folders = {policy: str(self._root / f"episodes-{policy}") for policy in POLICIES}
        played = [["trm", "collect", *named, *tasks, "--output", folders[key]] for key, named in POLICIES.items()]
        return [*played, ["trm", "label", *folders.values(), "--by", "oracle", "--output", labels]]

    def held_out_auc(self, name: str) -> float:
        """The best AUC of a model's training, on tasks that it kept from it."""
        record = json.loads((self.folder(name) / "train.json").read_text())
        return max(float(look["auc"]) for look in record["looks"])

    def make(self, names: Sequence[str]) -> None:
        """Make the models that are not there; one that was stopped half-way goes on.

        Raises:
            ConfigError: A command failed; it has said why.
        """
        ran: list[list[str]] = []
        for name in names:
            done = self._root / f"{name}.json"
            is_given = self._product is not None and name == "product"
            if is_given or (done.exists() and json.loads(done.read_text()) == self.made_by(name)):
                continue
            for command in self.commands(name):
                if command in ran:
                    continue
                ran.append(command)
                print("toolenv", *command, flush=True)
                status = cli.main(command)
                if status == cli.EXIT_INTERRUPTED:
                    raise KeyboardInterrupt
                if status:
                    raise ConfigError(f"'toolenv {' '.join(command)}' ended with status {status}")
            done.write_text(json.dumps(self.made_by(name)))
