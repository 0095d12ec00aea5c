"""What a search maximises: combinations of scores, bounds on them, and how they change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evovlm.evaluation.objective import Combine, Constraint, Objective
from evovlm.recipes.candidate import TaskScore
from evovlm.search.pareto import front

COMBINATIONS: tuple[Combine, ...] = ("mean", "worst", "geometric")


def score(value: float, *, japanese: float = 1.0, ungated: float | None = None, n: int = 20) -> TaskScore:
    return TaskScore(
        score=value,
        ungated=value if ungated is None else ungated,
        japanese=japanese,
        per_sample=(value,) * n,
        n=n,
    )


def sampled(*values: float, rows: tuple[int, ...] | None = None) -> TaskScore:
    mean = sum(values) / len(values)
    return TaskScore(score=mean, ungated=mean, japanese=1.0, per_sample=values, n=len(values), rows=rows)


values = st.floats(0.05, 1.0)


@pytest.mark.parametrize(
    ("combine", "expected"), [("mean", (3 * 0.8 + 0.2) / 4), ("worst", 0.2), ("geometric", (0.8**3 * 0.2) ** 0.25)]
)
def test_scores_become_one_number_by_the_rule_that_was_chosen(combine: Combine, expected: float) -> None:
    objective = Objective(weights={"a": 3.0, "b": 1.0, "watched": 0.0}, combine=combine)
    scores = {"a": score(0.8), "b": score(0.2), "watched": score(0.0)}
    assert objective.fitness(scores) == pytest.approx(expected)
    assert objective.goals(scores) == ()


@given(a=values, b=values, weight=st.floats(0.1, 5.0))
def test_every_rule_is_between_the_lowest_and_the_highest_and_equal_scores_give_that_score(
    a: float, b: float, weight: float
) -> None:
    for combine in COMBINATIONS:
        objective = Objective(weights={"a": weight, "b": 1.0}, combine=combine)
        assert min(a, b) - 1e-12 <= objective.fitness({"a": score(a), "b": score(b)}) <= max(a, b) + 1e-12
        assert objective.fitness({"a": score(a), "b": score(a)}) == pytest.approx(a)


@given(a=values, b=values, weight=st.floats(0.1, 5.0), combine=st.sampled_from(COMBINATIONS))
def test_the_gradient_is_the_slope_of_the_fitness(a: float, b: float, weight: float, combine: Combine) -> None:
    if combine == "worst" and abs(a - b) < 1e-4:
        b = a + 0.01
    objective = Objective(weights={"a": weight, "b": 1.0, "watched": 0.0}, combine=combine)
    step = 1e-6

    def fitness(a: float, b: float) -> float:
        return objective.fitness({"a": score(a), "b": score(b), "watched": score(0.5)})

    found = objective.gradient({"a": a, "b": b, "watched": 0.5})
    assert found["a"] == pytest.approx((fitness(a + step, b) - fitness(a - step, b)) / (2 * step), abs=1e-4)
    assert found["b"] == pytest.approx((fitness(a, b + step) - fitness(a, b - step)) / (2 * step), abs=1e-4)
    assert found["watched"] == 0.0


def test_a_geometric_mean_with_a_zero_is_zero_and_its_gradient_is_finite() -> None:
    objective = Objective(weights={"a": 1.0, "b": 1.0}, combine="geometric")
    assert objective.fitness({"a": score(0.0), "b": score(0.5)}) == 0.0
    assert 0 < objective.gradient({"a": 0.0, "b": 0.5})["a"] < 10


@given(kept=values, missed=st.floats(0.0, 0.94), other=st.floats(0.0, 1.0))
def test_what_breaks_a_bound_is_below_everything_that_keeps_it(kept: float, missed: float, other: float) -> None:
    objective = Objective(
        weights={"a": 1.0}, constraints=(Constraint(task="a", measure="japanese", at_least=0.95),), pareto=False
    )
    feasible = objective.fitness({"a": score(0.0, japanese=max(kept, 0.95))})
    broken = {"a": score(other, japanese=missed)}
    assert objective.fitness(broken) < feasible
    assert objective.fitness(broken) == pytest.approx(missed - 0.95)
    assert [str(each) for each in objective.violated(broken)] == ["a (japanese) at least 0.95"]


def test_violations_add_up_and_only_those_of_scores_have_a_slope() -> None:
    objective = Objective(
        weights={"a": 1.0, "en": 0.0},
        constraints=(
            Constraint(task="a", measure="japanese", at_least=0.9),
            Constraint(task="en", at_least=0.5),
            Constraint(task="en", measure="ungated", at_least=0.1),
        ),
    )
    scores = {"a": score(1.0, japanese=0.7), "en": score(0.2, ungated=0.3)}
    assert objective.fitness(scores) == pytest.approx(-0.5)
    assert objective.gradient({"a": 1.0, "en": 0.2}) == {"a": 0.0, "en": 1.0}
    assert objective.gradient({"a": 1.0, "en": 0.6}) == {"a": 1.0, "en": 0.0}
    assert len(objective.violated(scores)) == 2


def test_a_mean_that_rounding_left_a_hair_below_its_bound_keeps_it() -> None:
    constraint = Constraint(task="a", at_least=0.3)
    assert sum([0.1] * 3) / 1 != 0.3
    assert constraint.violation({"a": score(0.3 - 1e-12)}) == 0.0
    assert constraint.violation({"a": score(0.29)}) == pytest.approx(0.01)


def test_a_parent_s_bound_is_taken_on_the_samples_that_the_candidate_was_scored_on() -> None:
    parent = sampled(1.0, 1.0, 0.0, 0.0)
    constraint = Constraint(task="a", source="en", by=0.05, parent=parent)
    assert constraint.violation({"a": sampled(1.0, 0.0, 0.0, 0.0)}) == pytest.approx(0.2)
    assert constraint.violation({"a": sampled(0.0, 0.0, rows=(2, 3))}) == 0.0
    assert constraint.violation({"a": sampled(0.5, 0.5, rows=(0, 1))}) == pytest.approx(0.45)
    assert str(constraint) == "a not below en by more than 0.05"


def test_goals_are_the_scores_of_the_tasks_that_have_weight() -> None:
    objective = Objective(weights={"a": 2.0, "watched": 0.0, "b": 1.0}, pareto=True)
    assert objective.tasks == ("a", "b")
    assert objective.goals({"a": score(0.25), "b": score(0.5), "watched": score(1.0)}) == (0.25, 0.5)


@given(data=st.lists(st.tuples(values, values, st.floats(0.0, 1.0)), min_size=1, max_size=12))
def test_nothing_infeasible_is_on_a_front_with_something_feasible(data: list[tuple[float, float, float]]) -> None:
    objective = Objective(
        weights={"a": 1.0, "b": 1.0},
        constraints=(Constraint(task="a", measure="japanese", at_least=0.5),),
        pareto=True,
    )
    scores = [{"a": score(a, japanese=share), "b": score(b)} for a, b, share in data]
    chosen = front([objective.goals(each) for each in scores])
    feasible = [index for index, each in enumerate(scores) if not objective.violated(each)]
    assert set(chosen) <= set(feasible) if feasible else chosen


def test_parts_joined_are_one_evaluation_on_all_their_samples() -> None:
    objective = Objective(weights={"a": 1.0}, constraints=(Constraint(task="a", at_least=0.5),))
    parts = [
        objective.evaluation({"a": sampled(*values, rows=rows)}, seconds={"generate": 1.0}, tokens=5)
        for values, rows in (((1.0, 0.0, 0.0), (4, 2, 0)), ((1.0,), (7,)))
    ]
    joined = objective.joined(parts)
    assert joined.scores["a"].rows == (4, 2, 0, 7)
    assert joined.fitness == 0.5
    assert (joined.tokens, joined.seconds) == (10, {"generate": 2.0})
