"""A served VLM against its own family in this process, through a stand-in for `vllm serve` (see vllm_standin.py).

Tolerance: float32, 1e-5, as for the families.
"""

import json
import shlex
import shutil
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_families import CASES, TEXTS, N, close, folder, pictures
from tiny_parts import frames
from vllm_standin import Server, Standin, arguments

from pr2l.core.errors import UserError
from pr2l.pretraining.finetune import FinetuneConfig, load_for_training
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.vllm import MODEL_TYPES, serve_command
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import load_vlm

CASE = {case.name: case for case in CASES}
LLAVA, QWEN, QWEN3 = CASE["llava"], CASE["qwen2_5_vl"], CASE["qwen3_vl"]
NOWHERE = "http://127.0.0.1:1"


def given(case, **options):
    few = {"new_tokens": N, "layers": (-1, 0, -2), "image_size": case.image_size, "dtype": "float32"}
    return Defaults(**(few | options))


@pytest.fixture
def server():
    """Listens on a port of its own."""
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def serve(server, tmp_path):
    """serve(case, path, command, **options): the VLM here, the served one, and the stand-in behind it."""
    shared = tmp_path / "shared"
    shared.mkdir()

    def start(case=LLAVA, path=None, command=None, **options):
        here, path = given(case, **options), str(path or folder(case))
        there = here.model_copy(update={"server": server.url})
        server.standin = Standin(command or serve_command(path, there), shared)
        return load_vlm(path, here), load_vlm(path, there), server.standin

    return start


def same(theirs, ours):
    assert ours.spans == theirs.spans and ours.answers == theirs.answers
    assert torch.equal(ours.mask, theirs.mask)
    close(ours.states, theirs.states)


@pytest.mark.parametrize("order", ["image_first", "text_first"])
@pytest.mark.parametrize("case", [LLAVA, QWEN], ids=lambda case: case.name)
def test_states_answers_and_lengths_are_those_of_the_family(serve, case, order):
    here, there, standin = serve(case, token_order=order, min_new_tokens=2)
    same(here.hidden(pictures(case), TEXTS), there.hidden(pictures(case), TEXTS))
    same(here.hidden(pictures(case), TEXTS, 60), there.hidden(pictures(case), TEXTS, 60))
    assert (there.image_length(), there.prompt_length(TEXTS)) == (here.image_length(), here.prompt_length(TEXTS))
    assert (there.hidden_size, there.new_tokens) == (here.hidden_size, here.new_tokens)
    assert list(standin.folder.iterdir()) == []  # every file was deleted


def test_a_wide_frame_is_stretched_here_and_neither_cropped_nor_cut_there(serve):
    here, there, _ = serve(LLAVA)
    wide = frames(3, 24, 80)
    same(here.hidden(wide, TEXTS), there.hidden(wide, TEXTS))


def test_without_generation_one_token_is_made_and_none_has_a_state(serve):
    here, there, standin = serve(LLAVA, generation="none", min_new_tokens=3)
    same(here.hidden(pictures(LLAVA), TEXTS), there.hidden(pictures(LLAVA), TEXTS))
    assert standin.seen[-1]["sampling_params"]["max_tokens"] == 1


def test_layers_below_the_last_need_no_norm(serve):
    here, there, _ = serve(LLAVA, layers=(2, 1))
    same(here.hidden(pictures(LLAVA), TEXTS), there.hidden(pictures(LLAVA), TEXTS))


def test_answers_are_those_of_the_family(serve):
    here, there, standin = serve(LLAVA)
    assert there.answer(pictures(LLAVA), TEXTS, 6) == here.answer(pictures(LLAVA), TEXTS, 6)
    assert list(standin.folder.iterdir()) == []


@pytest.mark.parametrize(("shortest", "mask"), [(0, [True, False, False]), (2, [True, True, True])])
def test_an_answer_stops_at_its_end_and_what_would_follow_is_masked(serve, tmp_path, shortest, mask):
    path = shutil.copytree(folder(LLAVA), tmp_path / "nearly-all-tokens-end")
    size = json.loads((path / "config.json").read_text())["text_config"]["vocab_size"]
    ends = [token for token in range(size) if token != 5]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    here, there, standin = serve(LLAVA, path=path, min_new_tokens=shortest)
    theirs, ours = (vlm.hidden(pictures(LLAVA), TEXTS) for vlm in (here, there))
    same(theirs, ours)
    assert ours.mask[:, ours.spans["generated"]].tolist() == [mask] * len(TEXTS)
    assert there.answer(pictures(LLAVA), TEXTS, 6) == here.answer(pictures(LLAVA), TEXTS, 6)
    assert [len(made) for made in standin.made[1:]] == [N + 1] * len(TEXTS) + [1] * len(TEXTS)


def test_a_proxy_is_not_asked(serve, monkeypatch):
    monkeypatch.setenv("http_proxy", NOWHERE)
    monkeypatch.delenv("no_proxy", raising=False)
    serve(LLAVA)


def test_all_rows_of_a_batch_are_asked_at_once(serve, monkeypatch):
    _, there, standin = serve(LLAVA)
    together = threading.Barrier(len(TEXTS), timeout=20)
    generate = standin.generate
    monkeypatch.setattr(standin, "generate", lambda request: (together.wait(), generate(request))[1])
    there.hidden(pictures(LLAVA), TEXTS)  # one after the other, the first would wait in vain for the rest


def test_half_precision_arrives_as_float32_and_is_in_the_key(serve):
    here, there, _ = serve(LLAVA, dtype="bfloat16")
    states = there.hidden(pictures(LLAVA), TEXTS).states
    assert states.dtype == torch.float32 and there.key()["dtype"] == "bfloat16"
    torch.testing.assert_close(states, here.hidden(pictures(LLAVA), TEXTS).states, rtol=0, atol=0.1)


def test_stores_of_both_backends_do_not_mix_and_the_address_does_not_matter(serve):
    here, there, _ = serve(LLAVA)
    assert there.key() == here.key() | {"backend": "vllm"}
    assert "server" not in json.dumps(here.key())


def test_the_command_names_the_layers_and_vllm_reads_it():
    flags = arguments(serve_command(str(folder(LLAVA)), Defaults(server="http://gpu-box:8123")))
    assert flags.served_model_name == f"{folder(LLAVA)}@2,3"  # of three layers, the last two
    assert (flags.model, flags.host, flags.port, flags.dtype) == (str(folder(LLAVA)), "gpu-box", 8123, "auto")
    layers = {"hf_config": {"eagle_aux_hidden_state_layer_ids": [2, 3]}}
    assert flags.speculative_config["draft_model_config"] == layers


def test_the_command_in_the_documentation_is_the_one_for_its_model(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "vllm.md").read_text(encoding="utf-8")
    shown = page[page.index("vllm serve ") :].split("```")[0]
    depth = SimpleNamespace(num_hidden_layers=32, max_position_embeddings=4096)
    monkeypatch.setattr(checkpoint, "read_config", lambda path: SimpleNamespace(get_text_config=lambda: depth))
    assert shlex.split(shown.replace("\\\n", " ")) == shlex.split(serve_command("llava-hf/llava-1.5-7b-hf", Defaults()))


def test_no_server_says_how_to_start_one():
    with pytest.raises(UserError, match=f"no vLLM server answers at server='{NOWHERE}'.*docs/vllm.md") as error:
        load_vlm(str(folder(LLAVA)), given(LLAVA, server=NOWHERE))
    assert str(error.value).endswith(serve_command(str(folder(LLAVA)), given(LLAVA, server=NOWHERE)))


def test_something_else_that_listens_is_no_server():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def talk():
            one, _ = other.accept()
            one.recv(100)
            one.sendall(b"SSH-2.0-OpenSSH\r\n")
            one.close()

        threading.Thread(target=talk).start()
        with pytest.raises(UserError, match="no vLLM server answers"):
            load_vlm(str(folder(LLAVA)), given(LLAVA, server=f"http://127.0.0.1:{other.getsockname()[1]}"))


def test_a_server_that_dies_later_is_noticed(serve, server):
    _, there, _ = serve(LLAVA)
    server.socket.close()
    with pytest.raises(UserError, match="no vLLM server answers"):
        there.hidden(pictures(LLAVA), TEXTS)


def edited(command, before, after):
    assert before in command
    return command.replace(before, after)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("@0,2,3", "@1,2,3", "answers 404: The model `.*@0,2,3` does not exist. Valid aliases: .*@1,2,3"),
        (" --enable-scale-out", "", "answers 403: Scale-out endpoints are disabled"),
        ("[0, 2, 3]", "[2, 3]", r"gives states \(2, 16\) instead of \(3, 16\)"),
        ("--dtype float32", "--dtype bfloat16", "computes in bfloat16, not in dtype=float32"),
    ],
)
def test_a_server_started_otherwise_is_refused_with_the_right_command(serve, server, before, after, message):
    right = serve_command(str(folder(LLAVA)), given(LLAVA, server=server.url))
    with pytest.raises(UserError, match=message) as error:
        serve(LLAVA, command=edited(right, before, after))
    assert str(error.value).endswith(right)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no connector", "gives no hidden states"),
        ("no file", "cannot be read and deleted here.*shared_storage_path"),
        ("fewer states", "gives .* states for .* tokens"),
        ("no BOS", "reads other tokens"),
        ("short", f"stopped after {N - 1} of {N} tokens"),
    ],
)
def test_each_fault_of_a_server_is_told(serve, fault, message):
    _, there, standin = serve(LLAVA)
    standin.faults.add(fault)
    with pytest.raises(UserError, match=message):
        there.hidden(pictures(LLAVA), TEXTS)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.model_type not in MODEL_TYPES], ids=lambda case: case.name
)
def test_families_that_vllm_gives_no_states_of_are_refused(case):
    with pytest.raises(UserError, match=f"no hidden states of .*, a {case.model_type}; .*llava, qwen2_5_vl, qwen3_vl"):
        load_vlm(str(folder(case)), Defaults(server=NOWHERE, image_size=case.image_size))


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (LLAVA, {"image_size": 64}, "image_size=64 is not possible with server.*Use image_size=32"),
        (LLAVA, {"dtype": "int8"}, "dtype='int8' is not possible with server; use one of auto"),
        (LLAVA, {"generation": "sample"}, "generation='sample' is not possible with server"),
        (LLAVA, {"random_weights": 0}, "random_weights is not possible with server"),
        (QWEN3, {"layers": (1, -1)}, r"the states of \[1\] would not be those of transformers.*use 0, or 2 to 3"),
    ],
)
def test_options_that_a_server_cannot_serve_are_refused(case, options, message):
    with pytest.raises(UserError, match=message):
        load_vlm(str(folder(case)), given(case, **({"server": NOWHERE} | options)))


def test_an_address_is_a_url():
    with pytest.raises(ValueError, match="https"):
        Defaults(server="localhost:8000")


def test_the_tower_and_the_weights_are_out_of_reach(serve):
    _, there, _ = serve(LLAVA)
    with pytest.raises(UserError, match="vision tower's tokens; leave out server"):
        there.vision(pictures(LLAVA))
    settings = {"why": "a test", "vlm": str(folder(LLAVA)), "train": [], "test": [], "steps": 1}
    with pytest.raises(UserError, match="no weights here.*leave out vlm_options.server"):
        load_for_training(FinetuneConfig(**settings, vlm_options=there.options))
