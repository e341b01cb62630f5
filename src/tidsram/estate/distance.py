"""How far places are apart, and how long light in fibre takes for the way there and back."""

from math import asin, cos, radians, sin, sqrt

Location = tuple[float, float]  # degrees of latitude and longitude

EARTH_KM = 6371.0
NS_PER_KM = 9_800  # light in fibre, there and back: 4.9 µs/km one way


def great_circle_km(a: Location, b: Location) -> float:
    """Return the shortest way over the ground."""
    (lat_a, lon_a), (lat_b, lon_b) = map(radians, a), map(radians, b)
    chord = sin((lat_b - lat_a) / 2) ** 2
    chord += cos(lat_a) * cos(lat_b) * sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_KM * asin(min(1.0, sqrt(chord)))


def floor_ns(a: Location, b: Location) -> int:
    """Return the round trip of light in a straight fibre: no network is faster."""
    return round(great_circle_km(a, b) * NS_PER_KM)
