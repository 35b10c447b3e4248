"""Cache of answers: equal questions are asked once, by several processes too, and damaged lines are asked again."""

import fcntl
import json
import multiprocessing
import threading

import numpy as np
import pytest

from pr2l.agents.evaluators import AnswerCache
from pr2l.agents.evaluators.common.prompts import conversation, screen_parts
from pr2l.core.answer_cache import question_key
from pr2l.core.errors import UserError


class Counter:
    """Function that counts its calls and returns their number."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"number": self.calls}


def question(grey=0, text="?", height=2):
    parts = screen_parts([np.full((height, 4 // height, 3), grey, np.uint8)])
    return question_key(conversation([*parts, {"type": "text", "text": text}]))


def test_equal_questions_are_asked_once():
    cache, ask = AnswerCache(), Counter()
    keys = [question(), question(), question(1), question(text="!"), question(height=1), question()]
    assert [cache.answer(key, ask)["number"] for key in keys] == [1, 1, 2, 3, 4, 1]
    assert cache.hits == 2


def test_answers_stay_on_disk(tmp_path):
    path, ask = tmp_path / "folder" / "answers.jsonl", Counter()
    assert AnswerCache(path).answer(question(), ask) == {"number": 1}
    assert AnswerCache(path).answer(question(), ask) == {"number": 1}
    assert json.loads(path.read_text())["answer"] == {"number": 1}
    assert AnswerCache(path, replay=True).answer(question(), ask) == {"number": 1}
    with pytest.raises(UserError, match="no answer to this question"):
        AnswerCache(path, replay=True).answer(question(1), ask)
    with pytest.raises(UserError, match="no recording"):
        AnswerCache(tmp_path / "none.jsonl", replay=True)
    assert ask.calls == 1


def test_answers_of_other_processes_are_read_before_a_question_is_asked(tmp_path):
    ask, caches = Counter(), [AnswerCache(tmp_path / "a.jsonl") for _ in range(2)]
    for number in range(5):
        assert [cache.answer(number, ask)["number"] for cache in (*caches, *reversed(caches))] == [number + 1] * 4


def test_failed_question_is_asked_again(tmp_path):
    cache = AnswerCache(tmp_path / "a.jsonl")

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.answer("key", fail)
    assert cache.answer("key", Counter()) == {"number": 1}


def test_every_cut_of_the_last_line_loses_that_line_alone(tmp_path):
    """As after kill -9 or a full disk at any byte; the next line is complete."""
    path = tmp_path / "a.jsonl"
    for key in ("first", "last"):
        AnswerCache(path).answer(key, lambda key=key: {"of": key})
    content = path.read_bytes()
    start = content.index(b"\n") + 1
    for end in range(start, len(content)):
        path.write_bytes(content[:end])
        again = AnswerCache(path)
        assert again.answer("first", Counter()) == {"of": "first"}
        complete = end == len(content) - 1  # only the line's end is missing
        assert again.answer("last", Counter()) == {"number": 1}
        read = AnswerCache(path, replay=True)
        assert read.answer("first", Counter()) == {"of": "first"}
        assert read.answer("last", Counter()) == ({"of": "last"} if complete else {"number": 1})


def test_damaged_lines_are_asked_again(tmp_path):
    path = tmp_path / "a.jsonl"
    AnswerCache(path).answer("key", lambda: {"probability": 0.25})
    path.write_bytes(path.read_bytes().replace(b"0.25", b"0.75") + b"\xff\x00\n[]\n{}\n")
    assert AnswerCache(path).answer("key", Counter()) == {"number": 1}
    assert AnswerCache(path, replay=True).answer("key", Counter()) == {"number": 1}


def append(path, first):
    cache = AnswerCache(path)
    for number in range(first, first + 200):
        cache.answer(number, lambda number=number: {"of": number, "text": "x" * 3000})


def test_concurrent_writers_lose_no_line(tmp_path):
    path = tmp_path / "a.jsonl"
    writers = [multiprocessing.get_context("fork").Process(target=append, args=(path, n * 200)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(path.read_text().splitlines()) == 600
    cache = AnswerCache(path, replay=True)
    assert all(cache.answer(number, Counter())["of"] == number for number in range(600))


def test_writer_waits_for_the_lock_of_the_file(tmp_path):
    path = tmp_path / "a.jsonl"
    writer = threading.Thread(target=AnswerCache(path).answer, args=("key", Counter()))
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.3)
        assert writer.is_alive() and path.stat().st_size == 0
    writer.join(10)
    assert AnswerCache(path, replay=True).answer("key", Counter()) == {"number": 1}


def test_threads_share_a_cache(tmp_path):
    cache, ask = AnswerCache(tmp_path / "a.jsonl"), Counter()
    threads = [threading.Thread(target=lambda: [cache.answer(n, ask) for n in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = [cache.answer(number, Counter()) for number in range(50)]
    assert len({answer["number"] for answer in answers}) == 50
    assert answers == [AnswerCache(cache.path, replay=True).answer(number, ask) for number in range(50)]
