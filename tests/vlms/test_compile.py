"""Compiled modules give the states of uncompiled ones, and are compiled for two batch sizes only."""

import pytest
import torch
from small_vlms import CASE, ENGINES, TEXTS, assert_same_hidden, folder, load, vlm
from tiny_parts import frames

from pr2l.core.errors import UserError
from pr2l.vlms.base import Defaults
from pr2l.vlms.compile import Buckets
from pr2l.vlms.loading import load_vlm

EQUALLY_LONG_TEXTS = [TEXTS[1], TEXTS[2]] * 10


def slow_unless(fast, *values, name):
    """Return parameters; `make test` traces a few models only, as tracing one takes several seconds."""
    return pytest.param(*values, id=name, marks=() if fast else pytest.mark.slow)


@pytest.fixture
def compiled_batches(monkeypatch):
    """Replace compiling by tracing; return a list that grows by the batch size of each traced graph."""
    make, batches = torch.compile, []

    def backend(graph, inputs):
        output = next(node for node in graph.graph.nodes if node.op == "output")
        results = [node.meta["example_value"] for node in output.args[0]]
        batches.append(next((len(result) for result in results if torch.is_tensor(result) and result.ndim), 0))
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(
        torch, "compile", lambda module, **options: make(module, dynamic=options["dynamic"], backend=backend)
    )
    return batches


def load_compiled(case, **options):
    return load_vlm(str(folder(case)), Defaults(image_size=case.image_size, compile=True, **options))


def pictures(case, count):
    return frames(count, case.size, case.size, seed=count)


def assert_same_states(compiled, plain, case, count):
    """Compare the hidden states of a batch, and the vision tower's tokens."""
    images, texts = pictures(case, count), EQUALLY_LONG_TEXTS[:count]
    assert_same_hidden(compiled.hidden(images, texts), plain.hidden(images, texts))
    torch.testing.assert_close(compiled.vision(images).values, plain.vision(images).values, rtol=0, atol=1e-5)


def test_batches_are_split_and_padded_to_buckets():
    buckets = Buckets(fixed=True)
    assert buckets.pieces(4) == [[0, 1, 2, 3]] and buckets.n == 4
    assert buckets.pieces(9) == [[0, 1, 2, 3, 4, 5, 6, 7], [8]] and buckets.n == 4
    assert buckets.padded([5, 6, 8]) == [5, 6, 8, 8] and buckets.padded([0, 1, 2, 3]) == [0, 1, 2, 3]
    assert buckets.padded(range(5)) == [0, 1, 2, 3, 4, 4, 4, 4]
    assert buckets.padded(range(9)) == list(range(9))
    free = Buckets(fixed=False)
    assert free.pieces(2) == [[0, 1]] and free.pieces(5) == [[0, 1, 2, 3, 4]] and free.padded([0, 3, 4]) == [0, 3, 4]


@pytest.mark.parametrize("case", [slow_unless(False, case, name=case.name) for case in ENGINES])
def test_traced_model_equals_the_plain_one(case, compiled_batches):
    """A full batch, and one with a terminal frame, whose prompts have two lengths."""
    compiled, plain = load_compiled(case, generation="none"), load(case, generation="none")
    for texts in (TEXTS[1:], TEXTS):
        images = pictures(case, len(texts))
        assert_same_hidden(compiled.hidden(images, texts), plain.hidden(images, texts))
    assert compiled_batches


@pytest.mark.parametrize(
    ("name", "generation"),
    [
        slow_unless((name, generation) == ("instructblip-t5", "greedy"), name, generation, name=f"{name}-{generation}")
        for name in ("llava", "florence2", "instructblip-t5")
        for generation in ("none", "greedy")
    ],
)
def test_batches_of_any_size_equal_the_plain_model(name, generation, compiled_batches):
    """Full, short, larger than two buckets, and with prompts of two lengths."""
    case, options = CASE[name], {"generation": generation, "new_tokens": 2}
    compiled, plain = load_compiled(case, **options), load(case, **options)
    for count in (2, 2, 1, 5):
        assert_same_states(compiled, plain, case, count)
    images = pictures(case, len(TEXTS))
    assert_same_hidden(compiled.hidden(images, TEXTS), plain.hidden(images, TEXTS))
    assert compiled_batches


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava", slow_unless(False, "blip2-t5", name="blip2-t5")])
def test_both_modules_are_compiled_for_two_batch_sizes(name, compiled_batches):
    case = CASE[name]
    compiled, plain = load_compiled(case, generation="none"), load(case, generation="none")
    compiled.hidden(pictures(case, 4), EQUALLY_LONG_TEXTS[:4])
    assert compiled_batches == []  # the first pass is never compiled
    for count, graphs in ((4, 2), (3, 2), (1, 2), (5, 4), (8, 4), (4, 4), (20, 4)):
        assert_same_states(compiled, plain, case, count)
        assert len(compiled_batches) == graphs, f"{count} rows"
    assert compiled_batches == [4, 4, 8, 8]


def test_causal_model_that_generates_compiles_only_its_vision_tower(compiled_batches):
    case = CASE["llava"]
    compiled = load_compiled(case, new_tokens=2)
    for _ in range(2):  # the first pass is never compiled
        compiled.hidden(pictures(case, 4), EQUALLY_LONG_TEXTS[:4])
    assert len(compiled_batches) == 1


def test_compiled_model_does_not_use_stored_texts(compiled_batches):
    case = CASE["llava"]
    options = {"generation": "none", "token_order": "text_first"}
    compiled, images = load_compiled(case, **options), pictures(case, 2)
    theirs = load(case, **options).hidden(images, EQUALLY_LONG_TEXTS[:2])
    for _ in range(2):
        assert_same_hidden(compiled.hidden(images, EQUALLY_LONG_TEXTS[:2]), theirs)
    assert len(compiled_batches) == 2


def test_key_does_not_depend_on_compile():
    assert vlm(CASE["llava"], compile=True).key() == vlm(CASE["llava"]).key()


def test_compile_is_refused_without_own_passes():
    for name, options in (("vipllava", {}), ("llava", {"disable": ("own_passes",)})):
        with pytest.raises(UserError, match="compile=true is not possible.*compile=false"):
            load_vlm(str(folder(CASE[name])), Defaults(compile=True, **options))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["llava", "florence2", "blip2-t5", "instructblip-vicuna"])
def test_compiled_code_equals_the_plain_model(name):
    """The real compiler, which needs one for C++."""
    case, options = CASE[name], {"generation": "none", "layers": (0, -2, -1)}
    compiled, plain = load_compiled(case, **options), load(case, **options)
    for count in (2, 2, 3):
        images, texts = pictures(case, count), EQUALLY_LONG_TEXTS[:count]
        assert_same_hidden(compiled.hidden(images, texts), plain.hidden(images, texts))
