"""Token ids of a batch: padding, order and targets, on rows that are small enough to write down."""

import torch

from pr2l.vlms.token_ids import IGNORE_INDEX, append_answers, image_tokens_first, next_token_targets, padded

IMAGE, PAD = 9, 0
X = IGNORE_INDEX


def test_rows_are_padded_on_the_right():
    assert padded([[5, 6, 7], [8]], PAD).tolist() == [[5, 6, 7], [8, PAD, PAD]]


def test_image_tokens_come_first_in_their_order():
    ids = torch.tensor([[5, IMAGE, 6, IMAGE, 7]])
    assert image_tokens_first(ids, IMAGE).tolist() == [1, 3, 0, 2, 4]


def test_answer_follows_the_input_of_its_own_row():
    inputs = {
        "input_ids": torch.tensor([[IMAGE, 5, 6], [IMAGE, 7, PAD]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "token_type_ids": torch.tensor([[1, 0, 0], [1, 0, 0]], dtype=torch.int32),
        "pixel_values": torch.zeros(2, 3, 4, 4),
    }
    longer = append_answers(inputs, [[11], [12, 13]], PAD, answer_type=4)
    assert longer["input_ids"].tolist() == [[IMAGE, 5, 6, 11], [IMAGE, 7, 12, 13]]
    assert longer["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert longer["token_type_ids"].tolist() == [[1, 0, 0, 4], [1, 0, 4, 4]]
    assert longer["token_type_ids"].dtype == torch.int32
    assert longer["pixel_values"] is inputs["pixel_values"] and "mm_token_type_ids" not in longer
    assert inputs["input_ids"].shape == (2, 3)


def test_target_at_a_position_is_the_token_after_it():
    """In the rows [a b c | 11] and [a b | 12 13], c predicts 11, b predicts 12, and 12 predicts 13."""
    assert next_token_targets([3, 2], [[11], [12, 13]]).tolist() == [[X, X, 11, X], [X, 12, 13, X]]
