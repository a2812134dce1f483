"""What vLLM is asked for, in process and over HTTP, and what its answer means as an action."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from agents.sampling.base import Generation, SamplingParams, action_text
from agents.sampling.stops import StopStrings
from agents.tokens import end_ids
from toolenv.errors import ConfigError, SamplerError

_CUTS = "cuts the distribution that tokens come from, and the ratio of new to old policy is wrong by what it cuts away"
_BENDS = "bends the distribution that tokens come from, and the trained policy does not know it"
BIASED = {
    **dict.fromkeys(("top_p", "top_k", "min_p", "allowed_token_ids", "bad_words", "structured_outputs"), _CUTS),
    **dict.fromkeys(("guided_json", "guided_regex", "response_format"), _CUTS),
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias"), _BENDS),
    **dict.fromkeys(("min_tokens", "thinking_token_budget", "logits_processors"), _BENDS),
    "temperature": "belongs into SamplingParams, because the trained policy is divided by it too",
    "generation_config": "may bring in top_p and others; it has to be 'vllm', which brings in nothing",
    "override_generation_config": "sets sampling behind the sampler's back",
    "logprobs_mode": "has to be 'processed_logprobs': all others leave the temperature out of what is recorded",
    "n": "is one: each prompt has its seed, and gets one action",
    "use_beam_search": "draws nothing",
    "seed": "comes with each call of generate",
}
"""Options of vLLM that are refused, and why."""


def refuse_biased(options: Mapping[str, Any]) -> None:
    """Refuse options under which a recorded log-probability would not be that of the draw.

    Raises:
        ConfigError: There is one among them.

    Example:
        >>> refuse_biased({"top_p": 0.9})
        Traceback (most recent call last):
        toolenv.errors.ConfigError: top_p=0.9 is refused: it cuts the distribution that tokens come from, ...
    """
    for name, value in options.items():
        if name in BIASED:
            raise ConfigError(f"{name}={value!r} is refused: it {BIASED[name]}")


class ActionFormat:
    """Writes requests, and reads answers as actions under the rules of ``HFSampler``.

    Args:
        tokenizer: The policy's tokenizer.
        params: How to sample.
        ends: End tokens besides those of tokenizer and chat template, such as the model's generation settings name.
    """

    def __init__(self, tokenizer: Any, params: SamplingParams, ends: Collection[int] = ()) -> None:
        self.tokenizer = tokenizer
        self.params = params
        self.ends = frozenset(end_ids(tokenizer)) | frozenset(ends)
        self._stops = StopStrings(tokenizer, params.stop)

    def fields(self) -> dict[str, Any]:
        """Fields of a request but for prompt and seed; what would bias is switched off by name, whatever defaults are.

        A greedy action is asked for at temperature 0, and vLLM gives its log-probabilities at temperature 1.
        """
        return {
            "max_tokens": self.params.max_new_tokens,
            "temperature": 0.0 if self.params.greedy else self.params.temperature,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "min_tokens": 0,
            "stop": list(self.params.stop),
            "include_stop_str_in_output": True,
            "stop_token_ids": sorted(self.ends),
            "ignore_eos": True,  # the end tokens are named; what vLLM takes for one besides them is none
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "logprobs": 0,  # of the sampled token alone
        }

    def read(
        self, ids: Sequence[int], logprobs: Sequence[float], finish_reason: str | None, version: int
    ) -> Generation:
        """The action that was sampled.

        Raises:
            SamplerError: An answer that is no action.
        """
        if finish_reason not in ("stop", "length") or not ids:
            raise SamplerError(
                f"vLLM ended an action of {len(ids)} tokens by {finish_reason!r}, not by a stop or a length"
            )
        given = sum(map(math.isfinite, logprobs))
        if not len(ids) == len(logprobs) == given:
            raise SamplerError(f"vLLM gave {given} finite log-probabilities for an action of {len(ids)} tokens")
        ids, logprobs = tuple(ids), tuple(logprobs)
        end = self._stops.end(ids)
        if end is not None:  # nothing comes after it, also where vLLM samples several tokens at once
            ids, logprobs = ids[:end], logprobs[:end]
        ended = end is not None or ids[-1] in self.ends
        reason: Literal["stop", "length"] = "length" if finish_reason == "length" and not ended else "stop"
        return Generation(ids, logprobs, action_text(self.tokenizer, ids, self.ends), reason, version)
