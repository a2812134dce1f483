"""The warm start learns what experts show, only from the tokens that count, and stops at its plateau."""

from __future__ import annotations

import pytest
import torch

from agents.lora import add_lora, without_lora
from agents.nano import new_nano, rename_entities, train_tokenizer
from agents.sft import SFTConfig, action_loss, encode_episode, fit
from agents.tokens import ConversationEncoder
from tests.toys import CAPITALS, toy_env
from toolenv import ConfigError, SearchR1
from toolenv.messages import ToolCall


def episodes(countries):
    played = []
    for country in countries:
        env = toy_env(format=SearchR1(template="$question"))
        env.reset(options={"task": country})
        env.step(env.format.write_call(ToolCall("search", {"query": country})))
        env.step(env.format.write_answer(CAPITALS[country]))
        played.append(env.episode)
    return played


@pytest.fixture(scope="module")
def encoder():
    texts = ["".join(m.content for m in e.messages()) for e in episodes(CAPITALS)]
    return ConversationEncoder(train_tokenizer(texts, vocabulary=300), SearchR1())


def test_actions_and_context_are_told_apart(encoder):
    episode = episodes(["Peru"])[0]
    history = encode_episode(encoder, episode)
    spoken = [
        encoder.tokenizer.decode([i for i, t in zip(history.ids, history.turn_ids, strict=True) if t == turn])
        for turn in range(2)
    ]
    assert spoken == [turn.action for turn in episode.turns]
    assert "The capital of Peru is Lima" in encoder.tokenizer.decode(history.ids)


def test_fitting_learns_and_keeps_the_best(encoder):
    model = new_nano(encoder.tokenizer, seed=0)
    config = SFTConfig(learning_rate=3e-3, batch_episodes=4, warmup_updates=2, max_updates=24, eval_every=6)
    curve = fit(model, encoder, episodes(CAPITALS), episodes(CAPITALS), config)
    assert [look.update for look in curve] == [6, 12, 18, 24]
    assert curve[-1].validation_loss < 0.5 * curve[0].validation_loss
    histories = [encode_episode(encoder, e) for e in episodes(CAPITALS)]
    pad = encoder.tokenizer.pad_token_id
    best = min(look.validation_loss for look in curve)
    assert action_loss(model, histories, config, pad) == pytest.approx(best, abs=config.min_improvement)


def test_it_stops_when_the_held_out_loss_no_longer_falls(encoder):
    model = new_nano(encoder.tokenizer, seed=0)
    config = SFTConfig(learning_rate=1e-9, batch_episodes=4, max_updates=40, eval_every=1, patience=3)
    assert len(fit(model, encoder, episodes(CAPITALS), episodes(CAPITALS), config)) == 4


def test_one_seed_gives_one_result(encoder):
    def run(seed):
        model = new_nano(encoder.tokenizer, seed=0)
        config = SFTConfig(batch_episodes=2, max_updates=3, eval_every=3, context_share=0.5, seed=seed)
        fit(model, encoder, episodes(CAPITALS), episodes(["Peru"]), config)
        return model.state_dict()["model.norm.weight"]

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_what_was_stopped_goes_on_to_the_same_end(encoder, tmp_path):
    settings = {"batch_episodes": 2, "max_updates": 7, "eval_every": 2, "context_share": 0.5, "patience": 99}
    checkpoint = tmp_path / "stage.pt"

    class Killed(Exception):
        pass

    def kill(look):
        if look.update == 4:
            raise Killed

    def run(**options):
        model = new_nano(encoder.tokenizer, seed=0)
        curve = fit(model, encoder, episodes(CAPITALS), episodes(["Peru"]), SFTConfig(**settings), **options)
        return model.state_dict(), curve

    whole, curve = run()
    with pytest.raises(Killed):
        run(checkpoint=checkpoint, progress=kill)
    resumed, again = run(checkpoint=checkpoint)
    assert again == curve
    assert [look.update for look in curve] == [2, 4, 6, 7]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    # One that was done is not done again.
    done, _ = run(checkpoint=checkpoint, progress=kill)
    assert all(torch.equal(done[name], whole[name]) for name in whole)


def test_lora_learns_and_the_weights_stay(encoder, tmp_path):
    def run(**options):
        model = add_lora(new_nano(encoder.tokenizer, seed=0), rank=4)
        config = SFTConfig(learning_rate=2e-2, batch_episodes=4, warmup_updates=1, max_updates=12, eval_every=6)
        curve = fit(model, encoder, episodes(CAPITALS), episodes(CAPITALS), config, **options)
        return model, curve

    kept = tmp_path / "stage.pt"
    model, curve = run(checkpoint=kept)
    assert curve[-1].validation_loss < curve[0].validation_loss - 0.05
    bare = new_nano(encoder.tokenizer, seed=0).state_dict()
    with without_lora(model):
        frozen = model.get_base_model().state_dict()
    assert all(torch.equal(frozen[name.replace("proj.", "proj.base_layer.")], bare[name]) for name in bare)
    # What is kept of a look is what was trained, and no more; and the best of it is in the model.
    saved = torch.load(kept, weights_only=True)
    assert {name.split(".")[-3] for name in saved["model"]} == {"lora_A", "lora_B"}
    again, _ = run(checkpoint=kept)
    state = again.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in model.state_dict().items())
    histories = [encode_episode(encoder, e) for e in episodes(CAPITALS)]
    assert action_loss(model, histories, SFTConfig(), None) == pytest.approx(curve[-1].validation_loss, abs=1e-4)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="max_updates must be positive"):
        SFTConfig(max_updates=0)


def test_renamed_entities_keep_an_episode_consistent():
    from agents.experts import SearchExpert
    from agents.rollout import play
    from toolenv.envs.search_qa import SearchQAEnv
    from toolenv.seeding import rng

    form = SearchR1(template="$question")
    env = SearchQAEnv(split="validation", retriever="bm25", format=form, top_k=1)
    episode = play(env, SearchExpert(form, rng(0), ("title",)), seed=3)
    changed = [rename_entities(episode, seed) for seed in range(8)]
    assert any(e.prompt != episode.prompt for e in changed)
    assert rename_entities(episode, 5) == rename_entities(episode, 5)
    for other in changed:
        query = form.parse(other.turns[0].action).calls[0].arguments["query"]
        assert query in other.prompt[0].content
        assert query in other.turns[0].observation[0].content
        assert len(other.turns) == len(episode.turns)
