"""Reading of words from a vision tower's features by CTC (Graves et al. 2006): the warm-up of `tiny_screens`.

A linear layer turns the features of each cell into scores of letters on a finer grid: lines of 8 pixels and steps of 2
pixels, since an i is 2 pixels wide. A word is read along the line through its middle, from its left to its right edge.
So the features of the cells must contain the text. The boxes of the words come from the DOM; nothing finds them.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

ALPHABET = string.digits + string.ascii_letters + string.punctuation
LETTERS = {letter: index for index, letter in enumerate(ALPHABET, 1)}
BLANK = 0  # CTC's symbol between letters
LINE = 8  # pixels from one line of scores to the next
LONGEST_PIECE = 3  # letters
STEP = 2  # pixels from one step to the next

Word = tuple[str, Sequence[float]]  # the text, and its box (x0, y0, x1, y1) in pixels


@dataclass(frozen=True)
class Letters:
    """Scores along N words.

    Args:
        scores: float [N, T, 1 + letters], logits of BLANK and of each letter of ALPHABET.
        lengths: int64 [N], number of steps of each word.
        texts: The words, N.
    """

    scores: Tensor
    lengths: Tensor
    texts: list[str]


def new_reader(width: int, cell: int) -> nn.Linear:
    """Return the linear layer from the features of a cell to the scores of its letters.

    Args:
        width: Number of features.
        cell: Side of a cell in pixels.
    """
    return nn.Linear(width, (cell // LINE) * (cell // STEP) * (1 + len(ALPHABET)))


def is_readable(word: Word) -> bool:
    """Return whether all letters of a word are in the alphabet and have room: CTC needs a step per letter, and a
    blank between two equal ones."""
    text, (x0, _, x1, _) = word
    repeats = sum(left == right for left, right in zip(text, text[1:], strict=False))
    return all(letter in LETTERS for letter in text) and len(text) + repeats <= math.ceil((x1 - x0) / STEP)


def piece(word: Word, edges: Sequence[float], rng: np.random.Generator) -> Word:
    """Return a random piece of a word, of 1 to LONGEST_PIECE letters, with its box.

    CTC has to find out by itself where in a word each letter is. From whole words alone, it learns nothing for hundreds
    of steps; pieces of a letter or two leave it no choice.

    Args:
        word: The word.
        edges: Left edges of its letters and right edge of the last one.
        rng: Random generator.
    """
    text, (_, top, _, bottom) = word
    length = int(rng.integers(1, min(LONGEST_PIECE, len(text)) + 1))
    start = int(rng.integers(len(text) - length + 1))
    return text[start : start + length], (edges[start], top, edges[start + length], bottom)


def read(reader: nn.Linear, tower: Tensor, words: Sequence[Sequence[Word]], cell: int) -> Letters:
    """Compute the scores along the words of B frames.

    Args:
        reader: Layer of `new_reader`.
        tower: Features [B, C, H, W] of the cells.
        words: The readable words of each frame, B lists with at least one word in all.
        cell: Side of a cell in pixels.
    """
    grid = letter_grid(reader, tower, cell)  # [B, lines, steps, 1 + letters]
    flat = [(row, text, box) for row, frame_words in enumerate(words) for text, box in frame_words]
    starts = [math.floor(box[0] / STEP) for _, _, box in flat]
    lengths = [math.ceil(box[2] / STEP) - start + 1 for (_, _, box), start in zip(flat, starts, strict=True)]
    lines = [int((box[1] + box[3]) / 2 / LINE) for _, _, box in flat]
    rows = torch.tensor([row for row, _, _ in flat])[:, None]
    steps = torch.tensor(starts)[:, None] + torch.arange(max(lengths))
    line = torch.tensor(lines)[:, None].clamp(max=grid.shape[1] - 1)
    scores = grid[rows, line, steps.clamp(max=grid.shape[2] - 1)]
    return Letters(scores, torch.tensor(lengths), [text for _, text, _ in flat])


def letter_grid(reader: nn.Linear, tower: Tensor, cell: int) -> Tensor:
    """Return the scores of all places, float [B, lines, steps, 1 + letters]."""
    down, across = cell // LINE, cell // STEP
    batch, _, height, width = tower.shape
    scores = reader(tower.permute(0, 2, 3, 1)).float().view(batch, height, width, down, across, -1)
    return scores.permute(0, 1, 3, 2, 4, 5).reshape(batch, height * down, width * across, -1)


def reading_loss(letters: Letters) -> Tensor:
    """Compute the CTC loss per letter, averaged over words.

    Args:
        letters: Scores along words.
    """
    targets = torch.tensor([LETTERS[letter] for text in letters.texts for letter in text])
    sizes = torch.tensor([len(text) for text in letters.texts])
    logs = letters.scores.log_softmax(-1).transpose(0, 1)
    return nn.functional.ctc_loss(logs, targets, letters.lengths, sizes, BLANK, zero_infinity=True)


def texts_of(letters: Letters) -> list[str]:
    """Return the most likely text along each word: the best symbol of each step, without repeats and blanks.

    Args:
        letters: Scores along words.
    """
    best = letters.scores.argmax(-1).cpu().numpy()
    return [_collapsed(row[:length]) for row, length in zip(best, letters.lengths.tolist(), strict=True)]


def _collapsed(symbols: np.ndarray) -> str:
    kept = [symbol for index, symbol in enumerate(symbols) if index == 0 or symbol != symbols[index - 1]]
    return "".join(ALPHABET[symbol - 1] for symbol in kept if symbol != BLANK)


def reading_accuracy(letters: Letters) -> float:
    """Return the fraction of words that are read without an error.

    Args:
        letters: Scores along words.
    """
    return float(np.mean([read == text for read, text in zip(texts_of(letters), letters.texts, strict=True)]))
