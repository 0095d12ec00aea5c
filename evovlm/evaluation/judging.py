"""Asks a judge about answers: another model, behind an endpoint that speaks OpenAI's protocol (the extra `judge`).

The key is read from OPENAI_API_KEY alone; it is in no file and no message. What a judge wrote is kept by content in
CACHE/evovlm/judge (XDG_CACHE_HOME, else ~/.cache), so that the same question is never paid for twice.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from evovlm.errors import JudgeStopped, TaskError, first_line
from evovlm.files import append_to, make_folder, write_file
from evovlm.foreign_json import JsonObject, read_json
from evovlm.masking import masked
from evovlm.tasks.metrics.judges import JUDGES, JudgeRow, Verdict
from evovlm.tasks.metrics.scoring import Answer, Measured, Scoring
from evovlm.tasks.metrics.table import score_final
from evovlm.tasks.sample import Sample
from evovlm.thoughts import ThoughtMarks

if TYPE_CHECKING:
    from openai import OpenAI

KEY = "OPENAI_API_KEY"
_ADDRESS = "OPENAI_BASE_URL"
_TRIES = 5
_LONGEST_WAIT_S = 60.0
_TIMEOUT_S = 120.0
_AT_ONCE = 8
"""Questions that a judge is asked at a time."""
_MOST_REPLY = 10_000
"""Characters of a reply that are read: a judge writes at most 1024 tokens."""
# As llm-jp-eval-mm asks. Models that think refuse some of these, and are then asked without them.
_PARAMETERS = {"max_tokens": 1024, "temperature": 0, "seed": 0}
_RENAMED = {"max_tokens": "max_completion_tokens"}
_REFUSED_FOR_ALL = (401, 403, 404)
_REFUSED_FOR_ONE = (400, 413, 422)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeChoice:
    """A judge: the `model`, the `url` of its endpoint (None: OpenAI's, or OPENAI_BASE_URL), and a budget of calls.

    `budget` is the largest number of calls, retries included, cached ones not; None does not limit them. The calls are
    counted in `calls_file`, a byte each, where one is given, so that a resumed search counts on.
    """

    model: str
    url: str | None = None
    budget: int | None = None
    calls_file: Path | None = None


def with_judge(scoring: Scoring, judge: JudgeChoice | None) -> Scoring:
    """Return a scoring with its judge's model, if its metric asks one."""
    return scoring if judge is None or scoring.metric not in JUDGES else scoring.changed(judge=judge.model)


def check_judge(scoring: Scoring, judge: JudgeChoice | None) -> None:
    """Raise TaskError when a scoring needs a judge that is not named or cannot be asked from here; asks nothing."""
    if scoring.metric not in JUDGES:
        return
    if judge is None:
        raise TaskError(
            f"The metric {scoring.metric} asks another model, the judge, about each answer.\n    Name it with --judge "
            f"MODEL (the key is read from {KEY}; --judge-url names another endpoint than OpenAI's), or take another "
            "metric: --metric rouge_l_ja, for example."
        )
    if find_spec("openai") is None:
        raise TaskError("A judge needs the package openai.\n    Install the extra: pip install 'evovlm[judge]'")
    if not os.environ.get(KEY) and judge.url is None and not os.environ.get(_ADDRESS):
        raise TaskError(
            f"The judge {judge.model} needs a key: set {KEY}, or name an endpoint without keys: --judge-url."
        )


@dataclass(slots=True, kw_only=True, eq=False)
class Judge:
    """A judge that can be asked, also from several threads; opened by `open_judge`."""

    choice: JudgeChoice
    client: "OpenAI"
    cache: Path
    calls: int = 0
    _parameters: dict[str, int] = field(default_factory=lambda: dict(_PARAMETERS))
    _lock: Lock = field(default_factory=Lock)
    _over: Event = field(default_factory=Event)

    def verdict(self, row: JudgeRow, sample: Sample, text: str) -> Verdict:
        """Return the verdict on an answer, from the cache if the same was asked before.

        Raises JudgeStopped when the budget is used up or the endpoint does not answer.
        """
        if not text.strip():
            return row.empty
        messages = row.messages(sample, text)
        file = self.cache / f"{_key(self.choice, messages)}.json"
        reply = _cached(file)
        if reply is None:
            asked = self._ask(messages)
            if isinstance(asked, Verdict):
                return asked
            reply = asked
            make_folder(file.parent)
            write_file(file, json.dumps({"model": self.choice.model, "reply": reply}, ensure_ascii=False))
        return row.read(reply[:_MOST_REPLY])

    def stop(self) -> None:
        """End the waits before further tries, with JudgeStopped."""
        self._over.set()

    def _ask(self, messages: list[dict[str, str]]) -> str | Verdict:
        """Return what the judge writes, or the verdict that it does not answer this question."""
        import openai

        for attempt in range(_TRIES):
            self._count_call()
            parameters = dict(self._parameters)
            try:
                reply = self.client.chat.completions.create(
                    model=self.choice.model,
                    messages=messages,
                    **parameters,  # type: ignore[call-overload]
                )
            except openai.APIStatusError as error:
                if self._learns(error, parameters):
                    continue
                if error.status_code in _REFUSED_FOR_ONE:
                    return Verdict(reason=f"the judge's endpoint refused the question ({error.status_code})")
                if error.status_code in _REFUSED_FOR_ALL or getattr(error, "code", None) == "insufficient_quota":
                    raise self._stopped(error) from error
                problem: openai.APIError = error
            except openai.APIConnectionError as error:
                problem = error
            except (openai.APIError, ValueError):
                # A body that is cut off is not wrapped into the client's own error.
                return Verdict(reason="the judge's endpoint sent a malformed reply")
            else:
                text = _text_of(reply)
                return text if text is not None else Verdict(reason="the judge's endpoint sent a malformed reply")
            if attempt == _TRIES - 1:
                raise self._stopped(problem) from problem
            self._wait(_wait_s(problem, attempt))
        return Verdict(reason="the judge's endpoint refused every parameter")

    def _wait(self, seconds: float) -> None:
        if self._over.wait(seconds):
            raise JudgeStopped(f"The judge {self.choice.model} is no longer asked.")

    def _count_call(self) -> None:
        with self._lock:
            self._count_next()

    def _count_next(self) -> None:
        counted, budget = self.choice.calls_file, self.choice.budget
        if counted is not None and counted.exists():
            self.calls = counted.stat().st_size
        if budget is not None and self.calls >= budget:
            raise JudgeStopped(
                f"The judge {self.choice.model} has been called {self.calls} times, which is its budget.\n"
                "    Allow more calls (--judge-calls, or judge_calls in a config) and resume; verdicts so far are kept "
                "and cost nothing."
            )
        self.calls += 1
        if counted is not None:
            append_to(counted, b".")

    def _learns(self, error: Any, sent: Mapping[str, int]) -> bool:
        """Whether an error names one of the parameters `sent`, which the model does not take; it is not sent again."""
        name = getattr(error, "param", None)
        if error.status_code != 400 or name not in sent:
            return False
        with self._lock:
            # Another thread may have learnt it meanwhile.
            kept = {key: value for key, value in self._parameters.items() if key != name}
            if name in self._parameters and name in _RENAMED:
                kept[_RENAMED[name]] = self._parameters[name]
            self._parameters = kept
        return True

    def _stopped(self, error: Exception) -> JudgeStopped:
        where = self.choice.url or os.environ.get(_ADDRESS) or "OpenAI's endpoint"
        return JudgeStopped(
            masked(f"The judge {self.choice.model} at {where} cannot be asked: {first_line(error)}\n    ")
            + f"Check the address, the model's name and {KEY}, and resume; verdicts so far are kept and cost nothing."
        )


def open_judge(choice: JudgeChoice) -> Judge:
    """Return a judge that can be asked; nothing is asked yet."""
    from openai import OpenAI

    # A server without keys is asked without one, but the client needs a text.
    key = os.environ.get(KEY) or "none"
    # Retries are counted and timed here.
    client = OpenAI(api_key=key, base_url=choice.url, max_retries=0, timeout=_TIMEOUT_S)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evovlm" / "judge"
    return Judge(choice=choice, client=client, cache=cache)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgeScorer:
    """Scores answers by a judge. Raises JudgeStopped as `Judge.verdict` does."""

    judge: Judge
    scoring: Scoring
    marks: ThoughtMarks

    def __call__(self, sample: Sample, text: str) -> Answer:
        """Return an answer with its score."""
        measure = partial(_measured, self.judge, JUDGES[self.scoring.metric], sample)
        return score_final(measure, sample, text, gate=self.scoring.gate, marks=self.marks)

    def several(self, answers: Sequence[tuple[Sample, str]]) -> list[Answer]:
        """Return answers with their scores, in their order; several questions are asked at a time."""
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="judge")
        try:
            return list(pool.map(self, *zip(*answers, strict=True))) if answers else []
        except BaseException:
            self.judge.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _measured(judge: Judge, row: JudgeRow, sample: Sample, final: str) -> Measured:
    verdict = judge.verdict(row, sample, final)
    values = (verdict.value,) * max(1, len(sample.references))
    return Measured(values=values, extracted=verdict.read, unscored=verdict.reason)


def _key(choice: JudgeChoice, messages: list[dict[str, str]]) -> str:
    # The endpoint belongs to it: two servers may call different models the same.
    asked = json.dumps([choice.url, choice.model, _PARAMETERS, messages])
    digest = hashlib.blake2b(asked.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{digest[:2]}/{digest[2:]}"


def _cached(file: Path) -> str | None:
    try:
        return JsonObject.of(read_json(file)).text("reply")
    except (OSError, ValueError):
        return None


def _text_of(reply: Any) -> str | None:
    try:
        text = reply.choices[0].message.content
    except (AttributeError, LookupError, TypeError):
        return None
    return text if isinstance(text, str) else None


def _wait_s(error: Exception, attempt: int) -> float:
    """Return how long to wait before the next try: what the server asks for, else 1, 2, 4, ... seconds."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        asked = float(headers.get("retry-after", ""))
    except ValueError:
        asked = 2.0**attempt
    return min(max(asked, 0.0), _LONGEST_WAIT_S)
