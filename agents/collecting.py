"""Play episodes that are to be labelled, and keep all that is needed to play on from them. ``toolenv trm collect``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import toolenv
from agents.environments import make_envs
from agents.evaluate import choose_tasks
from agents.policies import LoadedPolicy, PolicySettings, load_policy, script_maker
from agents.rollout import collect
from agents.sampling.scripted import ScriptedAgent
from toolenv.data.jsonl import cut_torn_line, read_json, read_records
from toolenv.data.text_files import replace_file
from toolenv.episode import Episode, TaskSet, read_episodes, write_episodes
from toolenv.errors import ConfigError, DataError
from toolenv.progress import Progress
from toolenv.seeding import derive
from toolenv.vector import ToolVectorEnv

EPISODES, SETTINGS, DROPPED = "episodes.jsonl", "collect.json", "dropped.jsonl"
COLLECT_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class CollectSettings:
    """What a folder of episodes is made of: with it, environments and policy can be made again.

    Attributes:
        env_id: Gymnasium id.
        policy: The policy.
        episodes: How many tasks.
        samples: Episodes a task.
        seed: Chooses the tasks and what is sampled.
        env_kwargs: Keyword arguments of the environment, JSON values.
        like: A bundled policy whose environment settings and format are taken: ``"nano"``; ``None``: the policy's own.

    Raises:
        ConfigError: No episode, or no such bundled policy.
    """

    env_id: str
    policy: PolicySettings
    episodes: int
    samples: int = 1
    seed: int = 0
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    like: str | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.samples < 1:
            raise ConfigError(f"episodes and samples must be at least 1; got {self.episodes} and {self.samples}")
        if self.like not in (None, "nano"):
            raise ConfigError(f"the bundled policy whose settings can be played is 'nano', not {self.like!r}")

    @property
    def total(self) -> int:
        """How many episodes there are to play."""
        return self.episodes * self.samples

    def make_envs(self, num_envs: int) -> ToolVectorEnv:
        """The environments that the episodes are played in.

        Raises:
            ConfigError: There are no such environments.
        """
        return make_envs(self.env_id, num_envs, self.env_kwargs, self.like or self.policy.played_as)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``from_json`` is its inverse."""
        return {"schema": COLLECT_SCHEMA, "toolenv": toolenv.__version__, **asdict(self)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> CollectSettings:
        """Read what ``to_json`` wrote.

        Raises:
            DataError: Another schema version, or a field that is missing or unknown.
        """
        if not isinstance(record, Mapping) or record.get("schema") != COLLECT_SCHEMA:
            raise DataError(f"these are no settings of schema {COLLECT_SCHEMA} that 'toolenv trm collect' wrote")
        values = {key: value for key, value in record.items() if key not in ("schema", "toolenv")}
        try:
            return cls(**{**values, "policy": PolicySettings(**record["policy"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"cannot read the settings: {error!r}") from error


def read_settings(folder: str | Path) -> CollectSettings:
    """The settings of a folder of episodes.

    Raises:
        DataError: There are none, or they cannot be read.
    """
    return _read_settings(Path(folder) / SETTINGS)


def keep_settings(path: Path, settings: CollectSettings, *, fresh: bool) -> None:
    """Write the settings where no episode was played yet; else check that they are those that stand there.

    Raises:
        ConfigError: Others stand there.
        DataError: What stands there cannot be read.
    """
    if fresh:
        replace_file(path, (json.dumps(settings.to_json(), indent=2) + "\n").encode())
        return
    stood, asked = (_plain(each) for each in (_read_settings(path), settings))
    if other := [name for name in asked if asked[name] != stood[name]]:
        told = "; ".join(f"{name} is {stood[name]!r} there, {asked[name]!r} here" for name in other)
        raise ConfigError(f"{path.parent} holds episodes of other settings: {told}; give these, or another --output")


@dataclass(frozen=True, slots=True)
class Collected:
    """What a folder holds once all is played.

    Attributes:
        path: The episodes.
        episodes: How many.
        earlier: How many of them an earlier call had played.
        dropped: How many more were lost for no fault of the policy.
    """

    path: Path
    episodes: int
    earlier: int
    dropped: int


def collect_episodes(
    settings: CollectSettings,
    folder: Path,
    *,
    num_envs: int = 64,
    device: str = "auto",
    progress: Progress | None = None,
) -> Collected:
    """Play the episodes that a folder does not hold yet.

    They are appended in order, whole lines, each batch as soon as it has been played. So a call that was stopped goes
    on with the same settings, and what is played does not depend on where it was stopped. An episode that was lost to
    infrastructure is noted in ``dropped.jsonl`` and not played again.

    Args:
        settings: What to play.
        folder: Where it goes.
        num_envs: Episodes played at once.
        device: As for ``agents.models.load_model``.
        progress: Shows how far it is, in episodes.

    Raises:
        ConfigError: The folder holds episodes of other settings, or the settings do not fit together.
        DataError: The folder's files cannot be read.
        SamplerError: The policy failed.
    """
    envs = settings.make_envs(min(num_envs, settings.total))
    try:
        tasks: TaskSet = envs.envs[0].tasks
        chosen = choose_tasks(len(tasks), settings.episodes, settings.seed)
        plan = [task for task in chosen for _ in range(settings.samples)]
        record = _Record(folder, settings, [tasks[task].id for task in plan])
        if progress is not None:
            progress.start_at(record.next)
        earlier = record.written
        with _player(settings, envs, device) as player:
            for first in range(record.next, len(plan), player.batch):
                indices = range(first, min(first + player.batch, len(plan)))
                record.add(indices, player.play(indices, [plan[index] for index in indices]))
                if progress is not None:
                    progress.show(indices.stop, f"{indices.stop} of {len(plan)} episodes")
    finally:
        envs.close()
    return Collected(record.path, record.written, earlier, len(record.dropped))


Played = Episode | str
"""An episode, or why it was dropped."""


class _Record:
    """The files of a folder: what stands there, and what is appended.

    Attributes:
        path: The episodes.
        dropped: Indices of the episodes that were dropped.
        written: How many episodes stand there.
        next: Index of the first episode that was not played.
    """

    def __init__(self, folder: Path, settings: CollectSettings, task_ids: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._drops = folder / EPISODES, folder / DROPPED
        for path, begins in ((self.path, '{"schema": 1, "env_id": '), (self._drops, '{"index": ')):
            if path.exists():
                cut_torn_line(path, begins)
        keep_settings(folder / SETTINGS, settings, fresh=not (_holds(self.path) or _holds(self._drops)))
        self.dropped = {int(r["index"]) for _, _, r in read_records(self._drops)} if _holds(self._drops) else set[int]()
        self.written, self.next = 0, 0
        planned = ((index, id) for index, id in enumerate(task_ids) if index not in self.dropped)
        for episode in read_episodes(self.path) if _holds(self.path) else ():
            index, id = next(planned, (len(task_ids), None))
            if id != episode.task.id:
                raise ConfigError(
                    f"{self.path}, line {self.written + 1}, is of task {episode.task.id!r}, where {id!r} is to be "
                    "played; give another --output"
                )
            self.written, self.next = self.written + 1, index + 1
        while self.next in self.dropped:
            self.next += 1

    def add(self, indices: Sequence[int], played: Sequence[Played]) -> None:
        """Append a batch: first what was dropped, so that the episodes' places follow from both files."""
        drops = {i: p for i, p in zip(indices, played, strict=True) if isinstance(p, str) and i not in self.dropped}
        if drops:
            with self._drops.open("a", encoding="ascii") as file:
                file.writelines([json.dumps({"index": i, "reason": why}) + "\n" for i, why in drops.items()])
        self.dropped |= drops.keys()
        kept = [p for i, p in zip(indices, played, strict=True) if i not in self.dropped and isinstance(p, Episode)]
        self.written += write_episodes(self.path, kept, append=True)


def _holds(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _read_settings(path: Path) -> CollectSettings:
    try:
        return CollectSettings.from_json(read_json(path))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _plain(settings: CollectSettings) -> dict[str, Any]:
    """By name, as they read from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return plain


class _ModelPlayer:
    """A language model plays.

    Attributes:
        batch: Episodes that are played before they are kept: more than there are slots, so that few stand empty.
    """

    def __init__(self, policy: LoadedPolicy, envs: ToolVectorEnv, seed: int) -> None:
        self.policy, self.envs, self.seed = policy, envs, seed
        self.batch = 4 * envs.num_envs

    def play(self, indices: Sequence[int], tasks: Sequence[int]) -> Sequence[Played]:
        """One episode an index; what is sampled depends on the index alone."""
        played = collect(
            self.policy.sampler,
            self.envs,
            tasks,
            encoder=self.policy.encoder,
            sampler_seed=self.seed,
            tasks=tasks,
            max_tokens=self.policy.max_tokens,
            indices=indices,
        )
        lost: dict[int, list[str]] = {}
        for task, why in played.dropped:
            lost.setdefault(task, []).append(why)
        kept = (rollout.episode for rollout in played.rollouts)
        # Of a task's samples it does not matter which is called lost.
        return [lost[task].pop() if lost.get(task) else next(kept) for task in tasks]

    def close(self) -> None:
        """Free the model."""
        self.policy.close()


class _ScriptPlayer:
    """A script plays, one agent an episode.

    Attributes:
        batch: Episodes that are played before they are kept.
    """

    def __init__(self, make: Callable[[int], ScriptedAgent], envs: ToolVectorEnv, seed: int) -> None:
        self.make, self.envs, self.seed = make, envs, seed
        self.batch = envs.num_envs

    def play(self, indices: Sequence[int], tasks: Sequence[int]) -> Sequence[Played]:
        """One episode an index, all at once."""
        envs, agents = self.envs, [self.make(derive(self.seed, "collect", index)) for index in indices]
        spare = envs.num_envs - len(tasks)
        envs.reset(seed=[*tasks, *[0] * spare], options={"task": [*tasks, *[0] * spare]})
        for slot in range(len(tasks), envs.num_envs):
            envs.truncate(slot, "unused")
        running = envs.envs[: len(tasks)]
        while any(not (env.episode.terminated or env.episode.truncated) for env in running):
            envs.step([_next(a, env.episode) for a, env in zip(agents, running, strict=True)] + [""] * spare)
        return [env.episode if env.episode.reason != "infrastructure" else "infrastructure" for env in running]

    def close(self) -> None:
        """There is nothing to free."""


def _next(agent: ScriptedAgent, episode: Episode) -> str:
    return "" if episode.terminated or episode.truncated else agent.act(episode.task, episode.turns)


@contextmanager
def _player(settings: CollectSettings, envs: ToolVectorEnv, device: str) -> Iterator[_ModelPlayer | _ScriptPlayer]:
    format = envs.envs[0].format
    player: _ModelPlayer | _ScriptPlayer
    if settings.policy.scripted:
        player = _ScriptPlayer(script_maker(settings.policy.name, format), envs, settings.seed)
    else:
        player = _ModelPlayer(load_policy(settings.policy, format, device=device), envs, settings.seed)
    try:
        yield player
    finally:
        player.close()
