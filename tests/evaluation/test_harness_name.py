"""Names of harness tasks are taken apart and put together again."""

import pytest

from evovlm.tasks.harness_name import HarnessName, is_harness_name


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lm_eval:gsm8k", ("gsm8k", "", "")),
        ("lm_eval:gsm8k#exact_match", ("gsm8k", "exact_match", "")),
        ("lm_eval:gsm8k#exact_match,strict-match", ("gsm8k", "exact_match", "strict-match")),
        ("lm_eval:/a#b/c.yaml#acc", ("/a#b/c.yaml", "acc", "")),
    ],
)
def test_a_name_has_a_task_a_metric_and_a_filter(text: str, parts: tuple[str, str, str]) -> None:
    name = HarnessName.parse(text)
    assert (name.spec, name.metric, name.filter_name) == parts
    assert str(name) == text
    assert (name.file is None) == ("yaml" not in text)


def test_our_own_tasks_are_none_of_the_harness() -> None:
    assert not is_harness_name("word_problems_ja")
    assert is_harness_name("lm_eval:word_problems_ja")
