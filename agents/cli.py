"""The console script ``toolenv``: each command's modules are imported when the command runs."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agents import cli_ablate, cli_index, cli_view, workshop
from toolenv.errors import ConfigError, MissingExtraError, ToolEnvError

TRAINERS = ("grpo", "ppo")
"""What ``toolenv train`` can train with; the first one where none is named."""
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after ``toolenv``; ``None``: those of the process.

    Returns:
        Exit status: 0, 1 (the command failed), 2 (wrong usage, or an extra is missing), 130 (interrupted).

    Example:
        >>> main(["eval", "--env-id", "ToolSearchQA-v0", "--episodes", "0"])
        2
    """
    # As ``python -m`` does, so that a reward in the folder at hand is found.
    if "" not in sys.path:
        sys.path.insert(0, "")
    commands = parser()
    options, rest = commands.parse_known_args(arguments)
    if rest and options.command != "train":
        commands.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(COMMANDS[options.command](options, rest) or 0)
    except KeyboardInterrupt:
        return _say("interrupted", EXIT_INTERRUPTED)
    except (MissingExtraError, ConfigError) as error:
        return _say(str(error), EXIT_USAGE)
    except ModuleNotFoundError as error:
        return _say(f"{error.name!r} is not installed; run: pip install 'toolenv[all]'", EXIT_USAGE)
    except ToolEnvError as error:
        return _say(str(error), EXIT_FAILED)


def _say(message: str, status: int) -> int:
    print(f"toolenv: {message}", file=sys.stderr)
    return status


def parser() -> argparse.ArgumentParser:
    """The commands and their options; those of ``train`` are the trainer's (``agents.config``)."""
    toolenv = argparse.ArgumentParser(prog="toolenv", description="Environments and rewards for agents that use tools.")
    commands = toolenv.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fetch = commands.add_parser("fetch", help="fetch pinned real data; without a name: list what there is")
    fetch.add_argument("name", nargs="?", help="what to fetch")

    play = commands.add_parser(
        "eval",
        help="run a real model through an environment",
        formatter_class=_Shown,
    )
    play.add_argument("--env-id", required=True, help="such as ToolSearchQA-v0")
    play.add_argument(
        "--model", default="smollm2-135m", help="nano, smollm2-135m, a folder, a .gguf file or a hub name"
    )
    play.add_argument("--server", help="address of an OpenAI-compatible server that serves --model, without /v1")
    play.add_argument("--episodes", type=int, default=20, help="how many tasks, each played once")
    play.add_argument("--output", type=Path, default=Path("runs/eval"), help="folder for episodes.jsonl, summary.json")
    play.add_argument("--split", default="test", help="split of the bundled tasks")
    play.add_argument("--tasks", help="a JSONL file of your own tasks instead of the bundled ones")
    play.add_argument("--env-kwargs", type=json.loads, default={}, help="further arguments of the environment, as JSON")
    play.add_argument(
        "--format", help='how the model speaks, such as hermes or torl{"lenient": false} (not given: the model\'s)'
    )
    play.add_argument("--seed", type=int, default=0, help="chooses the tasks and what is sampled")
    play.add_argument("--num-envs", type=int, default=8, help="episodes played at once")
    play.add_argument("--greedy", action="store_true", help="take the likeliest token instead of a draw")
    play.add_argument("--temperature", type=float, default=1.0, help="of the draw")
    play.add_argument("--max-new-tokens", type=int, default=256, help="longest turn")
    play.add_argument("--max-tokens", type=int, help="longest conversation (not given: what the model takes)")
    play.add_argument("--device", default="auto", help="as torch names it")

    again = commands.add_parser("rescore", help="score stored episodes again, with no new rollout")
    again.add_argument("episodes", type=Path, help="JSONL of episodes, of an evaluation or of a training run")
    again.add_argument(
        "--reward",
        action="append",
        required=True,
        metavar="[NAME=]MODULE:ATTRIBUTE[{JSON}][*WEIGHT]",
        help='such as rewards:OutcomeFn, or whole=rewards:ToolFn{"granularity": "whole"}; may be given several times',
    )
    again.add_argument(
        "--output", type=Path, help="where the records go (not given: beside the episodes, *.rescored.jsonl)"
    )
    again.add_argument("--resume", action="store_true", help="go on where an earlier call was stopped")
    again.add_argument(
        "--on-error",
        choices=("stop", "mask"),
        default="stop",
        help="when a reward fails: stop, or leave the episode out",
    )

    check = commands.add_parser("validate", help="check tasks: gold answers score 1, near misses 0; no model")
    check.add_argument("--env-id", required=True, help="such as ToolSearchQA-v0")
    check.add_argument("--tasks", help="a file of your own tasks instead of the bundled ones")
    check.add_argument("--split", default="test", help="split of the bundled tasks")
    check.add_argument("--limit", type=int, help="how many tasks to draw (not given: all)")
    check.add_argument("--seed", type=int, default=0, help="draws the tasks")
    check.add_argument(
        "--env-kwargs", type=json.loads, default={}, help="further arguments of the environment, as JSON"
    )

    _add_corpus(commands)
    cli_index.add_commands(commands, _Shown)
    workshop.add_commands(commands, _Shown)
    cli_ablate.add_command(commands, _Shown)
    cli_view.add_command(commands)
    _add_sandbox(commands)

    commands.add_parser(
        "train",
        add_help=False,
        help="train [grpo|ppo]: train a policy; 'toolenv train ppo --help' lists the settings of PPO",
    )
    return toolenv


def _add_corpus(commands: Any) -> None:
    """``toolenv corpus make|info``."""
    corpus = commands.add_parser("corpus", help="cut passages from a dump of Wikipedia, say what a corpus holds")
    actions = corpus.add_subparsers(dest="action", required=True, metavar="ACTION")
    shown = _Shown

    make = actions.add_parser("make", help="cut passages from MediaWiki XML dumps", formatter_class=shown)
    make.add_argument(
        "dump", nargs="+", type=Path, help="an .xml file, or one with .bz2, .gz or .xz; or the parts of one"
    )
    make.add_argument("--output", type=Path, required=True, help="the .jsonl file to write")
    make.add_argument("--words", type=int, default=100, help="words a passage")
    make.add_argument("--workers", type=int, help="processes (not given: one a core)")

    info = actions.add_parser("info", help="say what a corpus holds")
    info.add_argument("corpus", help="a corpus file, or the name of one that was fetched")


class _Shown(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def _at_least_1(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {word!r}")
    return int(word)


def _add_sandbox(commands: Any) -> None:
    """``toolenv sandbox build|doctor|serve``."""
    sandbox = commands.add_parser("sandbox", help="build the image of the Docker sandbox, look what works, serve it")
    actions = sandbox.add_subparsers(dest="action", required=True, metavar="ACTION")
    shown = _Shown

    build = actions.add_parser("build", help="build the image of the Docker sandbox", formatter_class=shown)
    build.add_argument("--base", help="image to take Python from (not given: python:3.11-slim)")
    build.add_argument("--tag", default="toolenv-python:1", help="name of the image")
    build.add_argument(
        "--from-this-python", action="store_true", help="take the Python that runs this instead: needs no image hub"
    )

    doctor = actions.add_parser(
        "doctor",
        help="say what works here, and what mends the rest",
        epilog="Exit status: 0 where a sandbox for code that you do not trust works (Docker or bubblewrap), and, "
        "with --image or --runtime, where the Docker sandbox works with them; else 1.",
        formatter_class=shown,
    )
    doctor.add_argument("--image", help="image of the Docker sandbox (not given: toolenv-python:1)")
    doctor.add_argument("--runtime", help="runtime of the engine to try it with, such as runsc")
    doctor.add_argument("--clean", action="store_true", help="remove the containers that dead processes left")

    serve = actions.add_parser("serve", help="run programs for others, over HTTP", formatter_class=shown)
    serve.add_argument("--sandbox", default="auto", help="auto, docker, bwrap or process")
    serve.add_argument("--workers", type=_at_least_1, default=2, help="how many programs run at once")
    serve.add_argument("--image", help="image of the Docker sandbox (not given: toolenv-python:1)")
    serve.add_argument("--runtime", help="runtime of the Docker engine, such as runsc (not given: the engine's own)")
    serve.add_argument("--memory-mb", type=_at_least_1, help="memory of a worker, in MiB (not given: 512)")
    serve.add_argument("--max-processes", type=_at_least_1, help="processes and threads of a worker (not given: 64)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at; beyond loopback it needs a token")
    serve.add_argument("--port", type=int, default=8080, help="port to listen at")
    serve.add_argument(
        "--token-env", default="TOOLENV_SANDBOX_TOKEN", help="environment variable that holds the token of the clients"
    )


def _fetch(options: argparse.Namespace, _: Sequence[str]) -> None:
    from toolenv.data.assets import ASSETS, fetch

    if options.name is None:
        wide = max(map(len, ASSETS))
        for name, asset in sorted(ASSETS.items()):
            print(f"{name:{wide}} {asset.version:10} {asset.licence:18} {asset.inside}")
        return
    print(fetch(options.name))


def _train(_: argparse.Namespace, rest: Sequence[str]) -> Any:
    named = bool(rest) and not rest[0].startswith("-")
    trainer, words = (rest[0], rest[1:]) if named else (TRAINERS[0], rest)
    if trainer not in TRAINERS:
        raise ConfigError(f"there is no trainer {trainer!r}; take {' or '.join(TRAINERS)}")
    return importlib.import_module(f"agents.{trainer}").main(list(words))


def _eval(options: argparse.Namespace, _: Sequence[str]) -> None:
    if options.episodes < 1 or options.num_envs < 1:
        raise ConfigError("--episodes and --num-envs must be at least 1")
    from agents.evaluate import evaluate
    from agents.policies import load_policy
    from toolenv.episode import write_episodes

    envs = _make_envs(options)
    try:
        policy = load_policy(_policy(options), envs.envs[0].format, device=options.device)
        played, summary = evaluate(
            policy.sampler,
            envs,
            options.episodes,
            encoder=policy.encoder,
            seed=options.seed,
            max_tokens=policy.max_tokens,
            progress=_show_progress,
        )
    finally:
        envs.close()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "episodes.jsonl"
    write_episodes(path, [rollout.episode for rollout in played.rollouts])
    _write_summary(options, summary, len(played.dropped))
    print(f"{options.env_id}, {options.model}: {summary}")
    for seed, reason in played.dropped:
        print(f"dropped task {seed}: {reason}", file=sys.stderr)
    print(f"episodes: {path}")


def _policy(options: argparse.Namespace) -> Any:
    from agents.policies import PolicySettings

    return PolicySettings(
        options.model,
        options.server,
        options.max_new_tokens,
        options.temperature,
        options.greedy,
        options.max_tokens,
    )


def _rescore(options: argparse.Namespace, _: Sequence[str]) -> None:
    from agents.rescore import rescore
    from agents.reward_spec import make_terms
    from rewards import RewardSum

    output = options.output or options.episodes.with_suffix(".rescored.jsonl")
    seen = rescore(
        options.episodes, output, RewardSum(make_terms(options.reward), options.on_error), resume=options.resume
    )
    print(f"{seen}\nepisodes: {output}")


def _validate(options: argparse.Namespace, _: Sequence[str]) -> int:
    from rewards import validate_tasks

    settings = options.env_kwargs if options.tasks else {"split": options.split, **options.env_kwargs}
    report = validate_tasks(options.env_id, options.tasks, limit=options.limit, seed=options.seed, **settings)
    print(report)
    return 0 if report.ok else EXIT_FAILED


def _corpus(options: argparse.Namespace, _: Sequence[str]) -> None:
    if options.action == "info":
        from toolenv.data.corpus_info import corpus_info

        print(corpus_info(options.corpus))
        return
    from toolenv.data.wiki.make import make_corpus

    made = make_corpus(options.dump, options.output, words=options.words, workers=options.workers)
    print(made.path)


def _index(options: argparse.Namespace, _: Sequence[str]) -> int:
    return cli_index.run(options)


def _workshop(options: argparse.Namespace, _: Sequence[str]) -> int | None:
    return workshop.run(options)


def _sandbox(options: argparse.Namespace, _: Sequence[str]) -> int:
    if options.action == "build":
        from toolenv.sandbox.build import build

        image = build(options.base, options.tag, from_this_python=options.from_this_python)
        print(f"{options.tag}: {image}")
        return 0
    if options.action == "doctor":
        from toolenv.sandbox.doctor import doctor

        works = doctor(options.image, runtime=options.runtime, clean=options.clean)
        return 0 if works else EXIT_FAILED
    from toolenv.sandbox.serve import serve

    token = os.environ.get(options.token_env)
    limits = {"memory_bytes": (options.memory_mb or 0) << 20, "max_processes": options.max_processes}
    serve(
        options.sandbox,
        host=options.host,
        port=options.port,
        token=token,
        workers=options.workers,
        limits={name: limit for name, limit in limits.items() if limit} or None,
        image=options.image,
        runtime=options.runtime,
    )
    return 0


def _make_envs(options: argparse.Namespace) -> Any:
    from agents.environments import make_envs
    from agents.models import played_as

    settings: dict[str, Any] = {"tasks": options.tasks} if options.tasks else {"split": options.split}
    settings |= options.env_kwargs
    if options.env_id == "ToolSearchQA-v0" and options.tasks and not settings.keys() & {"corpus", "index"}:
        _say(
            'your questions are asked of the bundled encyclopaedia; for another, --env-kwargs \'{"corpus": "FILE"}\'', 0
        )
    if options.format:
        settings["format"] = options.format
    return make_envs(options.env_id, min(options.num_envs, options.episodes), settings, played_as(options.model))


def _show_progress(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done}/{total} episodes", end=end, file=sys.stderr, flush=True)


def _write_summary(options: argparse.Namespace, summary: Any, dropped: int) -> None:
    record = {
        "env_id": options.env_id,
        "model": str(options.model),
        "seed": options.seed,
        "episodes": summary.episodes,
        "dropped": dropped,
        "unscored": summary.unscored,
        "masked": summary.masked,
        "successes": summary.successes,
        "success_rate": summary.success_rate,
        "interval_95": list(summary.interval),
        "mean_score": summary.mean_score,
        "calls_per_episode": summary.calls_per_episode,
        "turns_per_episode": summary.turns_per_episode,
        "reasons": summary.reasons,
        **summary.behaviour,
    }
    (options.output / "summary.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


COMMANDS: dict[str, Callable[[argparse.Namespace, Sequence[str]], Any]] = {
    "ablate": lambda options, _: cli_ablate.run(options),
    "corpus": _corpus,
    "fetch": _fetch,
    "eval": _eval,
    "index": _index,
    "train": _train,
    "rescore": _rescore,
    "sandbox": _sandbox,
    "toolrm": _workshop,
    "trm": _workshop,
    "validate": _validate,
    "view": lambda options, _: cli_view.run(options),
}

if __name__ == "__main__":
    sys.exit(main())
