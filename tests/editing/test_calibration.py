"""Age calibration: on judges whose answers are known."""

import numpy as np
import pytest
from scipy.optimize import brentq

from sam_age.editing import calibrate
from sam_age.errors import InputError


class Judge:
    """Reads the setting through a curve of each face, and counts."""

    def __init__(self, *curves) -> None:
        self.curves, self.calls, self.readings = curves, 0, []

    def __call__(self, faces, settings):
        self.calls += 1
        self.readings += zip(faces, settings, strict=True)
        return [self.curves[face](setting) for face, setting in zip(faces, settings, strict=True)]


def squashed(age: float) -> float:
    """Too old when young and too young when old, as such models are."""
    return 15 + 55 / (1 + np.exp(-(age - 45) / 14))


def late(age: float) -> float:
    return 0.9 * age**3 / 1e4 + 2


@pytest.mark.parametrize("curve", [squashed, late, lambda age: age, lambda age: 5 + 0.8 * age])
def test_the_setting_is_the_root_that_scipy_finds(curve):
    ages = [20.0, 35.0, 60.0]
    for found in calibrate(Judge(curve), 1, ages, tolerance=0.01, rounds=20):
        assert found.reached
        assert found.read == pytest.approx(curve(found.set))
        assert found.plain == pytest.approx(curve(found.asked))
        root = brentq(lambda age, asked=found.asked: curve(age) - asked, 0, 100)
        slope = (curve(root + 0.1) - curve(root - 0.1)) / 0.2
        assert abs(found.set - root) <= 0.011 / slope + 1e-6


def test_a_few_readings_are_enough_for_half_a_year():
    judge = Judge(squashed, late)
    found = calibrate(judge, 2, [25.0, 40.0, 65.0])
    assert all(each.reached and abs(each.error) <= 0.5 for each in found)
    assert judge.calls <= 8
    assert len(judge.readings) <= 2 * 3 * 6
    assert len(set(judge.readings)) == len(judge.readings)  # nothing is read twice
    assert [(each.face, each.asked) for each in found] == [(f, a) for f in (0, 1) for a in (25.0, 40.0, 65.0)]


def test_many_faces_get_what_each_gets_alone():
    together = calibrate(Judge(squashed, late), 2, [30.0, 50.0])
    for face, curve in enumerate((squashed, late)):
        alone = calibrate(Judge(curve), 1, [30.0, 50.0])
        assert [(a.set, a.read) for a in alone] == [(t.set, t.read) for t in together if t.face == face]


def test_an_age_out_of_reach_gets_the_closest_setting_and_says_so():
    young, old = calibrate(Judge(squashed), 1, [5.0, 80.0])
    assert (young.set, young.reached) == (0.0, False)
    assert (old.set, old.reached) == (100.0, False)
    assert old.error == pytest.approx(squashed(100) - 80)


def test_a_jump_is_closed_in_on_though_no_setting_reads_the_age():
    (found,) = calibrate(Judge(lambda age: 20.0 if age < 61.3 else 70.0), 1, [50.0], rounds=12)
    assert not found.reached
    assert found.read == 70.0


def test_a_flat_judge_ends_the_search():
    judge = Judge(lambda age: 33.0)
    (found,) = calibrate(judge, 1, [50.0])
    assert (found.reached, found.read, judge.calls) == (False, 33.0, 2)


def test_one_round_reports_what_setting_the_age_itself_reads():
    (found,) = calibrate(Judge(squashed), 1, [70.0], rounds=1)
    assert (found.set, found.read, found.plain) == (70.0, squashed(70), squashed(70))
    with pytest.raises(InputError, match="rounds"):
        calibrate(Judge(squashed), 1, [70.0], rounds=0)
