"""Whether a version on trial goes on: what was counted, held against chance at 99 %."""

from math import log, sqrt

from tidsram.serve.messages import Counts
from tidsram.stats import CONFIDENCE, lower_bound, upper_bound, verdict


def fault_of(served: Counts, tried: Counts, objective: float) -> str:
    """Say why the version on trial must not go on; empty while nothing speaks against it.

    Questions that were refused contradict nothing by themselves: with more load than there is time
    for, either version has to refuse.
    """
    broken, asked = tried.missed + tried.failed, tried.asked
    if verdict(asked - broken, asked, objective) == "contradicted":
        return (
            f"{broken} of its {asked} questions were missed or failed, "
            f"which contradicts the objective {objective:g}"
        )
    for what, new, old in (
        ("missed or failed", broken, served.missed + served.failed),
        ("refused", tried.refused, served.refused),
    ):
        if asked and served.asked and _exceeds(new, asked, old, served.asked):
            return (
                f"{new} of its {asked} questions were {what}, and {old} of {served.asked} of the "
                f"version that is served: more than chance would bring"
            )
    return ""


def drift_of(agreed: int, compared: int, share: float) -> str:
    """Say why the answers of the version on trial are too often others; empty while they are not.

    Not as good as that by chance does not count: a few of few may differ.
    """
    if verdict(agreed, compared, share) != "contradicted":
        return ""
    return (
        f"{agreed} of the {compared} answers that were compared agree with those that were given, "
        f"which contradicts the share {share:g}"
    )


def mean_at_least(mean: float, n: int) -> float:
    """Return what the mean of shares in [0, 1] surely exceeds when `n` of them have this one.

    By Hoeffding's inequality, whatever their distribution.
    """
    return max(0.0, mean - sqrt(-log(1 - CONFIDENCE) / (2 * n)))


def _exceeds(new: int, new_of: int, old: int, old_of: int) -> bool:
    return lower_bound(new, new_of) > upper_bound(old, old_of)
