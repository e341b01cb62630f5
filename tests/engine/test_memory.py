"""NaN among floats is found wherever it is, and nothing else is taken for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tidsram.engine.memory import holds_nan

FLOATS = [np.float16, np.float32, np.float64]


@given(
    st.sampled_from(FLOATS).flatmap(
        lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=0, min_side=0))
    )
)
def test_it_agrees_with_numpys_own_test(floats):
    """Any floats in any shape, infinities and no numbers at all among them."""
    assert holds_nan(floats) == np.isnan(floats).any()


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("nan", [np.nan, -np.nan])
def test_one_nan_among_many_numbers_is_found(kind, nan):
    """At every place of a long array: it is read in blocks, each of which could lose it."""
    floats = np.zeros((4, 25), kind)

    for place in np.ndindex(floats.shape):
        floats[place] = nan
        assert holds_nan(floats)
        floats[place] = 0


@pytest.mark.parametrize("kind", FLOATS)
def test_infinities_and_the_largest_numbers_are_no_nan(kind):
    """Their sum would be one."""
    largest = np.finfo(kind).max

    assert not holds_nan(np.array([np.inf, -np.inf, largest, -largest, 0, -0.0], kind))
