"""Rows that hold a prompt once, as a batch and through a decoder.

The prompts run first, and their keys and values are what the answers attend to, beside themselves; the head is read at
each answer's last token. So a reward is what it is where the answer stands alone behind its prompt, and gradients flow
into the prompt from all its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rewards.training.toolrm.rows import PreferenceRow

Batch = dict[str, Tensor]


class States(Protocol):
    """What layers gave for rows, by row."""

    def of(self, index: int) -> list[Tensor]:
        """States ``(L, D)`` of a row's prompt, then of each of its answers."""
        ...


class SharedPromptCollator:
    """Makes a batch of rows.

    Args:
        pad_token_id: Of the tokenizer.
        lower: States below the trained layers, by row; ``None``: all layers run.
    """

    def __init__(self, pad_token_id: int, lower: States | None = None) -> None:
        self.pad_token_id, self.lower = pad_token_id, lower

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch.

        Returns:
            ``prompts`` ``(B, P)`` and ``answers`` ``(A, L)``, padded on the right, and ``prompt_lengths`` and
            ``answer_lengths``; ``row``: whose answer each is; ``preferred`` ``(N, 2)``: places of the chosen and the
            rejected answer of each pair; ``attention_mask``: a one for each token that is no padding; with lower
            states, ``prompt_states`` ``(B, P, D)`` and ``answer_states`` ``(A, L, D)``.
        """
        prompts, answers = [row["prompt"] for row in rows], [answer for row in rows for answer in row["answers"]]
        firsts = [sum(len(before["answers"]) for before in rows[:index]) for index in range(len(rows))]
        preferred = [
            (first + chosen, first + rejected)
            for first, row in zip(firsts, rows, strict=True)
            for chosen, rejected in row["pairs"]
        ]
        batch = {
            "prompts": self._padded(prompts),
            "prompt_lengths": torch.tensor([len(ids) for ids in prompts]),
            "answers": self._padded(answers),
            "answer_lengths": torch.tensor([len(ids) for ids in answers]),
            "row": torch.tensor([index for index, row in enumerate(rows) for _ in row["answers"]]),
            "preferred": torch.tensor(preferred),
            "attention_mask": torch.ones(sum(map(len, [*prompts, *answers])), dtype=torch.long),
        }
        if self.lower is not None:
            states = [self.lower.of(row["row"]) for row in rows]
            batch["prompt_states"] = pad_sequence([prompt for prompt, *_ in states], batch_first=True)
            batch["answer_states"] = pad_sequence([a for _, *of_row in states for a in of_row], batch_first=True)
        return batch

    def _padded(self, parts: Sequence[Sequence[int]]) -> Tensor:
        padded = torch.full((len(parts), max(map(len, parts))), self.pad_token_id)
        for index, ids in enumerate(parts):
            padded[index, : len(ids)] = torch.tensor(ids)
        return padded


def shared_records(rows: Sequence[PreferenceRow], first: int = 0) -> list[dict[str, Any]]:
    """Records of a data set that ``SharedPromptCollator`` reads, whose rows count from ``first``.

    ``chosen_ids`` tells TRL that they are in tokens.
    """
    return [
        {
            "row": first + place,
            "prompt": row.prompt,
            "answers": row.answers,
            "pairs": row.pairs,
            "chosen_ids": (),
            "rejected_ids": (),
        }
        for place, row in enumerate(rows)
    ]


def run_rows(
    backbone: Any,
    prompts: Tensor,
    prompt_lengths: Tensor,
    answers: Tensor,
    answer_lengths: Tensor,
    row: Tensor,
    prompt_states: Tensor | None = None,
    answer_states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A decoder over prompts, and over answers that see their prompts' keys.

    Args:
        backbone: The decoder, also under PEFT; with states, one that begins where they end.
        prompts: As ``SharedPromptCollator`` makes them, like the others.
        prompt_lengths: Tokens of each prompt.
        answers: Answers.
        answer_lengths: Tokens of each answer.
        row: Whose answer each is.
        prompt_states: What the layers below gave for the prompts.
        answer_states: What they gave for the answers.

    Returns:
        What it gives for the prompts ``(B, P, D)``, and for the answers ``(A, L, D)``.
    """
    mask, answer_mask = _real(prompts, prompt_lengths), _real(answers, answer_lengths)
    of_prompts = backbone(**_given(prompts, prompt_states), attention_mask=mask, use_cache=True)
    cache = of_prompts.past_key_values
    cache.batch_select_indices(row)
    # A shorter prompt leaves a hole between it and its answers, which the mask covers.
    of_answers = backbone(
        **_given(answers, answer_states),
        attention_mask=torch.cat([mask[row], answer_mask], dim=1),
        position_ids=prompt_lengths[row, None] + torch.arange(answers.shape[1], device=answers.device),
        past_key_values=cache,
        use_cache=True,
    )
    return of_prompts.last_hidden_state, of_answers.last_hidden_state


def read_answers(backbone: Any, head: Any, answer_lengths: Tensor, **inputs: Any) -> tuple[Tensor, Tensor]:
    """The head, in float32, at the last token of each answer.

    Args:
        backbone: As ``run_rows`` takes it, like the others.
        head: A linear head in float32.
        answer_lengths: Tokens of each answer.
        inputs: Of ``run_rows``.

    Returns:
        Rewards ``(A,)``, and what the backbone gave for the answers ``(A, L, D)``.
    """
    _, hidden = run_rows(backbone, answer_lengths=answer_lengths, **inputs)
    picked = hidden[torch.arange(len(answer_lengths), device=hidden.device), answer_lengths - 1].float()
    with torch.autocast(picked.device.type, enabled=False):
        rewards: Tensor = head(picked).squeeze(-1)
    return rewards, hidden


def _given(ids: Tensor, states: Tensor | None) -> dict[str, Tensor]:
    return {"input_ids": ids} if states is None else {"inputs_embeds": states}


def _real(ids: Tensor, lengths: Tensor) -> Tensor:
    """A one for each token, a zero for padding."""
    return (torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]).long()
