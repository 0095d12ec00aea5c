"""`objective:` and `budget:` in a config: what does not suit the rest of it is refused with its place."""

import re

import pytest
import yaml

from evovlm.errors import ConfigError
from evovlm.runs.config.kinds import config_from_mapping, load_config
from tests.runs.conftest import TASK, WriteConfig

TWO = [{"name": "word_problems_ja"}, {"name": "word_problems_en", "weight": 2}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"objective": {"constraints": [{"task": "sumz", "at_least": 0.5}]}},
            r":\d+: objective.constraints\[0\].task: is not scored; name it among the tasks \(with weight 0.*"
            r"did you mean 'sums",
        ),
        (
            {"objective": {"constraints": [{"task": TASK}]}},
            r"objective.constraints\[0\]: needs one of at_least",
        ),
        (
            {"objective": {"constraints": [{"task": TASK, "at_least": 0.5, "not_below": "ja"}]}},
            r"objective.constraints\[0\]: needs one of at_least",
        ),
        (
            {"objective": {"constraints": [{"task": TASK, "at_least": 0.5, "by": 0.1}]}},
            r"objective.constraints\[0\]: by: .*set not_below",
        ),
        (
            {"objective": {"constraints": [{"task": TASK, "at_least": 95}]}},
            r"objective.constraints\[0\].at_least: .*less than or equal to 1",
        ),
        (
            {"objective": {"constraints": [{"task": TASK, "not_below": "maths"}]}},
            r"objective.constraints\[0\].not_below: is not a source of the merge; did you mean 'math'",
        ),
        ({"objective": {"combine": "median"}}, r"objective.combine: .*'mean', 'worst' or 'geometric'"),
        ({"objective": {"combine": "worst"}, "tasks": TWO}, r"objective.combine: worst takes the lowest score"),
        ({"objective": {"pareto": True}}, r"objective.pareto: trades several tasks"),
        (
            {"objective": {"pareto": True}, "tasks": TWO, "batch": 2, "winner": "mean"},
            r"objective.pareto: not all candidates .* \(`batch`\), .*; leave `batch` out",
        ),
        (
            {"objective": {"pareto": True}, "tasks": TWO, "racing": {}},
            r"objective.pareto: not all candidates .* \(`racing`\), .*; leave `racing` out",
        ),
        (
            {"objective": {"constraints": [{"task": TASK, "at_least": 0.5}]}, "racing": {}},
            r"objective.constraints\[0\]: is on all samples, but `racing.order: informative` .*; set it to shuffled",
        ),
        (
            {
                "objective": {"constraints": [{"task": TASK, "measure": "japanese", "not_below": "ja"}]},
                "racing": {},
            },
            r"objective.constraints\[0\]: is on all samples",
        ),
        ({"tasks": [{"name": "word_problems_ja", "weight": 0}]}, r"tasks: every weight is 0"),
        ({"budget": {"min_improvement": 0.1, "tokens": 5}}, r"budget: min_improvement: .*set patience"),
        (
            {"budget": {"patience": 2}, "batch": 2, "winner": "mean"},
            r"validation: is missing: budget.patience compares generations",
        ),
        (
            {"budget": {"patience": 2}, "racing": {}},
            r"validation: is missing: budget.patience compares generations, .* \(`racing`\)",
        ),
        *(
            (
                {"tasks": [{"name": "word_problems_ja"}, {"name": "lm_eval:gsm8k"}], key: value, "winner": "mean"},
                rf"{key}: .* lm_eval:gsm8k is one of the harness, which asks a task as a whole; leave `{key}` out",
            )
            for key, value in {"racing": {}, "batch": 2, "validation": 2}.items()
        ),
    ],
)
def test_what_does_not_suit_the_rest_is_refused_with_its_place(
    write_config: WriteConfig, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write_config(changes))
    assert re.search(words, str(caught.value)), caught.value


def test_a_race_may_be_held_against_a_parent_and_with_samples_at_random_against_any_bound(
    write_config: WriteConfig,
) -> None:
    for racing, constraint in (
        ({}, {"not_below": "ja", "by": 0.1}),
        ({"order": "shuffled"}, {"at_least": 0.5}),
        ({"order": "fixed"}, {"measure": "japanese", "at_least": 0.9}),
    ):
        changes = {"racing": racing, "objective": {"constraints": [{"task": TASK, **constraint}]}}
        assert load_config(write_config(changes)).racing is not None


def test_a_front_that_the_search_does_not_seek_is_reported_and_a_sought_one_is_not(write_config: WriteConfig) -> None:
    def notes(kind: str, *, pareto: bool) -> tuple[str, ...]:
        changes = {"optimizer": {"kind": kind}, "objective": {"pareto": pareto}, "tasks": TWO}
        config = load_config(write_config(changes | {"budget": {"candidates": 40}})).resolved(relative_to=None)
        notes = config.notes_for(config.whole_space(config.least_blocks(relative_to=None)))
        return tuple(note for note in notes if note.startswith("objective."))

    (note,) = notes("cma", pareto=True)
    assert re.search(r"objective.pareto: cma uses only the fitness.*: nsga2 \(optimizer.kind\)", note)
    assert notes("nsga2", pareto=True) == notes("cma", pareto=False) == notes("nsga2", pareto=False) == ()


def test_a_constraint_names_a_task_of_one_s_own_by_its_file_or_by_its_name(write_config: WriteConfig) -> None:
    own = {
        "name": "festivals",
        "splits": {"search": "train.jsonl", "report": "test.jsonl"},
        "columns": {"question": "q", "answer": "a"},
        "prompt": "{input}",
        "metric": "rouge_l_ja",
    }
    for named in ("festivals", "festivals.yaml"):
        constraint = {"task": named, "measure": "japanese", "at_least": 0.9}
        path = write_config(
            {
                "tasks": [{"name": "festivals.yaml", "weight": 0}, {"name": "word_problems_ja"}],
                "objective": {"constraints": [constraint]},
            }
        )
        (path.parent / "festivals.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
        for split in ("train", "test"):
            (path.parent / f"{split}.jsonl").write_text('{"q": "1?", "a": "2"}\n', encoding="utf-8")
        resolved = load_config(path).resolved(relative_to=path.parent)
        objective = config_from_mapping(resolved.as_mapping()).goal({})
        assert objective.weights == {"festivals": 0.0, "word_problems_ja": 1.0}
        assert [str(each) for each in objective.constraints] == ["festivals (japanese) at least 0.9"]
        assert objective.tasks == ("word_problems_ja",)
