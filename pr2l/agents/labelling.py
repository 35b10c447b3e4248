"""Write a data set whose rewards and success are an evaluator's: `pr2l evaluator label`.

For episodes whose success nobody knows, such as those of a real phone, and for the effect of wrong labels on learning.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pr2l.agents.evaluators.common.loading import load_evaluator
from pr2l.agents.judging import INSTRUCTION, instructions, probabilities
from pr2l.core.answer_cache import CACHE, AnswerCache
from pr2l.core.console import Console
from pr2l.core.errors import UserError
from pr2l.core.io import write_text
from pr2l.core.types import THRESHOLD
from pr2l.data.manifest import LABELS
from pr2l.data.recording import FILE, Recording


def label(
    dataset: Path,
    evaluator: str,
    output: Path,
    options: Mapping[str, Any] | None = None,
    *,
    instruction: str = INSTRUCTION,
    actions: str | None = None,
    cache: Path = CACHE,
    replay: bool = False,
) -> dict[int, float | None]:
    """Copy a data set, with an evaluator's labels.

    All rewards are 0, but 1 at the last step of an episode with a probability of success of 0.5 or more; such an
    episode is terminated. An abstention is a failure.

    Args:
        dataset: Folder of `pr2l collect`; it does not change. Embeddings are not copied.
        evaluator: A name from `pr2l list evaluators`.
        output: Folder of the new data set, which must not exist. `pr2l collect` cannot extend it.
        options: Values for the evaluator's Defaults. None = {}.
        instruction: As in `instructions`.
        actions: As in `probabilities`.
        cache: File of the cached answers of models.
        replay: Use answers in the cache only; an API then needs no key.

    Returns:
        The probabilities of success by number of the episode; None = the evaluator abstained.

    Raises:
        UserError: The output exists, a name or an option is wrong, the data set is damaged, or the model cannot be
            used.
    """
    if output.exists():
        raise UserError(f"{output} exists already; name another folder with --output")
    judge = load_evaluator(evaluator, options, AnswerCache(cache, replay=replay))
    data = Recording(dataset)
    scores = probabilities(data, judge, instructions(data, instruction, range(data.episodes)), actions)
    partial = output.with_name(f".partial-{output.name}")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    shutil.copytree(dataset / "data", partial / "data")
    if (dataset / LABELS).is_file():
        shutil.copyfile(dataset / LABELS, partial / LABELS)
    with h5py.File(partial / "data" / FILE, "r+") as file:
        for number, probability in scores.items():
            _write_label(file[f"episode_{number}"], probability is not None and probability >= THRESHOLD)
    _write_metadata(partial, output.name, {"evaluator": evaluator, "evaluator_options": dict(options or {})})
    partial.rename(output)
    successes = sum(score is not None and score >= THRESHOLD for score in scores.values())
    abstentions = sum(score is None for score in scores.values())
    counts = f"{successes:,} successes, {len(scores) - successes:,} failures, of which {abstentions:,} abstentions"
    Console().print(f"{len(scores):,} episodes are in {output}: {counts}", markup=False)
    return scores


def _write_label(episode: h5py.Group, success: bool) -> None:
    rewards = np.zeros(len(episode["rewards"]), episode["rewards"].dtype)
    rewards[-1] = success
    episode["rewards"][...] = rewards
    episode.attrs.update({"success": success, "return": float(success)})
    if success:
        episode["terminations"][-1], episode["truncations"][-1] = True, False


def _write_metadata(folder: Path, name: str, values: dict[str, Any]) -> None:
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps({**metadata, "dataset_id": name, **values}))
