"""Rows merge by token: what each policy merges, keeps, adds and refuses."""

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evovlm.errors import IncompatibleModels
from evovlm.merging.checkpoint.sources import Checkpoint
from evovlm.merging.merge import Merger
from evovlm.merging.models.row_plan import RowPlan
from evovlm.recipes.recipe import ParameterMerge, Vocabulary
from tests.merging.recipes import make_recipe, merge_all, same_bytes
from tests.merging.vocabularies import VOCABULARY_TENSORS, add_tokens, rename_tokens, renumbered
from tests.pico import pico_llm, pico_tokenizer

ROWS = len(pico_tokenizer())
ROW_OF = pico_tokenizer().get_vocab()
EMBEDDING = "model.embed_tokens.weight"


def stored(folder: Path, name: str) -> torch.Tensor:
    return Checkpoint.open(folder).read(name)


def over_base(models: Path, folder: Path, source: str, *, vocabulary: Vocabulary | None = None) -> ParameterMerge:
    """Merge the model `source` of `folder` wholly into base."""
    base = str(models / "base")
    return make_recipe(folder, {source: (1.0, 1.0)}, base=base, host=base, vocabulary=vocabulary)


def without_rows(plan: RowPlan) -> set[int]:
    return {row for kept in plan.kept(plan.n_rows) for row in kept}


@pytest.mark.parametrize("vocabulary", [None, "host", "base_rows", "union"])
def test_equal_vocabularies_are_one_run(models: Path, vocabulary: Vocabulary | None) -> None:
    merger = Merger.open(make_recipe(models, {"math": (0.5, 1.0)}, vocabulary=vocabulary))
    models_named = ("base", "host", "sources.math")
    assert all(
        plan == RowPlan.leading(plan.n_rows, of=plan.n_rows, models=models_named) for plan in merger.rows.values()
    )
    assert merger.warnings == ()


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.permutations(range(ROWS)), method=st.sampled_from(["dare_ties", "ties", "task_arithmetic"]))
def test_where_a_source_keeps_its_tokens_makes_no_difference_to_a_bit(
    models: Path, tmp_path_factory: pytest.TempPathFactory, rows: list[int], method: str
) -> None:
    folder = tmp_path_factory.mktemp("permuted")
    renumbered(models / "math", folder / "math", rows)
    base, density = str(models / "base"), 1.0 if method == "task_arithmetic" else 0.6
    plain = make_recipe(models, {"math": (0.7, density)}, method=method, base=base, host=base, vocabulary="host")
    moved = make_recipe(folder, {"math": (0.7, density)}, method=method, base=base, host=base, vocabulary="host")
    assert same_bytes(merge_all(plain), merge_all(moved))


def test_two_rows_exchanged_are_refused_by_default_and_merged_by_token_under_host(models: Path, tmp_path: Path) -> None:
    rows = list(range(ROWS))
    rows[ROW_OF["百"]], rows[ROW_OF["十"]] = rows[ROW_OF["十"]], rows[ROW_OF["百"]]
    renumbered(models / "math", tmp_path / "math", rows)
    with pytest.raises(IncompatibleModels) as error:
        Merger.open(over_base(models, tmp_path, "math"))
    message = str(error.value)
    assert f"{ROWS - 4} ordinary tokens in base" in message
    assert f"all have {ROWS - 4}, 2 of them in other rows ('十', '百')" in message
    assert "`vocabulary: host`" in message
    assert "`vocabulary: base_rows`" in message
    recipe = over_base(models, tmp_path, "math", vocabulary="host")
    assert torch.equal(merge_all(recipe)[EMBEDDING], stored(models / "math", EMBEDDING))
    (warning,) = Merger.open(recipe).warnings
    assert "2 of them in other rows" in warning
    by_number = over_base(models, tmp_path, "math", vocabulary="base_rows")
    assert torch.equal(merge_all(by_number)[EMBEDDING], stored(tmp_path / "math", EMBEDDING))
    assert "2 of the" in Merger.open(by_number).warnings[0]


def test_rows_of_tokens_that_not_all_know_stay_the_hosts(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math", tmp_path / "math")
    rename_tokens(tmp_path / "math", {"百": "〇"})
    with pytest.raises(IncompatibleModels, match=f"all have {ROWS - 5}"):
        Merger.open(over_base(models, tmp_path, "math"))
    recipe = over_base(models, tmp_path, "math", vocabulary="host")
    assert without_rows(Merger.open(recipe).rows[EMBEDDING]) == {ROW_OF["百"]}
    for name in VOCABULARY_TENSORS:
        wanted = stored(models / "math", name)
        wanted[ROW_OF["百"]] = stored(models / "base", name)[ROW_OF["百"]]
        assert torch.equal(merge_all(recipe)[name], wanted)


def test_few_shared_tokens_are_warned_of(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math", tmp_path / "math")
    rename_tokens(tmp_path / "math", {token: f"{token}!" for token in sorted(ROW_OF, key=ROW_OF.__getitem__)[4:400]})
    warnings = Merger.open(over_base(models, tmp_path, "math", vocabulary="host")).warnings
    assert any(w.startswith(f"only {ROWS - 400} of the host's {ROWS - 4} ordinary tokens") for w in warnings)


def padded(folder: Path, models: Path, n_rows: int) -> Path:
    return pico_llm(folder, like=models / "math", drift=0.0, vocab_rows=n_rows)


@pytest.mark.parametrize("extra", [32, 64])
def test_a_source_with_more_padding_needs_no_policy(models: Path, tmp_path: Path, extra: int) -> None:
    """Abel's 32032 rows beside 32000, Qwen2's 151936 beside InternVL's 151674, in small."""
    padded(tmp_path / "math", models, ROWS + extra)
    recipe = over_base(models, tmp_path, "math")
    assert same_bytes(merge_all(recipe), merge_all(over_base(models, models, "math")))
    assert Merger.open(recipe).warnings == ()


def test_a_host_with_added_tokens_and_padding_needs_no_policy_and_keeps_them(models: Path) -> None:
    """LLaVA's 32064 rows (image, pad, padding) over 32000, in small."""
    recipe = make_recipe(models, {"vlm": (0.6, 0.8), "ja": (0.5, 0.8)}, host="vlm")
    merger = Merger.open(recipe)
    assert merger.warnings == ()
    for name in VOCABULARY_TENSORS:
        assert without_rows(merger.rows[name]) == set(range(ROWS, ROWS + 5))
        assert torch.equal(merge_all(recipe)[name][ROWS:], stored(models / "vlm", name)[ROWS:])


def test_a_row_that_a_model_lacks_is_not_merged_though_its_tokenizer_knows_the_token(
    models: Path, tmp_path: Path
) -> None:
    for folder in ("host", "math"):
        padded(tmp_path / folder, models, ROWS + (folder == "host"))
        add_tokens(tmp_path / folder, {"<new>": ROWS})
    plan = Merger.open(make_recipe(tmp_path, {"math": (0.5, 1.0)}, base=None, host="host", method="linear")).rows
    assert without_rows(plan[EMBEDDING]) == {ROWS}


def test_a_model_without_a_tokenizer_merges_by_number_where_the_counts_allow(models: Path, tmp_path: Path) -> None:
    padded(tmp_path / "math", models, ROWS)
    (tmp_path / "math" / "tokenizer.json").unlink()
    recipe = over_base(models, tmp_path, "math")
    assert torch.equal(merge_all(recipe)[EMBEDDING], stored(models / "math", EMBEDDING))
    (warning,) = Merger.open(recipe).warnings
    assert warning.startswith("sources.math ('math') has no tokenizer")


def test_a_model_without_a_tokenizer_and_with_other_row_counts_is_refused(models: Path, tmp_path: Path) -> None:
    padded(tmp_path / "math", models, ROWS + 3)
    (tmp_path / "math" / "tokenizer.json").unlink()
    recipe = over_base(models, tmp_path, "math")
    with pytest.raises(
        IncompatibleModels, match=r"has no tokenizer that says which tokens its rows are for[\s\S]*Copy"
    ):
        Merger.open(recipe)
    Merger.open(over_base(models, tmp_path, "math", vocabulary="base_rows"))


def test_base_rows_refuses_what_cannot_fill_the_rows(models: Path, tmp_path: Path) -> None:
    pico_llm(tmp_path / "short", vocab_rows=ROWS - 7)
    with pytest.raises(IncompatibleModels, match=r"rows[\s\S]*cannot fill"):
        Merger.open(over_base(models, tmp_path, "short", vocabulary="base_rows"))
    with pytest.raises(IncompatibleModels, match=f"{ROWS - 11} ordinary tokens in sources.short"):
        Merger.open(over_base(models, tmp_path, "short"))


def test_without_a_base_base_rows_are_the_fewest_of_any_source(models: Path) -> None:
    recipe = make_recipe(
        models, {"vlm": (0.5, 1.0), "ja": (0.5, 1.0)}, base=None, method="linear", vocabulary="base_rows"
    )
    assert Merger.open(recipe).rows[EMBEDDING].n_merged == ROWS


def with_new_tokens(models: Path, folder: Path) -> Path:
    """Make two sources in `folder` that know <a> (both) and <b> (the second), at different rows."""
    for name, tokens in (("first", {"<a>": ROWS}), ("second", {"<b>": ROWS, "<a>": ROWS + 1})):
        pico_llm(folder / name, like=models / "base", seed=len(name), vocab_rows=ROWS + 2)
        add_tokens(folder / name, tokens)
    return folder


def union_recipe(models: Path, folder: Path, host: str) -> ParameterMerge:
    sources = {"first": (0.5, 1.0), "second": (0.25, 1.0)}
    base = str(models / "base")
    return make_recipe(folder, sources, base=base, host=host, vocabulary="union", method="task_arithmetic")


def test_union_gives_new_tokens_the_mean_of_their_rows_after_the_hosts(models: Path, tmp_path: Path) -> None:
    recipe = union_recipe(models, with_new_tokens(models, tmp_path), host=str(models / "base"))
    merger = Merger.open(recipe)
    (warning,) = merger.warnings
    assert f"2 added tokens ('<a>', '<b>') take the rows {ROWS} to {ROWS + 1}" in warning
    assert f"vocab_size grows from {ROWS} to {ROWS + 2}" in warning
    merged = merge_all(recipe)
    assert merged[EMBEDDING].shape == (ROWS + 2, 32)
    for name in VOCABULARY_TENSORS:
        first, second = stored(tmp_path / "first", name), stored(tmp_path / "second", name)
        assert torch.allclose(merged[name][ROWS], (first[ROWS] + second[ROWS + 1]) / 2)
        assert torch.equal(merged[name][ROWS + 1], second[ROWS])


def test_union_takes_the_hosts_padding_first(models: Path, tmp_path: Path) -> None:
    """Tokenizers number added tokens without gaps, so the row after the last token is the only one to take."""
    recipe = union_recipe(models, with_new_tokens(models, tmp_path), host=str(models / "vlm"))
    merger = Merger.open(recipe)
    assert [new.row for new in merger.rows[EMBEDDING].new] == [ROWS + 1, ROWS + 2]
    assert merger.rows[EMBEDDING].n_rows == ROWS + 5
    assert any("which were padding" in warning for warning in merger.warnings)
    merged, host = merge_all(recipe)[EMBEDDING], stored(models / "vlm", EMBEDDING)
    assert torch.equal(merged[[ROWS, ROWS + 3, ROWS + 4]], host[[ROWS, ROWS + 3, ROWS + 4]])


def test_union_refuses_ordinary_tokens_that_the_host_lacks(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math", tmp_path / "math")
    rename_tokens(tmp_path / "math", {"百": "〇"})
    with pytest.raises(IncompatibleModels, match=r"1 ordinary tokens \('〇'\) are unknown to the host"):
        Merger.open(over_base(models, tmp_path, "math", vocabulary="union"))


def test_union_takes_no_row_that_the_config_uses(models: Path, tmp_path: Path) -> None:
    with_new_tokens(models, tmp_path)
    shutil.copytree(models / "vlm", tmp_path / "vlm")
    config = tmp_path / "vlm" / "config.json"
    config.write_text(config.read_text().replace(f'"image_token_index": {ROWS}', f'"image_token_index": {ROWS + 2}'))
    with pytest.raises(IncompatibleModels, match=rf"uses the row {ROWS + 2} \(image_token_index\)"):
        Merger.open(union_recipe(models, tmp_path, host="vlm"))


def test_another_width_is_an_error_whatever_the_policy(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "math", tmp_path / "odd")
    weights = load_file(tmp_path / "odd" / "model.safetensors")
    weights[EMBEDDING] = torch.zeros(ROWS, 31)
    save_file(weights, tmp_path / "odd" / "model.safetensors")
    config = tmp_path / "odd" / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 31'))
    with pytest.raises(IncompatibleModels, match=r"hidden_size is 31 in sources\.odd .* and 32 in host"):
        Merger.open(over_base(models, tmp_path, "odd", vocabulary="host"))
