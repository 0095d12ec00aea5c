"""Metrics that another model judges: what it is asked, and how its verdict is read (evaluation/judging.py asks it).

Prompts, word for word: `judge` and `judge_heron` from llm-jp-eval-mm (9f450a5, Apache-2.0), `judge_correct` from
simple-evals-mm (06b2f44), which has it from Humanity's Last Exam. A candidate's text is data to the judge, who may obey
it all the same: scores by a judge can be gamed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evovlm.foreign_json import JsonObject, parse_json
from evovlm.tasks.sample import Sample

HERON = "judge_heron"
_MOST_ANSWER = 20_000
"""Characters of an answer that a judge is shown: longer ones would cost more than they say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A judge's verdict: a `value` in [0, 1], and the part of its text that was read; `reason` where nothing was."""

    value: float = 0.0
    read: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRow:
    """A way to judge: the messages to the judge about an answer, and how its text is read.

    `empty` is the verdict on an empty answer, about which no judge is asked.
    """

    name: str
    description: str
    system: str | None
    instruction: str
    read: Callable[[str], Verdict]
    empty: Verdict = Verdict(value=0.0, read="empty answer")
    with_wording: bool = False

    def messages(self, sample: Sample, text: str) -> list[dict[str, str]]:
        """Return the chat messages that ask a judge about an answer to a sample."""
        question = sample.wording if self.with_wording and sample.wording is not None else sample.question
        slots = {
            "context": sample.context or "",
            "question": question,
            "reference": sample.references[0] if sample.references else "",
            "answer": text[:_MOST_ANSWER],
        }
        # In one pass: a text that holds the name of a slot stays as it is.
        content = re.sub(r"<<(context|question|reference|answer)>>", lambda found: slots[found[1]], self.instruction)
        # A lone surrogate cannot be sent.
        content = content.encode("utf-8", "replace").decode("utf-8")
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, {"role": "user", "content": content}]


def _read_grade(text: str) -> Verdict:
    found = re.search(r"[0-9]", text)
    grade = int(found.group()) if found else 0
    if not 0 < grade <= 5:
        return Verdict(reason="the judge gave no grade from 1 to 5")
    return Verdict(value=grade / 5, read=str(grade))


def _read_pair(text: str) -> Verdict:
    """Return the model's grade; `read` has the reference's behind a slash."""
    fenced = re.findall(r"```json(.*?)```", text, re.DOTALL) or re.findall(r"\{.*?\}", text, re.DOTALL)
    for each in fenced:
        try:
            found = JsonObject.of(parse_json(re.sub(r"[\x00-\x1f\x7f]", "", each))).values
            grades = [int(str(found.get(key))) for key in ("score", "score_gpt")]
        except ValueError:
            continue
        if all(1 <= grade <= 10 for grade in grades):
            return Verdict(value=grades[0] / 10, read=f"{grades[0]}/{grades[1]}")
    return Verdict(reason="the judge gave no two grades from 1 to 10")


def _read_yes_or_no(text: str) -> Verdict:
    found = re.search(r"correct\s*:\s*(yes|no)", text, re.IGNORECASE)
    if found is None:
        return Verdict(reason="the judge did not say correct: yes or no")
    answer = found[1].lower()
    return Verdict(value=float(answer == "yes"), read=answer)


def heron_relative(grades: Mapping[str, list[str]]) -> float | None:
    """Return Heron-Bench's published score: grades relative to the reference's, averaged over the categories, x 100.

    `grades` holds the texts that `judge_heron` read (`7/9`), by category; None without any.
    """
    shares = []
    for texts in grades.values():
        pairs = [tuple(map(int, text.split("/"))) for text in texts if text.count("/") == 1]
        if pairs:
            own, theirs = (sum(pair[place] for pair in pairs) / len(pairs) for place in (0, 1))
            shares.append(100 * own / max(0.01, theirs))
    return sum(shares) / len(shares) if shares else None


_GRADE = """
You are an expert evaluator. You are given a (Question, Answer, Prediction) triplet. Your task is to evaluate how well the Prediction aligns with the Answer in the context of the Question.

Please assign a score from 1 to 5 based on the following criteria:

5: Excellent — The Prediction fully matches the Answer with complete correctness and relevance.
4: Good — The Prediction is mostly correct with only minor inaccuracies or missing details.
3: Fair — The Prediction is partially correct but contains noticeable errors or missing key points.
2: Poor — The Prediction is mostly incorrect or irrelevant, but there are small fragments of correctness.
1: Very Poor — The Prediction is completely incorrect or irrelevant.
Output only the score (an integer from 1 to 5). Do not add any explanation.

Triplet:
Question: <<question>>
Answer: <<reference>>
Prediction: <<answer>>

Your Score:
"""  # noqa: E501
_PAIR = """
You are an expert evaluator. You are given the following information:
- Context: A description of the image.
- Question: A question about the image.
- GPT-4o Answer: GPT-4o's answer to the question.
- Model Answer: The target model's answer to the question.

Your task is to evaluate each answer independently based on how well it answers the question given the context.

Please assign a score from 1 to 10 for each answer according to the following guideline:
- 10: Perfect — Completely correct, relevant, and fully addresses the question based on the context.
- 8-9: Very Good — Mostly correct with only minor inaccuracies or slight omissions.
- 6-7: Good — Generally correct but contains noticeable errors or lacks important details.
- 4-5: Poor — Significant errors or missing key points, but some relevance remains.
- 1-3: Very Poor — Mostly or completely incorrect, irrelevant, or nonsensical.

Output Format (JSON):
Return the result in the following JSON format:
```json
{
    "score_gpt": int,
    "score": int
}
```
Do not output anything other than the JSON.

Input:
{
    "context": <<context>>,
    "question": <<question>>,
    "gpt4o_answer": <<reference>>,
    "model_answer": <<answer>>
}

Output:
"""
_YES_OR_NO = """
Judge whether the following [response] to [question] is correct or not based on the precise and unambiguous [correct_answer] below.

When judging equivalence, allow variations in script or notation that convey the same meaning
(e.g., '2羽' and '二羽' should be considered equivalent).

Treat the following cases as correct:
- The extracted answer includes additional context (e.g., series name, author name, location, broader category) while still containing the correct_answer exactly or as its unambiguous, specific instance.
  (For example, "富嶽三十六景 江戸日本橋" is correct if the correct_answer is "江戸日本橋".)
- The extracted answer is more specific than the [correct_answer] while remaining consistent with it.
- The extracted answer is an alternate name, synonymous phrasing, or another commonly accepted way to refer to the same concept, object, place, or artwork.
- The extracted answer omits information that is not essential to the correctness of the question.
- Allow minor variations in spacing, capitalization, or script, as long as the core correct_answer is unambiguously present.

[question]: <<question>>

[response]: <<answer>>

Your judgement must be in the format and criteria specified below:

extracted_final_answer: The final exact answer extracted from the [response]. Put the extracted answer as 'None' if there is no exact, final answer to extract from the response.

[correct_answer]: <<reference>>

reasoning: Explain why the extracted_final_answer is correct or incorrect based on [correct_answer], focusing only on if there are meaningful differences between [correct_answer] and the extracted_final_answer. Do not comment on any background to the problem, do not attempt to solve the problem, do not argue for any answer different than [correct_answer], focus only on whether the answers match.

correct: Answer 'yes' if extracted_final_answer matches the [correct_answer] given above, or is within a small margin of error for numerical problems. Answer 'no' otherwise, i.e. if there if there is any inconsistency, ambiguity, non-equivalency, or if the extracted answer is incorrect.


confidence: The extracted confidence score between 0% and 100% from [response]. Put 100 if there is no confidence score available.
""".strip()  # noqa: E501

JUDGES: Mapping[str, JudgeRow] = {
    row.name: row
    for row in (
        JudgeRow(
            name="judge",
            description="a judge's grade from 1 to 5, divided by 5, as in llm-jp-eval-mm",
            system="You are an expert evaluator.",
            instruction=_GRADE,
            read=_read_grade,
        ),
        JudgeRow(
            name=HERON,
            description="a judge's grade from 1 to 10, divided by 10, as in Heron-Bench (its score is `relative`)",
            system="You are a helpful and precise assistant for checking the quality of the answer.",
            instruction=_PAIR,
            read=_read_pair,
        ),
        JudgeRow(
            name="judge_correct",
            description="a judge says whether the answer is right, as in JAMMEval",
            system=None,
            instruction=_YES_OR_NO,
            read=_read_yes_or_no,
            with_wording=True,
        ),
    )
}
