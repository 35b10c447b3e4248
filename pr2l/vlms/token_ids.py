"""Token ids of a batch as tensors: padding, the positions of image tokens, and answers with their targets."""

from __future__ import annotations

from collections.abc import Sequence

import torch

IGNORE_INDEX = -100  # a target that the loss ignores, as in transformers


def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Return the rows, padded on the right with `fill`, as int64 [B, T].

    Args:
        rows: At least one row of token ids; T is the length of the longest.
        fill: Value of padding, such as `pad_token_id`, IGNORE_INDEX, or 0 for a mask.
    """
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def image_tokens_first(ids: torch.Tensor, *image_token_ids: int) -> torch.Tensor:
    """Return the positions of the image tokens, then those of the others: the order of `Hidden`.

    Args:
        ids: int64 [B, T], rows with image tokens at the same positions.
        image_token_ids: Id of an image token, and that of a video token if the model has one.

    Returns:
        int64 [T].
    """
    image = torch.isin(ids[0], torch.tensor(image_token_ids, device=ids.device))
    return torch.cat([image.nonzero().flatten(), (~image).nonzero().flatten()])


def append_answers(
    inputs: dict[str, torch.Tensor], answers: Sequence[Sequence[int]], pad_token_id: int, answer_type: int
) -> dict[str, torch.Tensor]:
    """Return inputs of a decoder-only model with an answer at the end of each row, padded on the right.

    Args:
        inputs: Inputs of the model, with input_ids and attention_mask [B, T], padded on the right. Type ids get longer
            too; image inputs stay as they are.
        answers: Token ids of the answer of each row.
        pad_token_id: Id of padding.
        answer_type: Type id of the answers' tokens.
    """
    ones, types = ([[value] * len(ids) for ids in answers] for value in (1, answer_type))
    ends = {"input_ids": answers, "attention_mask": ones, "token_type_ids": types, "mm_token_type_ids": types}
    lengths = inputs["attention_mask"].sum(1).tolist()
    longer = {}
    for key in ends.keys() & inputs.keys():
        rows = zip(inputs[key].tolist(), lengths, ends[key], strict=True)
        fill = pad_token_id if key == "input_ids" else 0
        longer[key] = padded([[*row[:length], *end] for row, length, end in rows], fill).to(inputs[key])
    return inputs | longer


def next_token_targets(lengths: Sequence[int], answers: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the targets of the logits of `append_answers`' inputs: at each position the token after it.

    Args:
        lengths: Length of each row's input, at least 1.
        answers: Token ids of the answer of each row.

    Returns:
        int64 [B, T], with IGNORE_INDEX where the next token is not one of the answer.
    """
    rows = zip(lengths, answers, strict=True)
    return padded([[*[IGNORE_INDEX] * (length - 1), *ids, IGNORE_INDEX] for length, ids in rows], IGNORE_INDEX)
