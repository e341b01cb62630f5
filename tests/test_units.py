"""Units: what a person writes becomes nanoseconds, and back into what a person reads."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidsram.units import parse_duration, parse_rate, parse_size, show_ns, show_rate, show_size


@pytest.mark.parametrize(
    ("written", "ns"),
    [
        ("20 ms", 20_000_000),
        ("20ms", 20_000_000),
        (" 1.5 s ", 1_500_000_000),
        ("250 us", 250_000),
        ("250 \u00b5s", 250_000),
        ("250 \u03bcs", 250_000),
        ("7 ns", 7),
        ("2 min", 120_000_000_000),
        ("1 h", 3_600_000_000_000),
    ],
)
def test_duration_is_read_in_every_unit(written, ns):
    """One telling example for each unit and each way of writing it."""
    assert parse_duration(written) == ns


@pytest.mark.parametrize(
    "written",
    [
        *("", "20", "ms", "20 m", "20 MS", "-20 ms", "+20 ms", "1e3 ms", "nan ms", "inf s"),
        *(".5 ms", "0 ms", "0.1 ns", "20 ms extra", "2_0 ms", "٢٠ ms", "9" * 400 + " s"),
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(written):
    """Whatever is wrong, ValueError repeats it and shows how to write one."""
    with pytest.raises(ValueError) as caught:
        parse_duration(written)

    assert str(caught.value).startswith(f'"{written}" is ')
    assert '"20 ms"' in str(caught.value)


@given(st.integers(1, 3_600_000_000_000))
def test_shown_time_reads_back_within_half_a_percent(ns):
    """Three digits are shown, so reading them back errs by less than 0.5 %."""
    read_back = parse_duration(show_ns(ns))

    assert abs(read_back - ns) <= 0.005 * ns


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (0, "0 ns"),
        (999, "999 ns"),
        (1_234_567, "1.23 ms"),
        (12_345_678, "12.3 ms"),
        (100_000_000, "100 ms"),
        (999_999, "1 ms"),
        (2_000_000_000, "2 s"),
        (-1_500_000, "-1.5 ms"),
        (3_600_000_000_000, "3600 s"),
    ],
)
def test_time_is_shown_to_three_digits(ns, shown):
    """Examples at the edges between units and digits."""
    assert show_ns(ns) == shown


@pytest.mark.parametrize(
    ("written", "per_second"), [("10/s", 10.0), ("0.5 / s", 0.5), ("6/min", 0.1), ("36/h", 0.01)]
)
def test_rate_is_read_in_every_unit(written, per_second):
    """One telling example for each unit."""
    assert parse_rate(written) == pytest.approx(per_second)


@pytest.mark.parametrize(
    "written",
    ["", "10", "10/", "/s", "10/day", "0/s", "-1/s", "nan/s", "inf/s", "1e400/s", "1_0/s"],
)
def test_what_is_no_rate_is_refused_with_an_example(written):
    """Also what Python would take for a number: a rate is digits."""
    with pytest.raises(ValueError, match="is not a rate; write one like"):
        parse_rate(written)


@pytest.mark.parametrize("written", ["10/s", "0.5/s", "6/min", "2.5/min", "1/h", "1000000/s"])
def test_shown_rate_reads_back(written):
    """A rate shown and read again is the same rate."""
    rate = parse_rate(written)

    assert parse_rate(show_rate(rate)) == pytest.approx(rate)


def test_rate_is_shown_in_the_unit_a_person_would_choose():
    """At least one an interval, in the shortest interval that gives that."""
    assert [show_rate(10.0), show_rate(0.1), show_rate(1 / 3600)] == ["10/s", "6/min", "1/h"]


def test_size_is_read_and_shown():
    """Decimal and binary units are read; binary ones are shown."""
    assert parse_size("8 GiB") == 8 * 2**30
    assert parse_size("1.5 KB") == 1500
    assert [show_size(2 * 2**20), show_size(999)] == ["2 MiB", "999 B"]


def test_what_is_no_size_is_refused_with_the_units():
    """The complaint lists what is allowed."""
    with pytest.raises(ValueError, match="units are B, KB, MB, GB, KiB, MiB, GiB"):
        parse_size("8 gigs")
