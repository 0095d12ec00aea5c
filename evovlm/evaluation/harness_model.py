"""A loaded model behind the interface of the lm-evaluation-harness; imported only if the harness is installed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from evovlm.errors import TaskError
from evovlm.evaluation.batches import Answers, Batches, OnAnswers
from evovlm.models.decoding.generation import generate
from evovlm.models.decoding.likelihood import Continuation, likelihoods
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt
from evovlm.tasks.task import Decoding

# What the harness's own models assume if neither config nor tokenizer says it, and how much they generate at most.
_LONGEST = 2048
_MOST_NEW_TOKENS = 256
_NO_LIMIT = 10**9
_KNOWN_SETTINGS = {"until", "max_gen_toks", "do_sample", "temperature", "num_beams", "repetition_penalty"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoder:
    """A model's tokenizer that keeps what it has encoded: every candidate of a search gets the same requests."""

    tokenizer: Any
    longest: int
    _known: dict[tuple[str, bool], list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Encoder":
        """Return the encoder of a model; `longest` is its context in tokens."""
        config = loaded.model.config.get_text_config()
        limits = (getattr(config, "max_position_embeddings", None), loaded.tokenizer.model_max_length)
        longest = min((int(each) for each in limits if each is not None and each < _NO_LIMIT), default=_LONGEST)
        return cls(tokenizer=loaded.tokenizer, longest=longest)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the text's token ids, with the special tokens around it if `special`."""
        key = (text, special)
        if key not in self._known:
            self._known[key] = list(self.tokenizer(text, add_special_tokens=special).input_ids)
        return self._known[key]


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A loaded model that the harness asks for likelihoods and texts; prompts that are too long lose their start."""

    def __init__(self, loaded: LoadedModel, *, encoder: Encoder, batches: Batches) -> None:
        super().__init__()
        self.tokenizer = loaded.tokenizer
        self._loaded = loaded
        self._encoder = encoder
        self._batches = batches

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a text without context: the one that begins a text, else the one that ends it."""
        begins = self.tokenizer.bos_token_id
        return int(begins) if begins is not None else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the token ids, by default with special tokens unless the text starts with them."""
        if add_special_tokens is None:
            begins = self.tokenizer.bos_token
            add_special_tokens = begins is None or not string.startswith(begins)
        return self._encoder.encode(string, special=add_special_tokens)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002
        """Return (log-probability, is greedy) of each continuation."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._likelihoods([self._fitting(context, tokens) for _, context, tokens in requests])

    def _fitting(self, context: list[int], tokens: list[int]) -> Continuation:
        """Return what fits into the model: the end of a text that is too long, as in the harness's own models."""
        n = len(tokens)
        kept = (*context, *tokens)[-(self._encoder.longest + 1) :]
        if not 0 < n < len(kept):
            raise TaskError(
                f"a harness task has a continuation of {n} tokens; the model takes {self._encoder.longest}."
            )
        return Continuation(context=kept[:-n], tokens=kept[-n:])

    def _likelihoods(self, continuations: Sequence[Continuation]) -> list[tuple[float, bool]]:
        def found(rows: Sequence[int], _: OnAnswers) -> Answers:
            likely = likelihoods(self._loaded, [continuations[row] for row in rows])
            return Answers([[each.log_probability, each.is_greedy] for each in likely], 0)

        lengths = [len(each.context) + len(each.tokens) for each in continuations]
        return [(float(total), bool(greedy)) for total, greedy in self._batches.ask(lengths, found)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Return the log-probability of each whole text, in windows as long as the model's context."""
        windows: list[Continuation] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(
                token_list=tokens, prefix_token=self.prefix_token_id, max_seq_len=self._encoder.longest, context_len=1
            ):
                context, continuation = make_disjoint_window(window)
                windows.append(Continuation(context=tuple(context), tokens=tuple(continuation)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        for owner, (total, _) in zip(owners, self._likelihoods(windows), strict=True):
            totals[owner] += total
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Return the model's answer to each prompt, up to the first stop string, stripped; never samples."""
        by_decoding: dict[Decoding, list[int]] = {}
        for row, request in enumerate(requests):
            by_decoding.setdefault(_decoding(request.args[1]), []).append(row)
        texts: dict[int, str] = {}
        for decoding, rows in by_decoding.items():
            prompts = [self._prompt(requests[row].args[0], decoding) for row in rows]
            texts.update(zip(rows, self._texts(prompts, decoding), strict=True))
        return [texts[row] for row in range(len(requests))]

    def _prompt(self, text: str, decoding: Decoding) -> Prompt:
        most = self._encoder.longest - decoding.max_new_tokens
        if most < 1:
            raise TaskError(
                f"a harness task asks for {decoding.max_new_tokens} new tokens, but the model's context has "
                f"{self._encoder.longest}.\n    Lower max_gen_toks in the task's generation_kwargs."
            )
        return Prompt(ids=torch.tensor(self.tok_encode(text)[-most:]))

    def _texts(self, prompts: Sequence[Prompt], decoding: Decoding) -> list[str]:
        def found(rows: Sequence[int], on_answers: OnAnswers) -> Answers:
            chosen = [prompts[row] for row in rows]
            generated = generate(self._loaded, chosen, decoding=decoding, on_answers=on_answers)
            return Answers(list(generated.texts), generated.tokens)

        return self._batches.ask([len(prompt.ids) for prompt in prompts], found)


def _decoding(settings: dict[str, Any]) -> Decoding:
    """Return a task's `generation_kwargs` as ours. Raises TaskError for sampling and unsupported settings."""
    wanted = dict(normalize_gen_kwargs(settings, _MOST_NEW_TOKENS))
    unknown = sorted(set(wanted) - _KNOWN_SETTINGS)
    if unknown or wanted["do_sample"]:
        what = "sampling" if wanted["do_sample"] else ", ".join(unknown)
        raise TaskError(
            f"a harness task's generation_kwargs ask for {what}; answers here are always the most likely ones, so that "
            "a score can be repeated.\n    Set do_sample: false and leave the rest out."
        )
    return Decoding(
        max_new_tokens=int(wanted["max_gen_toks"]),
        beams=int(wanted.get("num_beams", 1)),
        repetition_penalty=float(wanted.get("repetition_penalty", 1.0)),
        stop=tuple(wanted["until"]),
    )
