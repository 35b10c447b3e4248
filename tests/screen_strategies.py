"""Hypothesis strategies for screen actions and for arbitrary values."""

from hypothesis import strategies as st

from pr2l.environments.common.screen_actions import FIELDS, TYPES, ScreenAction

COORDINATES = st.floats(0, 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers()))


@st.composite
def screen_actions_of(draw, types=TYPES, coordinates=COORDINATES, texts=TEXTS):
    """Draw an action of one of the types."""
    action = draw(st.sampled_from(types))
    return ScreenAction(action, **{field: draw(texts if field == "text" else coordinates) for field in FIELDS[action]})
