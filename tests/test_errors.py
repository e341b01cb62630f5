"""Errors: each has a code of its own, its facts, and a sentence that stands alone."""

from tidsram import errors
from tidsram.errors import EstateError, ModelRefused, TidsramError

CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, TidsramError)
]


def test_every_error_has_a_code_of_its_own():
    """Scripts tell errors apart by code; two with one code could not be."""
    codes = [error.code for error in CLASSES]

    assert len(codes) == len(set(codes)) == len(CLASSES)


def test_every_error_says_what_it_is_for():
    """The docstring is the only place where a code is explained."""
    assert all(error.__doc__ for error in CLASSES)


def test_estate_error_keeps_its_facts():
    """Place and problem stay readable, and together make the sentence."""
    error = EstateError("tidsram.toml", '[decision.a] budgte = "1 s" is not a key')

    assert (error.where, error.problem) == (
        "tidsram.toml",
        '[decision.a] budgte = "1 s" is not a key',
    )
    assert str(error) == 'tidsram.toml: [decision.a] budgte = "1 s" is not a key'


def test_refused_model_keeps_its_facts():
    """Model, problem and remedy stay readable, and together make the sentence."""
    error = ModelRefused("m.onnx", "it is empty", "Export it again.")

    assert (error.model, error.problem, error.remedy) == (
        "m.onnx",
        "it is empty",
        "Export it again.",
    )
    assert str(error) == "model m.onnx: it is empty. Export it again."
