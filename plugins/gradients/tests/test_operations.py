"""Operations on gradients, and edits of one: laws, and an oracle of plain dictionaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from daremerge_core import DaremergeError, view
from daremerge_core.testing import tiny_model
from daremerge_gradients.edit import EditGradient
from daremerge_gradients.operations import Add, Divide, Maximum, Mean, Minimum, Multiply, Operation, Subtract
from daremerge_gradients.unet import BlockGradient

KEYS = [
    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight",
    "model.diffusion_model.input_blocks.10.0.in_layers.2.weight",
    "model.diffusion_model.out.2.bias",
    "cond_stage_model.logit_scale",
]
Table = dict[str, float | None]
ALL = (Mean, Minimum, Maximum, Add, Subtract, Multiply, Divide)


class Ratios:
    """A gradient from a table."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def keys(self) -> Sequence[str]:
        return list(self.table)

    def ratio(self, key: str) -> float | None:
        return self.table.get(key)


def result(component: Any) -> Table:
    value: Any = view(component)
    return {key: value.ratio(key) for key in value.keys()}


def operate(operation: type[Operation], *tables: Table, **options: Any) -> Table:
    found = [Ratios(dict(table)) for table in tables]
    options = {"outside": "allow", **options}
    after = result(operation(gradients=found, **options))
    assert [one.table for one in found] == list(tables), "an operation makes a new gradient"
    return after


positive = st.floats(0.0625, 4.0)
tables = st.dictionaries(st.sampled_from(KEYS), st.none() | positive, min_size=1)
full = st.fixed_dictionaries(dict.fromkeys(KEYS, positive))
ORACLES = {
    "mean": np.mean,
    "min": np.min,
    "max": np.max,
    "add": np.sum,
    "subtract": lambda values: values[0] - np.sum(values[1:]),
    "multiply": np.prod,
    "divide": lambda values: values[0] / np.prod(values[1:]),
}


class TestOperations:
    @pytest.mark.parametrize("operation", ALL)
    @pytest.mark.parametrize("join", ["inner", "outer"])
    @given(given=st.lists(tables, min_size=2, max_size=4))
    @settings(max_examples=25)
    def test_is_numpys_where_there_are_ratios(self, operation: type[Operation], join: str, given: list[Table]) -> None:
        expected: Table = {}
        for key in dict.fromkeys(key for table in given for key in table):
            known = [ratio for table in given if (ratio := table.get(key)) is not None]
            has_one = len(known) == len(given) if join == "inner" else bool(known)
            expected[key] = float(ORACLES[operation.name](np.array(known))) if has_one else None
        if all(ratio is None for ratio in expected.values()):
            with pytest.raises(DaremergeError, match="touches none"):
                operate(operation, *given, join=join)
            return
        found = operate(operation, *given, join=join)
        assert found == {k: v if v is None else pytest.approx(v, rel=1e-12, abs=1e-12) for k, v in expected.items()}

    @pytest.mark.parametrize("operation", [Mean, Minimum, Maximum, Add, Multiply])
    @given(a=full, b=full)
    @settings(max_examples=25)
    def test_the_order_of_two_does_not_matter(self, operation: type[Operation], a: Table, b: Table) -> None:
        assert operate(operation, a, b) == operate(operation, b, a)

    @given(a=full, b=full)
    @settings(max_examples=25)
    def test_the_mean_lies_between(self, a: Table, b: Table) -> None:
        low, mean, high = (operate(operation, a, b) for operation in (Minimum, Mean, Maximum))
        assert all(low[key] <= mean[key] <= high[key] for key in KEYS)

    @pytest.mark.parametrize("operation", [Mean, Minimum, Maximum])
    @given(a=full)
    @settings(max_examples=25)
    def test_of_one_gradient_twice_is_that_gradient(self, operation: type[Operation], a: Table) -> None:
        assert operate(operation, a, a) == a

    @given(a=full, b=full)
    @settings(max_examples=25)
    def test_subtract_undoes_add_and_divide_undoes_multiply(self, a: Table, b: Table) -> None:
        assert operate(Subtract, operate(Add, a, b), b) == pytest.approx(a)
        assert operate(Divide, operate(Multiply, a, b), b) == pytest.approx(a)

    @pytest.mark.parametrize("operation", ALL)
    @given(a=full, b=full, elsewhere=st.sampled_from(KEYS))
    @settings(max_examples=25)
    def test_outer_passes_a_lone_ratio_through(self, operation: Any, a: Table, b: Table, elsewhere: str) -> None:
        for one, other in ((a, {**b, elsewhere: None}), ({**a, elsewhere: None}, b)):
            outer, inner = operate(operation, one, other, join="outer"), operate(operation, one, other)
            lone = one[elsewhere] if one[elsewhere] is not None else other[elsewhere]
            assert outer.pop(elsewhere) == lone
            assert inner.pop(elsewhere) is None
            assert outer == inner

    def test_folds_from_the_left(self) -> None:
        key = KEYS[0]
        found = [{key: 8.0}, {key: 2.0}, {key: 4.0}]
        assert operate(Subtract, *found) == {key: 2.0}
        assert operate(Divide, *found) == {key: 1.0}

    @pytest.mark.parametrize("divisor", [0.0, -0.0])
    def test_division_by_zero_names_the_tensor_and_the_way_out(self, divisor: float) -> None:
        with pytest.raises(DaremergeError, match=rf"{KEYS[1]}.*divided by a ratio of 0.*gradient\.edit"):
            operate(Divide, {KEYS[0]: 1.0, KEYS[1]: 0.5}, {KEYS[0]: 1.0, KEYS[1]: divisor})

    @pytest.mark.parametrize("operation", [Mean, Add, Multiply])
    def test_what_is_no_number_is_no_ratio(self, operation: type[Operation]) -> None:
        with pytest.raises(DaremergeError, match="no ratio"):
            operate(operation, {KEYS[0]: 1e308}, {KEYS[0]: 1.7e308})

    def test_one_is_too_few(self) -> None:
        with pytest.raises(ValueError, match="at least 2"):
            Mean(gradients=[Ratios({})])

    def test_no_tensor_in_common_is_an_error(self) -> None:
        with pytest.raises(DaremergeError, match="touches none"):
            operate(Mean, {KEYS[0]: 0.5}, {KEYS[1]: 0.5})

    @pytest.mark.parametrize("outside", ["error", "clamp", "allow"])
    def test_a_result_outside_0_to_1(self, outside: str) -> None:
        a, b = {KEYS[0]: 0.75, KEYS[1]: 0.25}, {KEYS[0]: 0.5, KEYS[1]: 0.5}
        if outside == "error":
            with pytest.raises(DaremergeError, match="Set `outside` to clamp"):
                operate(Add, a, b, outside="error")
            return
        assert operate(Add, a, b, outside=outside)[KEYS[0]] == (1.0 if outside == "clamp" else 1.25)
        assert operate(Subtract, a, b, outside=outside)[KEYS[1]] == (0.0 if outside == "clamp" else -0.25)


class TestEdit:
    @given(table=tables, chosen=st.sampled_from(KEYS), value=st.floats(0, 1))
    @settings(max_examples=25)
    def test_set_gives_the_selected_a_ratio_and_leaves_the_others(
        self, table: Table, chosen: str, value: float
    ) -> None:
        assume(chosen in table)
        gradient = Ratios(dict(table))
        found = result(EditGradient(gradient=gradient, include=chosen, value=value, outside="allow"))
        assert found == {**table, chosen: value}
        assert gradient.table == table

    @pytest.mark.parametrize(
        ("operation", "inverse"),
        [("add", "subtract"), ("subtract", "add"), ("multiply", "divide"), ("divide", "multiply")],
    )
    @given(table=full, value=positive)
    @settings(max_examples=25)
    def test_the_others_change_a_ratio_and_are_undone(
        self, operation: str, inverse: str, table: Table, value: float
    ) -> None:
        options: dict[str, Any] = {"include": "input_blocks.{1,10}", "value": value, "outside": "allow"}
        once = result(EditGradient(gradient=Ratios(table), operation=operation, **options))
        back = result(EditGradient(gradient=Ratios(once), operation=inverse, **options))
        assert back == pytest.approx(table)
        symbol = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide}[operation]
        for key in KEYS:
            assert once[key] == (float(symbol(table[key], value)) if "input_blocks" in key else table[key])

    @pytest.mark.parametrize("operation", ["add", "subtract", "multiply", "divide"])
    def test_the_others_leave_none_alone(self, operation: str) -> None:
        table: Table = {KEYS[0]: None, KEYS[1]: 0.5}
        found = result(
            EditGradient(gradient=Ratios(table), include="*", operation=operation, value=0.5, outside="allow")
        )
        assert found[KEYS[0]] is None
        assert found[KEYS[1]] != 0.5

    def test_block_1_is_not_block_10(self) -> None:
        table: Table = dict.fromkeys(KEYS, 0.5)
        found = result(EditGradient(gradient=Ratios(table), include="input_blocks.1", value=0.0))
        assert [key for key, ratio in found.items() if ratio == 0.0] == [KEYS[0]]

    def test_a_selector_that_matches_nothing(self) -> None:
        with pytest.raises(DaremergeError, match=r"include: 'input_blocks\.2' matches none"):
            result(EditGradient(gradient=Ratios(dict.fromkeys(KEYS, 0.5)), include="input_blocks.2", value=0.0))

    def test_division_by_zero(self) -> None:
        with pytest.raises(ValueError, match="use the operation set"):
            EditGradient(gradient=Ratios({}), include="*", operation="divide", value=0.0)

    def test_what_is_no_number_is_no_ratio(self) -> None:
        with pytest.raises(DaremergeError, match="no ratio"):
            result(EditGradient(gradient=Ratios({KEYS[0]: 1e308}), include="*", operation="multiply", value=1e10))


def test_editors_of_views_know_their_layout() -> None:
    from daremerge_gradients.mbw import MbwGradient

    one = view(MbwGradient(model=tiny_model(), blocks={"input_blocks.1": 0.25}, rest=0.75))
    value: Any = view(Mean(gradients=[one, view(EditGradient(gradient=one, include="*", value=0.25))]))
    assert value.layout is one.layout
    assert {value.ratio(key) for key in value.keys()} == {0.25, 0.5}
    assert math.isclose(value.ratio("model.diffusion_model.out.2.weight"), 0.5)


def test_a_family_of_unets_needs_a_unet() -> None:
    with pytest.raises(DaremergeError, match=r"this model is generic: use depth, mbw, pattern or parts"):
        view(BlockGradient(model=tiny_model(), input=0.5))
