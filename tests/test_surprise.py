"""The loss that teaches extra layers what the model below expected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from agents_fixtures import make_model  # noqa: E402
from test_toolrm_training import QUICK, load_tiny, make_pairs  # noqa: E402

from rewards.scoring import HFScorer  # noqa: E402
from rewards.training.heads import make_classifier, own_parameters, parts_of, train_upper  # noqa: E402
from rewards.training.surprise import LEAST, MOST, Surprise  # noqa: E402
from rewards.training.toolrm.settings import ToolRMConfig  # noqa: E402
from rewards.training.toolrm.training import train_toolrm  # noqa: E402
from toolenv.errors import ConfigError  # noqa: E402

IDS = torch.tensor([[5, 9, 30, 7, 41], [8, 2, 11, 0, 0]])
LENGTHS = torch.tensor([5, 3])
EXTRA = replace(QUICK, lora_rank=0, extra_layers=1)


def make_surprise(extra_layers: int = 2) -> tuple[Any, Any, Surprise]:
    """A causal model, a classifier over a copy of it, and what reads the classifier's surprise."""
    causal, other = make_model(), make_model()
    vocabulary = other.get_output_embeddings()
    classifier = make_classifier(other, "outcome", pad_token_id=0, extra_layers=extra_layers)
    return causal, classifier, Surprise(parts_of(classifier)[0], vocabulary, extra_layers)


def told_by(surprise: Surprise, classifier: Any, hidden: Any = None) -> float:
    with surprise.watching():
        out = parts_of(classifier)[0](input_ids=IDS, attention_mask=(IDS > 0).long()).last_hidden_state
    return float(surprise.loss(out if hidden is None else hidden, IDS, LENGTHS).detach())


def log_probabilities(causal: Any, row: int) -> Any:
    """Of each token but the first, by the causal model itself, alone in its batch."""
    ids = IDS[row, : LENGTHS[row]]
    with torch.no_grad():
        logits = causal(input_ids=ids[None]).logits[0, :-1]
    return torch.stack([logits[i].log_softmax(-1)[ids[i + 1]] for i in range(len(ids) - 1)])


@pytest.mark.parametrize("extra_layers", [1, 2])
def test_it_is_nothing_where_each_log_probability_is_told(extra_layers: int) -> None:
    causal, classifier, surprise = make_surprise(extra_layers)
    torch.nn.init.ones_(surprise.read.weight)
    size = surprise.read.in_features
    hidden = torch.full((*IDS.shape, size), float("nan"))  # what must not be read: first tokens, and padding
    for row in range(2):
        for place, truth in enumerate(log_probabilities(causal, row), start=1):
            hidden[row, place] = truth / size
    assert told_by(surprise, classifier, hidden) == pytest.approx(0.0, abs=1e-6)


def test_it_is_one_where_their_mean_is_told() -> None:
    causal, classifier, surprise = make_surprise()
    truth = torch.cat([log_probabilities(causal, row) for row in range(2)])
    assert truth.min() > LEAST
    torch.nn.init.constant_(surprise.read.bias, float(truth.mean()))
    count = len(truth)
    assert told_by(surprise, classifier) == pytest.approx((count - 1) / count, rel=1e-5)


def test_it_teaches_extra_layers_alone_and_leaves_what_they_are_told_by() -> None:
    _, classifier, surprise = make_surprise(1)
    train_upper(classifier, 1)
    torch.nn.init.normal_(surprise.read.weight)
    with surprise.watching():
        hidden = parts_of(classifier)[0](input_ids=IDS).last_hidden_state
    surprise.loss(hidden, IDS, LENGTHS).backward()
    learns = {name for name, p in classifier.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learns
    assert all("layers.2." in name or name.endswith("norm.weight") for name in learns), learns
    assert {name for name, _ in surprise.named_parameters()} == {"read.weight", "read.bias"}


def test_no_more_tokens_are_compared_than_said() -> None:
    _, classifier, surprise = make_surprise()
    ids = torch.randint(1, 50, (3, MOST), generator=torch.Generator().manual_seed(0))
    seen: list[int] = []
    surprise.read.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    with surprise.watching():
        hidden = parts_of(classifier)[0](input_ids=ids).last_hidden_state
    surprise.loss(hidden, ids, torch.full((3,), MOST))
    assert MOST / 2 < seen[0] <= MOST


def test_what_the_model_had_before_is_told_from_what_is_new() -> None:
    _, classifier, _ = make_surprise(2)
    train_upper(classifier, 3)
    own = own_parameters(classifier, 2)
    names = {name for name, p in classifier.named_parameters() if id(p) in own}
    assert names
    assert all("layers.1." in name or name.endswith("norm.weight") for name in names), names


def test_a_toolrm_learns_with_it_and_is_saved_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    loss = Surprise.loss

    def kept(self: Surprise, *given: Any) -> Any:
        losses.append(float((found := loss(self, *given)).detach()))
        return found

    monkeypatch.setattr(Surprise, "loss", kept)
    config = replace(EXTRA, surprise=1.0, own_rate=0.1, epochs=15, patience=99)
    record = train_toolrm(make_pairs(), "tiny", tmp_path / "rm", config, load_model=load_tiny)
    assert record["held_out_accuracy"] == 1.0
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert not any("surprise" in name for name in HFScorer.from_pretrained(tmp_path / "rm").model.state_dict())


def test_layers_of_before_learn_at_their_own_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: set[tuple[bool, float]] = set()
    from rewards.training.toolrm.trainer import PreferenceTrainer

    made = PreferenceTrainer.create_optimizer

    def kept(self: Any, *given: Any, **named: Any) -> Any:
        optimizer = made(self, *given, **named)
        rates.update((id(p) in self.slow, group["lr"]) for group in optimizer.param_groups for p in group["params"])
        assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(
            p.requires_grad for p in self.model.parameters()
        )
        return optimizer

    monkeypatch.setattr(PreferenceTrainer, "create_optimizer", kept)
    train_toolrm(make_pairs(), "tiny", tmp_path / "rm", replace(EXTRA, own_rate=0.25), load_model=load_tiny)
    assert [slow for slow, _ in sorted(rates)] == [False, True]
    assert [rate for _, rate in sorted(rates)] == pytest.approx([1e-2, 2.5e-3])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"surprise": 0.5}, "goes with extra_layers"),
        ({"surprise": -1.0}, "surprise must be at least 0"),
        ({"own_rate": 0.0}, "own_rate must be above 0"),
        ({"own_rate": 1.5}, "own_rate must be above 0"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ToolRMConfig(**wrong)  # type: ignore[arg-type]


def test_it_needs_rows_that_share_prompts(tmp_path: Path) -> None:
    config = replace(EXTRA, surprise=0.5, layout="pairs")
    with pytest.raises(ConfigError, match="layout 'shared'"):
        train_toolrm(make_pairs(), "tiny", tmp_path / "rm", config, load_model=load_tiny)
