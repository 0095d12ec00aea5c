"""Texts that go to the harness as its own models write them: tasks whose targets differ by a blank, chats, thoughts."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from evovlm.errors import TaskError
from evovlm.evaluation.answering import open_task, score_model
from evovlm.evaluation.answers import ScoredTask, TaskChoice
from evovlm.models.loading import LoadedModel, load_model
from evovlm.tasks.decoding import DecodingChanges
from evovlm.tasks.prompts import CHAT, ChatSettings
from evovlm.tasks.task import Split
from tests.evaluation.test_harness import task_file
from tests.marks import quick_and_slow

pytest.importorskip("lm_eval", reason='needs the extra: pip install "evovlm[lm-eval]"')
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*:ResourceWarning"),
]

TEMPLATE = (
    "{% for each in messages %}{{ each.role }}: {{ each.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% if enable_thinking %} <think>{% endif %}{% endif %}"
)
REGEX = {"function": "regex", "regex_pattern": "(.{3})"}
TASKS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "lines": {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 12}},
    "blank ends": {"generation_kwargs": {"until": [" "], "max_gen_toks": 12}},
    "letters end": {"generation_kwargs": {"until": ["あ", "い", "e", "1"], "max_gen_toks": 12}},
    "one token": {"generation_kwargs": {"until": [], "max_gen_toks": 1}},
    "no delimiter": {"target_delimiter": ""},
    "two shots": {"num_fewshot": 2},
    "description": {"description": "Answer.\n\n", "num_fewshot": 1},
    "blank before": {"doc_to_text": "{{question}} "},
    "filtered": {"filter_list": [{"name": "three", "filter": [REGEX, {"function": "take_first"}]}]},
    "penalty": {"generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 12, "repetition_penalty": 1.3}},
    "prefix": {"gen_prefix": "答え: "},
    "ignoring": {
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}]
    },
}
BASE = {
    "output_type": "generate_until",
    "training_split": "train",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 10},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def loaded(models: Path) -> LoadedModel:
    """A model whose byte-level tokenizer, as that of most models today, writes a blank in front of a word."""
    found = load_model(models / "math", device="cpu")
    rows = found.model.get_input_embeddings().num_embeddings
    return replace(found, tokenizer=byte_level_tokenizer(rows))


def byte_level_tokenizer(n_tokens: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte, and as many tokens of two characters as there are rows left."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(first, second) for first in ("Ġ", "a", "t") for second in letters][: n_tokens - len(special) - 256]
    words = [*special, *letters, *(first + second for first, second in pairs)]
    tokenizer = Tokenizer(BPE({word: row for row, word in enumerate(words)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",  # noqa: S106
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def write_documents(folder: Path, answers: list[str]) -> None:
    for part in ("train", "test"):
        rows = [
            {"question": f"{part} {number}と2で{'?' * (number % 3 + 1)}", "answer": answer}
            for number, answer in enumerate(answers)
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(text, encoding="utf-8")


def of_the_harness(loaded: LoadedModel, name: str, **chat: Any) -> list[dict[str, Any]]:
    """Return what the harness's own command line would save."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = {key: chat.pop(key) for key in ("think_end_token", "chat_template_args") if key in chat}
    found = simple_evaluate(
        HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1, max_length=512, **model),
        tasks=[name.removeprefix("lm_eval:")],
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),
        **chat,
    )
    assert found is not None
    return sorted(found["samples"]["local"], key=lambda row: int(row["doc_id"]))


def ours(loaded: LoadedModel, choice: TaskChoice) -> ScoredTask:
    return score_model(loaded, tasks=[choice], split=Split.REPORT, allow_code=True)[0]


def in_turn(texts: list[str]) -> list[str]:
    """Return targets of which every other one has its blanks cut off."""
    return [text.strip() if number % 2 else text for number, text in enumerate(texts)]


@pytest.mark.parametrize("kind", quick_and_slow(TASKS, quick=2))
def test_a_task_with_blanks_in_its_targets_scores_what_the_harness_scores(
    loaded: LoadedModel, tmp_path: Path, kind: str
) -> None:
    write_documents(tmp_path, ["x"] * 6)
    name = task_file(tmp_path, {**BASE, **TASKS[kind]})
    # The model's own answers become the targets: exact_match is right for those that are as it wrote them.
    first = [str(row["filtered_resps"][0]) for row in of_the_harness(loaded, name)]
    write_documents(tmp_path, in_turn(first))
    rows = of_the_harness(loaded, name)
    found = ours(loaded, TaskChoice(name=name))
    assert [answer.text for answer in found.answers] == [row["resps"][0][0] for row in rows]
    assert [answer.score for answer in found.answers] == [row["exact_match"] for row in rows]
    assert [answer.sample.question for answer in found.answers] == [row["arguments"][0][0] for row in rows]


@pytest.mark.parametrize("thinking", [True, False])
def test_a_chat_is_the_harnesss(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thinking: bool
) -> None:
    monkeypatch.setattr(loaded.tokenizer, "chat_template", TEMPLATE)
    write_documents(tmp_path, ["x", " y"] * 2)
    name = task_file(tmp_path, BASE, num_fewshot=1)
    rows = of_the_harness(
        loaded,
        name,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        system_instruction="短く。",
        chat_template_args={"enable_thinking": thinking},
    )
    chat = ChatSettings(system="短く。", template={"enable_thinking": thinking})
    found = ours(loaded, TaskChoice(name=name, prompt=CHAT, chat=chat))
    assert [answer.sample.question for answer in found.answers] == [row["arguments"][0][0] for row in rows]
    assert found.answers[0].sample.question.endswith("<think>" if thinking else "assistant:")
    assert "system: 短く。" in found.answers[0].sample.question
    assert [answer.text for answer in found.answers] == [row["resps"][0][0] for row in rows]


def test_what_is_before_the_end_of_a_thought_is_cut_off_as_by_the_harness(loaded: LoadedModel, tmp_path: Path) -> None:
    write_documents(tmp_path, ["x"] * 4)
    name = task_file(tmp_path, BASE, generation_kwargs={"until": [], "max_gen_toks": 12})
    whole = [row["resps"][0][0] for row in of_the_harness(loaded, name)]
    # A token of one character, which other answers hold, too.
    end = next(each for each in "".join(whole) if each.isascii() and each.isprintable() and each.strip())
    rows = of_the_harness(loaded, name, think_end_token=end)
    found = ours(loaded, TaskChoice(name=name, reasoning=("", end)))
    assert [answer.text for answer in found.answers] == [row["resps"][0][0] for row in rows]
    assert [answer.text for answer in found.answers] != whole
    number = str(loaded.tokenizer.convert_tokens_to_ids(end))
    numbered = ours(loaded, TaskChoice(name=name, reasoning=("", number)))
    assert [answer.text for answer in numbered.answers] == [answer.text for answer in found.answers]


def test_a_model_without_a_template_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    write_documents(tmp_path, ["x"] * 2)
    with pytest.raises(TaskError, match="has no chat template"):
        ours(loaded, TaskChoice(name=task_file(tmp_path, BASE), prompt=CHAT))


def test_the_lenient_filter_is_the_usual_one(tmp_path: Path) -> None:
    write_documents(tmp_path, ["x"] * 2)
    filters = [{"name": each, "filter": [{"function": "take_first"}]} for each in ("strict-match", "flexible-extract")]
    name = task_file(tmp_path, BASE, filter_list=filters)
    opened = open_task(TaskChoice(name=name), Split.REPORT, allow_code=True)
    assert opened.measured == "exact_match, filter flexible-extract"
    strict = open_task(TaskChoice(name=f"{name}#exact_match,strict-match"), Split.REPORT, allow_code=True)
    assert strict.measured == "exact_match, filter strict-match"


def test_a_decoding_changes_the_tasks_own(loaded: LoadedModel, tmp_path: Path) -> None:
    write_documents(tmp_path, ["x"] * 2)
    name = task_file(tmp_path, BASE)
    usual, short = TaskChoice(name=name), TaskChoice(name=name, decoding=DecodingChanges(max_new_tokens=1))
    assert ours(loaded, short).tokens <= 2 < ours(loaded, usual).tokens
    fingerprints = {open_task(each, Split.REPORT, allow_code=True).fingerprint for each in (usual, short)}
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prompt": "ja-alpaca-cot"}, "The only prompt to choose is `chat`"),
        ({"gate": "script"}, "has its own data, prompt and scoring"),
        ({"decoding": DecodingChanges(like="search")}, "has its own decoding and repeats"),
        ({"reasoning": "harmony"}, "--think-end-token"),
    ],
)
def test_what_a_task_of_the_harness_says_itself_cannot_be_chosen(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    write_documents(tmp_path, ["x"])
    with pytest.raises(TaskError, match=words):
        open_task(TaskChoice(name=task_file(tmp_path, BASE), **settings), Split.REPORT, allow_code=True)
