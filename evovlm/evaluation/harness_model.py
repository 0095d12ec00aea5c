"""A loaded model behind the interface of the lm-evaluation-harness; imported only if the harness is installed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from evovlm.errors import NoChatTemplate, TaskError
from evovlm.evaluation.batches import Answers, Batches, OnAnswers
from evovlm.models.chat import RAISED_BY_TEMPLATES, special_tokens
from evovlm.models.chat_template import bounded_template
from evovlm.models.decoding.generation import generate
from evovlm.models.decoding.likelihood import Continuation, likelihoods
from evovlm.models.loading import LoadedModel
from evovlm.models.prompt import Prompt, context_tokens
from evovlm.tasks.decoding import Decoding, DecodingChanges
from evovlm.tasks.prompts import ChatSettings
from evovlm.thoughts import ThoughtMarks

# What the harness's own models assume if neither config nor tokenizer says it, and how much they generate at most.
_LONGEST = 2048
_MOST_NEW_TOKENS = 256
_NO_LIMIT = 10**9
_KNOWN_SETTINGS = frozenset(
    {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty"}
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoder:
    """A model's tokenizer that keeps what it has encoded: every candidate of a search gets the same requests."""

    tokenizer: Any
    longest: int
    _known: dict[tuple[str, bool], list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Encoder":
        """Return the encoder of a model; `longest` is its context in tokens."""
        limits = (context_tokens(loaded), loaded.tokenizer.model_max_length)
        longest = min((int(each) for each in limits if each is not None and each < _NO_LIMIT), default=_LONGEST)
        return cls(tokenizer=loaded.tokenizer, longest=longest)

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the text's token ids, with the special tokens around it if `special`."""
        key = (text, special)
        if key not in self._known:
            self._known[key] = list(self.tokenizer(text, add_special_tokens=special).input_ids)
        return self._known[key]


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A loaded model that the harness asks for likelihoods and texts; prompts that are too long lose their start.

    `changes` replace parts of a task's decoding. Of a text, only what follows the last `think_end` is returned.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        encoder: Encoder,
        batches: Batches,
        changes: DecodingChanges | None = None,
        think_end: str | None = None,
    ) -> None:
        super().__init__()
        self._changes = changes
        self._think_end = _as_text(loaded, think_end)
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
        """Return the model's answer to each prompt, up to the first stop string; spaces around it stay."""
        by_decoding: dict[Decoding, list[int]] = {}
        # A request that is repeated is in the list several times.
        seen: Counter[int] = Counter()
        repeats = []
        for request in requests:
            repeats.append(seen[id(request)])
            seen[id(request)] += 1
        for row, request in enumerate(requests):
            by_decoding.setdefault(_decoding(request.args[1], self._changes), []).append(row)
        texts: dict[int, str] = {}
        for decoding, rows in by_decoding.items():
            prompts = [
                replace(
                    self._prompt(requests[row].args[0], decoding),
                    draw=decoding.draw_of(f"{requests[row].doc_id}/{requests[row].idx}", repeats[row]),
                )
                for row in rows
            ]
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

    @property
    def _kept_marks(self) -> ThoughtMarks:
        """The special token that ends a thought, if it is one: the harness's own models skip all others."""
        end = self._think_end
        is_special = end is not None and end in special_tokens(self._loaded)
        return ThoughtMarks(tags=(("", end),) if end is not None and is_special else (), channels=False)

    def _final(self, text: str, decoding: Decoding) -> str:
        """Return what the harness's own models return of a text: what follows the thought, up to a stop string."""
        if self._think_end is not None:
            text = text.split(self._think_end)[-1].lstrip()
        for stop in (*decoding.stop, self.tokenizer.eos_token):
            text = text.split(stop)[0] if stop else text
        return text

    def _texts(self, prompts: Sequence[Prompt], decoding: Decoding) -> list[str]:
        def found(rows: Sequence[int], on_answers: OnAnswers) -> Answers:
            chosen = [prompts[row] for row in rows]
            generated = generate(self._loaded, chosen, decoding=decoding, marks=self._kept_marks, on_answers=on_answers)
            return Answers([self._final(text, decoding) for text in generated.texts], generated.tokens)

        return self._batches.ask([len(prompt.ids) for prompt in prompts], found)


def _decoding(settings: dict[str, Any], changes: DecodingChanges | None) -> Decoding:
    """Return a task's `generation_kwargs` as ours, with `changes`. Raises TaskError for unsupported settings."""
    wanted = dict(normalize_gen_kwargs(settings, _MOST_NEW_TOKENS))
    unknown = sorted(set(wanted) - _KNOWN_SETTINGS)
    if unknown:
        raise TaskError(
            f"a harness task's generation_kwargs ask for {', '.join(unknown)}, which is not supported. Leave it out."
        )
    is_drawn = bool(wanted["do_sample"])
    decoding = Decoding(
        max_new_tokens=int(wanted["max_gen_toks"]),
        beams=int(wanted.get("num_beams", 1)),
        repetition_penalty=float(wanted.get("repetition_penalty", 1.0)),
        stop=tuple(each for each in wanted["until"] if each),
        temperature=float(wanted.get("temperature") or 1.0) if is_drawn else 0.0,
        top_p=float(wanted.get("top_p", 1.0)) if is_drawn else 1.0,
        top_k=int(wanted.get("top_k", 0)) if is_drawn else 0,
    )
    return decoding if changes is None else changes.applied(decoding)


def _as_text(loaded: LoadedModel, think_end: str | None) -> str | None:
    """Return the text that ends a thought; that of a token where its number is given, as the harness takes it."""
    if think_end is None or not think_end.isdigit():
        return think_end
    return str(loaded.tokenizer.convert_ids_to_tokens(int(think_end)))


def chat_text(
    loaded: LoadedModel, chat: ChatSettings, history: list[dict[str, str]], *, add_generation_prompt: bool = True
) -> str:
    """Return the text of messages in the model's chat template, without a start of the answer if they hold one.

    As the harness does, it leaves the system message out for a template that refuses it. Raises TaskError for a model
    without a template, or with one that does not take the messages.
    """
    writer = loaded.tokenizer if loaded.tokenizer.chat_template else loaded.processor or loaded.tokenizer
    if not writer.chat_template:
        raise NoChatTemplate(
            f"{loaded.folder}: has no chat template, which --apply-chat-template (prompt: chat) needs.\n"
            "    Leave it out, or add a template."
        )

    def rendered(messages: list[dict[str, str]]) -> str:
        with bounded_template(writer.chat_template) as template:
            text: str = writer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **chat.template,
            )
        return text

    try:
        try:
            return rendered(history)
        except TemplateError:
            return rendered([each for each in history if each["role"] != "system"])
    except RAISED_BY_TEMPLATES as error:
        raise TaskError(
            f"{loaded.folder}: its chat template does not take the task's messages ({error}). Leave out "
            "--apply-chat-template."
        ) from error
