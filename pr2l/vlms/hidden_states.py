"""Hidden states of a batch, collected from its forward passes into one tensor.

    model's order   BOS  USER :  [image x I]  where is it ?  ASSISTANT :   left  of  you  </s>
    Hidden's order  |--- image: I ---|--- prompt: P, padded on the right ---|--- generated: N ---|

Image and prompt together are the whole input: "prompt" is every input token that is not an image token, in the model's
order, with the tokens of the chat template and special tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pr2l.core.types import Hidden
from pr2l.vlms.backends.local import PassStates


class HiddenBatch:
    """States and mask of B rows, zero and False until a pass is added.

    Args:
        image_tokens: Number of image tokens of each row.
        text_tokens: Number of the other input tokens of each row.
        prompt_tokens: P, at least the largest of text_tokens.
        new_tokens: N, number of generated tokens.
        shape: L and D, the number of layers and the width of a state.
        device: Device of the states.
    """

    def __init__(
        self,
        image_tokens: Sequence[int],
        text_tokens: Sequence[int],
        *,
        prompt_tokens: int,
        new_tokens: int,
        shape: tuple[int, int],
        device: torch.device,
    ) -> None:
        (layers, size), rows = shape, len(image_tokens)
        self.image_tokens = image_tokens
        input_end = max(image_tokens) + prompt_tokens
        self.spans = {
            "image": slice(0, max(image_tokens)),
            "prompt": slice(max(image_tokens), input_end),
            "generated": slice(input_end, input_end + new_tokens),
        }
        self.states = torch.zeros(rows, layers, input_end + new_tokens, size, device=device)
        self.mask = torch.zeros(rows, input_end + new_tokens, dtype=torch.bool, device=device)
        for segment, counts in (("image", image_tokens), ("prompt", text_tokens)):
            span = self.spans[segment]
            positions = torch.arange(span.stop - span.start, device=device)
            self.mask[:, span] = positions < torch.tensor(counts, device=device)[:, None]
        self.answers = [""] * rows

    def add(self, rows: Sequence[int], output: PassStates, is_answer: torch.Tensor, answers: Sequence[str]) -> None:
        """Add the states of rows that went through the model together.

        Args:
            rows: Indices of the rows, which have equally many image tokens.
            output: Their states; those of the input in Hidden's order.
            is_answer: bool [rows, N], True up to and including the token that ends the answer.
            answers: The text of each answer.
        """
        places, images = list(rows), self.image_tokens[rows[0]]
        text = output.inputs[:, :, images:]
        start = self.spans["prompt"].start
        self.states[places, :, :images] = output.inputs[:, :, :images]
        self.states[places, :, start : start + text.shape[2]] = text
        self.states[places, :, self.spans["generated"]] = output.generated
        self.mask[places, self.spans["generated"]] = is_answer
        for place, answer in zip(places, answers, strict=True):
            self.answers[place] = answer

    def result(self) -> Hidden:
        """Return the batch, with the states of masked positions set to zero."""
        return Hidden(self.states.masked_fill_(~self.mask[:, None, :, None], 0.0), self.mask, self.spans, self.answers)
