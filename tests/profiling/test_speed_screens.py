"""The program `pr2l speed-screens`."""

from random import Random

import pytest

from pr2l.core.errors import UserError
from pr2l.core.statistics import Estimate
from pr2l.profiling import screens
from pr2l.profiling.timing import Effort
from tests.environments.browser_pages import needs_chromium


@pytest.mark.slow
@needs_chromium
def test_every_number_of_pages_of_every_size_is_measured() -> None:
    effort = Effort(rounds=6, seconds=0)
    measures = screens.speed_screens([(80, 100), (160, 210)], [1, 2], step_ms=50, effort=effort)
    assert [measure.name for measure in measures] == [
        "80 x 100, 1 page",
        "80 x 100, 2 pages",
        "160 x 210, 1 page",
        "160 x 210, 2 pages",
    ]
    assert all(measure.value.low > 0 and measure.goal is None for measure in measures)


@needs_chromium
def test_touches_change_the_page() -> None:
    with screens.open_pages((160, 210), 2, browsers=1, step_ms=100) as pages:
        screens.Steps(pages)()
        switched = [page.evaluate("document.querySelectorAll('.on').length") for page in pages]
    assert switched[0] == switched[1] > 0


def test_measure_of_the_goal() -> None:
    fast, slow = Estimate(60.0, 55.0, 62.0), Estimate(20.0, 19.0, 21.0)
    assert screens.measure((160, 210), 4, fast).verdict == "reached (>= 50)"
    assert screens.measure((320, 560), 4, slow).verdict == "missed (>= 30)"
    assert screens.measure((320, 560), 1, slow).verdict == ""


def test_swipes_are_rare() -> None:
    random = Random(1)
    types = [screens.random_gesture(random).type for _ in range(800)]
    assert 60 < types.count("swipe") < 140 and set(types) == {"tap", "swipe"}


@pytest.mark.parametrize("text", ["160", "160x", "x210", "0x10", "160x9999", "axb", ""])
def test_bad_sizes_are_explained(text: str) -> None:
    assert screens.parse_sizes("160x210, 320x560") == [(160, 210), (320, 560)]
    with pytest.raises(UserError, match="WIDTHxHEIGHT"):
        screens.parse_sizes(text)


@pytest.mark.parametrize("text", ["0", "65", "two", "1,,2", ""])
def test_bad_numbers_of_pages_are_explained(text: str) -> None:
    assert screens.parse_counts("1, 4") == [1, 4]
    with pytest.raises(UserError, match="from 1 to 64"):
        screens.parse_counts(text)
