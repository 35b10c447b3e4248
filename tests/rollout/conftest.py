import pytest
from gated_world import GatedWorld


@pytest.fixture
def worlds():
    """Two worlds, whose gates are opened at the end so that no thread is left behind."""
    both = GatedWorld(), GatedWorld()
    yield both
    for world in both:
        world.gate.set()
