from __future__ import annotations

import numpy as np

from benchmarks.calibration import Case, fitted
from processing.calibrate import Calibration
from processing.evaluate import calibration_error


def drawn(truth: Calibration, seed: int, count: int) -> list[Case]:
    """Return plates that are right by a calibration's own chances."""
    random = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        certainty, form = float(random.uniform(0.3, 1)), True
        frames = int(random.integers(1, 9)) if random.random() < 0.5 else None
        chance = truth.chance(certainty, form=form, frames=frames)
        cases.append(Case(certainty, form, frames, bool(random.random() < chance)))
    return cases


def error(made: Calibration, cases: list[Case]) -> float:
    claims = [
        (made.chance(case.certainty, form=case.form, frames=case.frames), case.right)
        for case in cases
    ]
    return calibration_error(claims) or 0.0


def test_what_is_fitted_tells_the_truth_of_cases_that_it_has_not_seen() -> None:
    truth = Calibration(offset=-2.0, certainty=0.6, form=0.5, video=1.0, rarity=-2.0)
    held = drawn(truth, 2, 4000)
    made = fitted(drawn(truth, 1, 2000))
    assert error(made, held) < 0.04 < error(Calibration(), held)


def test_without_cases_the_figures_are_those_likely_of_any_reader() -> None:
    assert fitted([Case(0.9, form=True, frames=None, right=True)]).form == Calibration().form
