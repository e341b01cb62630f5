"""Train a classifier of handwritten digits for some seconds, and say how it gets on."""

import argparse
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split


def main() -> None:
    """Go over the training images again and again until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds

    images, digits = load_digits(return_X_y=True)
    images, test_images, digits, test_digits = train_test_split(
        images / 16, digits, test_size=0.25, random_state=0
    )
    model = SGDClassifier(random_state=0)
    order = np.random.default_rng(0)

    began = told = time.monotonic()
    passes = 0
    while passes == 0 or time.monotonic() - began < seconds:
        shuffled = order.permutation(len(digits))
        model.partial_fit(images[shuffled], digits[shuffled], classes=range(10))
        passes += 1
        if time.monotonic() - told >= 1:
            told = time.monotonic()
            print(f"{passes} passes, {_percent(model, test_images, test_digits)}", flush=True)
    print(f"trained with {passes} passes, {_percent(model, test_images, test_digits)}", flush=True)


def _percent(model: SGDClassifier, images: np.ndarray, digits: np.ndarray) -> str:
    return f"{model.score(images, digits):.1%} of the test images right"


if __name__ == "__main__":
    main()
