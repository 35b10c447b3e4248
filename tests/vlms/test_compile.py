"""Compiled modules: the states that uncompiled ones give, from two batch sizes alone."""

import pytest
import torch
from test_families import CASES, TEXTS, folder, vlm
from test_local_backend import ENGINES, fresh, same
from tiny_parts import frames

from pr2l.core.errors import UserError
from pr2l.vlms.base import Defaults
from pr2l.vlms.compile import Buckets
from pr2l.vlms.loading import load_vlm

CASE = {case.name: case for case in CASES}
ONE_LENGTH = [TEXTS[1], TEXTS[2]] * 5
ALWAYS = {("llava", "none"), ("florence2", "greedy")}


def parameters(*values, always):
    """Parameters and their id; `make test` traces a few models only, as it takes up to a minute each."""
    return pytest.param(*values[:-1], id=values[-1], marks=() if always else pytest.mark.slow)


@pytest.fixture
def compiled_batches(monkeypatch):
    """Compiling here is only tracing; the list grows by the rows of the results of each graph that is made."""
    make, batches = torch.compile, []

    def backend(graph, inputs):
        output = next(node for node in graph.graph.nodes if node.op == "output")
        results = [node.meta["example_value"] for node in output.args[0]]
        batches.append(next((len(each) for each in results if torch.is_tensor(each) and each.ndim), 0))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda module, **how: make(module, dynamic=how["dynamic"], backend=backend))
    return batches


def shown(case, count):
    return frames(count, case.size, case.size, seed=count)


def test_batch_sizes_by_hand():
    buckets = Buckets(fixed=True)
    assert buckets.pieces(4) == [[0, 1, 2, 3]] and buckets.n == 4
    assert buckets.pieces(9) == [[0, 1, 2, 3, 4, 5, 6, 7], [8]] and buckets.n == 4
    assert buckets.padded([5, 6, 8]) == [5, 6, 8, 8] and buckets.padded([0, 1, 2, 3]) == [0, 1, 2, 3]
    assert buckets.padded(range(5)) == [0, 1, 2, 3, 4, 4, 4, 4]
    assert buckets.padded(range(9)) == list(range(9))
    free = Buckets(fixed=False)
    assert free.pieces(2) == [[0, 1]] and free.pieces(5) == [[0, 1, 2, 3, 4]] and free.padded([0, 3, 4]) == [0, 3, 4]


@pytest.mark.parametrize(
    "case", [parameters(case, case.name, always=case.name == "instructblip-t5") for case in ENGINES]
)
def test_a_traced_model_gives_what_the_plain_one_gives(case, compiled_batches):
    """A full batch, and one with a terminal frame, whose prompts have two lengths."""
    fast, plain = (fresh(case, generation="none", compile=on) for on in (True, False))
    for texts in (TEXTS[1:], TEXTS):
        pictures = shown(case, len(texts))
        same(fast.hidden(pictures, texts), plain.hidden(pictures, texts))
    assert compiled_batches


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        parameters(name, generation, f"{name}-{generation}", always=(name, generation) in ALWAYS)
        for name in ("llava", "florence2")
        for generation in ("none", "greedy")
    ],
)
def test_batches_of_any_size_give_what_the_plain_model_gives(name, generation, compiled_batches):
    """Full, short, and larger than two buckets; for the vision encoder alone too."""
    case = CASE[name]
    fast, plain = (fresh(case, generation=generation, new_tokens=2, compile=on) for on in (True, False))
    for count in (2, 2, 1, 5):
        pictures, texts = shown(case, count), ONE_LENGTH[:count]
        same(fast.hidden(pictures, texts), plain.hidden(pictures, texts))
        torch.testing.assert_close(fast.vision(pictures).values, plain.vision(pictures).values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llava", parameters("blip2-t5", "blip2-t5", always=False)])
def test_each_of_two_modules_is_compiled_for_two_batch_sizes(name, compiled_batches):
    case = CASE[name]
    fast = fresh(case, generation="none", compile=True)
    for count, made in ((4, 0), (4, 2), (3, 2), (1, 2), (5, 4), (8, 4), (4, 4), (20, 4)):
        fast.hidden(shown(case, count), [*ONE_LENGTH, *ONE_LENGTH][:count])
        assert len(compiled_batches) == made, f"{count} rows"
    assert compiled_batches == [4, 4, 8, 8]


def test_a_causal_model_that_generates_compiles_its_vision_alone(compiled_batches):
    case = CASE["llava"]
    fast = fresh(case, new_tokens=2, compile=True)
    for _ in range(2):  # the first pass is never compiled
        fast.hidden(shown(case, 4), ONE_LENGTH[:4])
    assert len(compiled_batches) == 1


def test_a_kept_text_is_not_used_where_passes_are_compiled(compiled_batches):
    case = CASE["llava"]
    options = {"generation": "none", "token_order": "text_first"}
    fast, pictures = fresh(case, **options, compile=True), shown(case, 2)
    theirs = fresh(case, **options).hidden(pictures, ONE_LENGTH[:2])
    for _ in range(2):
        same(fast.hidden(pictures, ONE_LENGTH[:2]), theirs)
    assert len(compiled_batches) == 2


def test_compiling_changes_no_key():
    assert vlm(CASE["llava"], compile=True).key() == vlm(CASE["llava"]).key()


def test_a_model_without_passes_of_its_own_is_not_compiled():
    for name, options in (("vipllava", {}), ("llava", {"disable": ("own_passes",)})):
        with pytest.raises(UserError, match="compile=true is not possible.*passes of its own"):
            load_vlm(str(folder(CASE[name])), Defaults(compile=True, **options))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", "florence2", "blip2-t5", "instructblip-vicuna"])
def test_compiled_code_gives_what_the_plain_model_gives(name):
    """The real compiler, which needs one for C++."""
    case = CASE[name]
    fast, plain = (fresh(case, generation="none", layers=(0, -2, -1), compile=on) for on in (True, False))
    for count in (2, 2, 3):
        same(fast.hidden(shown(case, count), ONE_LENGTH[:count]), plain.hidden(shown(case, count), ONE_LENGTH[:count]))
