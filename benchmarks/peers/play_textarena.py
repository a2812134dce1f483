"""TextArena: an environment of one question, made as its own are, under the wrapper that its games have by default."""

from __future__ import annotations

from typing import Any

import textarena as ta
from works import (
    ACTION,
    CYCLES,
    LOOK_UP,
    QUESTION,
    TURNS,
    LongEpisode,
    Pass,
    check,
    graded,
    long_action,
    play,
    shown_entry,
)

GAME = ta.ObservationType.GAME_MESSAGE
PLAYER = ta.ObservationType.PLAYER_ACTION


class QuestionEnv(ta.Env):
    """One question, one answer."""

    def reset(self, num_players: int, seed: int | None = None) -> None:
        """Ask."""
        self.state = ta.SinglePlayerState(num_players=num_players, seed=seed, max_turns=TURNS + 1)
        self.state.reset(game_state={}, player_prompt_function=lambda player_id, game_state: self.prompt())

    def prompt(self) -> str:
        """What is asked."""
        return QUESTION

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        """Grade."""
        self.state.add_observation(from_id=0, message=action, observation_type=PLAYER)
        self.state.set_outcome(reward=graded(action))
        return self.state.step()


class RegisterEnv(QuestionEnv):
    """The long episode."""

    def prompt(self) -> str:
        """What is asked."""
        return LOOK_UP

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        """Read an entry."""
        self.state.add_observation(from_id=0, message=action, observation_type=PLAYER)
        self.state.add_observation(message=shown_entry(self.state.turn), observation_type=GAME)
        return self.state.step()


def cheap(job: dict[str, Any]) -> Pass:
    """Make, reset and answer: the default wrapper would show an environment's earlier episodes, too."""

    def run() -> None:
        for _ in range(CYCLES):
            env = ta.make("Question-v0")
            env.reset(num_players=1)
            env.get_observation()
            done, _ = env.step(ACTION)
            rewards, _ = env.close()
            check(done and rewards[0] == 1.0, "the answer is right and ends the episode")

    return Pass(run, CYCLES)


def history(job: dict[str, Any]) -> Pass:
    """A long episode under the wrapper that shows everything so far as one text, which is encoded for every turn."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{job['tokenizer']}/tokenizer.json")
    env = ta.make("Register-v0")

    def shown() -> list[int]:
        return tokenizer.encode(env.get_observation()[1], add_special_tokens=False).ids

    def reset() -> list[int]:
        nonlocal env
        env = ta.make("Register-v0")
        env.reset(num_players=1)
        return shown()

    def turn(number: int) -> list[int]:
        env.step(long_action(number))
        return shown()

    facts: dict[str, Any] = {}
    return Pass(LongEpisode(reset, turn, facts), TURNS, facts=facts)


if __name__ == "__main__":
    for name, made in (("Question-v0", QuestionEnv), ("Register-v0", RegisterEnv)):
        ta.register(name, made, [ta.wrappers.LLMObservationWrapper])
    play({"cheap": cheap, "history": history})
