"""The layout of the hidden states of a batch, on states that are their own position."""

import torch

from pr2l.vlms.backends.local import PassStates
from pr2l.vlms.hidden_states import HiddenBatch


def states(*values):
    """One row of one layer with states of width 1."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1, 1)


def test_rows_of_different_layouts_come_into_one_tensor():
    """Row 0 has two images of 2 tokens and one text token, row 1 one image and three text tokens."""
    batch = HiddenBatch([4, 2], [1, 3], prompt_tokens=4, new_tokens=2, shape=(1, 1), device=torch.device("cpu"))
    tokens = torch.tensor([[7, 8]])
    batch.add([1], PassStates(states(1, 2, 3, 4, 5), tokens, states(8, 9)), torch.tensor([[True, True]]), ["left of"])
    batch.add([0], PassStates(states(1, 2, 3, 4, 5), tokens, states(6, 7)), torch.tensor([[True, False]]), ["near"])
    hidden = batch.result()
    assert hidden.spans == {"image": slice(0, 4), "prompt": slice(4, 8), "generated": slice(8, 10)}
    assert hidden.states[:, 0, :, 0].tolist() == [
        [1, 2, 3, 4, 5, 0, 0, 0, 6, 0],
        [1, 2, 0, 0, 3, 4, 5, 0, 8, 9],
    ]
    assert torch.equal(hidden.mask, hidden.states[:, 0, :, 0] > 0)
    assert hidden.answers == ["near", "left of"]


def test_without_generation_the_generated_segment_is_empty():
    batch = HiddenBatch([1], [2], prompt_tokens=2, new_tokens=0, shape=(1, 1), device=torch.device("cpu"))
    none = torch.empty(1, 0, dtype=torch.long)
    batch.add([0], PassStates(states(1, 2, 3), none, states()), none.bool(), [""])
    hidden = batch.result()
    assert hidden.spans["generated"] == slice(3, 3)
    assert hidden.states.flatten().tolist() == [1, 2, 3] and hidden.mask.all()
