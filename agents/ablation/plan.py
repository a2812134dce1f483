"""What an ablation runs: a TOML file of settings that all runs share, and axes along which they differ."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from agents.config import GRPOConfig, PPOConfig, TrainConfig
from agents.reward_spec import make_reward
from toolenv.errors import ConfigError, DataError

LEARNERS: Mapping[str, type[TrainConfig]] = {"grpo": GRPOConfig, "ppo": PPOConfig}
OURS = frozenset({"output_dir", "resume", "seed"})
"""Settings of a run that the ablation sets itself."""
MEASURES: Mapping[str, str] = {
    "success": "success",
    "score": "score",
    "calls": "calls an episode",
    "repeated": "repeated calls",
    "errors": "failed turns",
    "no_call": "episodes without a call",
}
"""What is always measured of held-out episodes, and what the table calls it."""
JOIN = " / "
"""Stands between the values of several axes in the name of a setting."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a setting and a seed."""

    setting: str
    seed: int

    @property
    def folder(self) -> str:
        """What its folder is called."""
        plain = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in self.setting)
        return f"{plain}-seed-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """An ablation.

    Attributes:
        title: What it is about.
        axes: By axis, then by the name of a value, the settings of the trainer that this value changes; ``learner``
            among them chooses the trainer.
        shared: Settings of the trainer that all runs have.
        seeds: Each setting is run with each of them.
        held_out: How many tasks each trained policy is asked; all are asked the same ones.
        against: By axis, the value that its others are compared with, all else equal; by default the first value of
            the first axis.
        leave_out: Combinations that are not run: where all that one names is so.
        measures: Further columns of the table by name: rewards, as ``toolenv rescore`` takes them, summed over an
            episode.
        source: What the ablation repeats, in words.

    Raises:
        ConfigError: What is not known, does not fit together or is missing.

    Example:
        >>> turn = {"estimator": "turn_loo", "process": ["rewards:GoldPassageFn"], "alpha": 1.0}
        >>> plan = Plan("credit", {"credit": {"outcome": {"estimator": "grpo"}, "turn": turn}}, seeds=(0, 1))
        >>> plan.base_of("turn"), [(cell.setting, cell.seed) for cell in plan.cells()]
        ('outcome', [('outcome', 0), ('turn', 0), ('outcome', 1), ('turn', 1)])
    """

    title: str
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]]
    shared: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0, 1, 2)
    held_out: int = 200
    against: Mapping[str, str] = field(default_factory=dict)
    leave_out: Sequence[Mapping[str, str]] = ()
    measures: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        _check(self)
        first = next(iter(self.axes))
        object.__setattr__(self, "against", self.against or {first: next(iter(self.axes[first]))})
        if not self._settings():
            raise ConfigError("leave_out leaves nothing to run")
        folders: dict[str, str] = {}
        for name in self.settings:
            cell = Cell(name, self.seeds[0])
            if (other := folders.setdefault(cell.folder.casefold(), name)) != name:
                raise ConfigError(
                    f"the settings {other!r} and {name!r} would share the folder {cell.folder}; rename one"
                )
            self.config(cell, Path("runs"))

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The plan in a TOML file.

        Raises:
            DataError: It is no TOML file.
            ConfigError: It is no plan; the message names the file.
        """
        path = Path(path)
        try:
            record = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        known = [one.name for one in fields(cls)]
        if other := [name for name in record if name not in known]:
            raise ConfigError(f"{path}: unknown {', '.join(other)}; a plan has {', '.join(known)}")
        if missing := [name for name in ("title", "axes") if name not in record]:
            raise ConfigError(f"{path}: {' and '.join(missing)} missing")
        try:
            return cls(**record)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of what is compared, in order."""
        return tuple(self._settings())

    def base_of(self, setting: str) -> str | None:
        """What a setting is compared with; ``None``: it is itself compared with, or nothing is."""
        chosen = self._settings()[setting]
        base = {**chosen, **self.against}
        return next((name for name, of in self._settings().items() if of == base != chosen), None)

    def outcome_of(self, setting: str) -> Any:
        """The outcome reward that a setting is trained with."""
        return self.config(Cell(setting, self.seeds[0]), Path("runs")).outcome

    def cells(self) -> list[Cell]:
        """All runs, seed by seed, so that what is done first can be compared first."""
        return [Cell(name, seed) for seed in self.seeds for name in self.settings]

    def config(self, cell: Cell, folder: Path) -> TrainConfig:
        """The trainer's settings of a run.

        Args:
            cell: The run.
            folder: Where the runs stand.

        Raises:
            ConfigError: Settings that the trainer does not have, or that do not fit together; names the setting.
        """
        chosen = self._settings()[cell.setting].items()
        changes = dict(self.shared)
        for axis, value in chosen:  # a later axis wins
            changes |= self.axes[axis][value]
        learner = changes.pop("learner", "grpo")
        if learner not in LEARNERS:
            raise ConfigError(f"setting {cell.setting!r}: learner is one of {', '.join(LEARNERS)}, not {learner!r}")
        if unknown := sorted(changes.keys() - {one.name for one in fields(LEARNERS[learner])} | changes.keys() & OURS):
            raise ConfigError(
                f"setting {cell.setting!r}: {learner} has no {', '.join(unknown)} that a plan may set; "
                f"'toolenv train {learner} --help' lists its settings"
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()
        }
        try:
            return LEARNERS[learner](**values, seed=cell.seed, output_dir=folder / cell.folder, resume=True)
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"setting {cell.setting!r}: {error}") from error

    def _settings(self) -> dict[str, dict[str, str]]:
        """By the name of a setting, its value on each axis."""
        combinations = (dict(zip(self.axes, v, strict=True)) for v in itertools.product(*self.axes.values()))
        return {
            JOIN.join(chosen.values()): chosen
            for chosen in combinations
            if not any(out.items() <= chosen.items() for out in self.leave_out)
        }


def shipped_plans() -> dict[str, Path]:
    """The plans that ship, by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "plans").glob("*.toml"))}


def plan_file(name: str) -> Path:
    """The file of a plan: a path, or the name of one that ships.

    Raises:
        ConfigError: There is neither.
    """
    if Path(name).is_file():
        return Path(name)
    if name in (plans := shipped_plans()):
        return plans[name]
    raise ConfigError(f"there is no file {name!r}, and no such plan ships; there are: {', '.join(plans)}")


def _check(plan: Plan) -> None:
    """Check the shape of a plan.

    Raises:
        ConfigError: It is none.
    """
    for name in ("axes", "shared", "against", "measures"):
        if not isinstance(value := getattr(plan, name), Mapping):
            raise ConfigError(f"{name} must be a table; got {value!r:.80}")
    if not plan.axes:
        raise ConfigError("there is no axis: write [axes.NAME.VALUE] for each value of each thing that is to differ")
    for axis, values in plan.axes.items():
        if not isinstance(values, Mapping) or not values or not all(isinstance(v, Mapping) for v in values.values()):
            raise ConfigError(f"axis {axis!r} must hold a table for each of its values; got {values!r:.80}")
        if wrong := [value for value in values if JOIN in value or not value.strip()]:
            raise ConfigError(f"axis {axis!r}: a value is called {wrong[0]!r}; it needs a name without {JOIN!r}")
    _check_numbers(plan)
    if not isinstance(plan.leave_out, Sequence) or not all(isinstance(out, Mapping) for out in plan.leave_out):
        raise ConfigError(f"leave_out must be a list of tables; got {plan.leave_out!r:.80}")
    for what, chosen in (*(("leave_out", out) for out in plan.leave_out), ("against", plan.against)):
        if any(value not in plan.axes.get(axis, ()) for axis, value in chosen.items()) or (
            not chosen and what == "leave_out"
        ):
            raise ConfigError(f"{what} must name values of axes, as in {{ axis = 'value' }}; got {dict(chosen)!r}")
    for name, spec in plan.measures.items():
        if name in MEASURES or not isinstance(spec, str):
            raise ConfigError(f"measure {name!r} must be a reward's text, and none of {', '.join(MEASURES)}")
        make_reward(spec)


def _check_numbers(plan: Plan) -> None:
    seeds = plan.seeds if isinstance(plan.seeds, list | tuple) else ()
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds must be a list of different whole numbers from 0; got {plan.seeds!r}")
    if type(plan.held_out) is not int or plan.held_out < 1:
        raise ConfigError(f"held_out must be a whole number from 1; got {plan.held_out!r}")
    if not isinstance(plan.title, str) or not isinstance(plan.source, str):
        raise ConfigError(f"title and source are texts; got {plan.title!r} and {plan.source!r}")
