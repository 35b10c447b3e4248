"""A VLM behind `vllm serve` equals the same VLM in this process. The server is a fake one, see fake_vllm.py.

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
from fake_vllm import FakeVllm, Server, parse_command
from small_vlms import CASE, CASES, NEW_TOKENS, TEXTS, assert_same_hidden, folder, pictures
from small_vlms import load as load_local
from tiny_parts import frames

from pr2l.core.errors import UserError
from pr2l.pretraining.finetune import FinetuneConfig, load_for_training
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.vllm import MODEL_TYPES, serve_command
from pr2l.vlms.base import Defaults
from pr2l.vlms.loading import load_vlm

LLAVA, QWEN, QWEN3 = CASE["llava"], CASE["qwen2_5_vl"], CASE["qwen3_vl"]
NOWHERE = "http://127.0.0.1:1"


def options_for(case, **options):
    defaults = {"new_tokens": NEW_TOKENS, "layers": (-1, 0, -2), "image_size": case.image_size, "dtype": "float32"}
    return Defaults(**(defaults | options))


@pytest.fixture
def server():
    """Serve on a free port."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def serve(server, tmp_path):
    """serve(case, path, command, **options): return the local VLM, the served one, and the fake vLLM."""
    shared = tmp_path / "shared"
    shared.mkdir()

    def start(case=LLAVA, path=None, command=None, **options):
        local_options = options_for(case, **options)
        local = load_local(case, **local_options.model_dump()) if path is None else load_vlm(str(path), local_options)
        path, served_options = str(path or folder(case)), local_options.model_copy(update={"server": server.url})
        server.vllm = FakeVllm(command or serve_command(path, served_options), shared)
        return local, load_vlm(path, served_options), server.vllm

    return start


@pytest.mark.parametrize("order", ["image_first", "text_first"])
@pytest.mark.parametrize("case", [LLAVA, QWEN], ids=lambda case: case.name)
def test_states_answers_and_lengths_equal_the_local_vlm(serve, case, order):
    local, served, vllm = serve(case, token_order=order, min_new_tokens=2)
    assert_same_hidden(local.hidden(pictures(case), TEXTS), served.hidden(pictures(case), TEXTS))
    assert_same_hidden(local.hidden(pictures(case), TEXTS, 60), served.hidden(pictures(case), TEXTS, 60))
    assert (served.image_length(), served.prompt_length(TEXTS)) == (local.image_length(), local.prompt_length(TEXTS))
    assert (served.hidden_size, served.new_tokens) == (local.hidden_size, local.new_tokens)
    assert list(vllm.folder.iterdir()) == []  # every file is deleted


def test_wide_frame_is_stretched_and_not_cropped_by_the_server(serve):
    local, served, _ = serve(LLAVA)
    wide = frames(3, 24, 80)
    assert_same_hidden(local.hidden(wide, TEXTS), served.hidden(wide, TEXTS))


def test_generation_none_requests_one_token_and_drops_it(serve):
    local, served, vllm = serve(LLAVA, generation="none", min_new_tokens=3)
    assert_same_hidden(local.hidden(pictures(LLAVA), TEXTS), served.hidden(pictures(LLAVA), TEXTS))
    assert vllm.requests[-1]["sampling_params"]["max_tokens"] == 1


def test_layers_below_the_last(serve):
    local, served, _ = serve(LLAVA, layers=(2, 1))
    assert_same_hidden(local.hidden(pictures(LLAVA), TEXTS), served.hidden(pictures(LLAVA), TEXTS))


def test_answers_equal_the_local_vlm(serve):
    local, served, vllm = serve(LLAVA)
    assert served.answer(pictures(LLAVA), TEXTS, 6) == local.answer(pictures(LLAVA), TEXTS, 6)
    assert list(vllm.folder.iterdir()) == []


@pytest.mark.parametrize(("min_new_tokens", "mask"), [(0, [True, False, False]), (2, [True, True, True])])
def test_states_after_eos_are_masked(serve, tmp_path, min_new_tokens, mask):
    path = shutil.copytree(folder(LLAVA), tmp_path / "nearly-all-tokens-end")
    size = json.loads((path / "config.json").read_text())["text_config"]["vocab_size"]
    ends = [token for token in range(size) if token != 5]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    local, served, vllm = serve(LLAVA, path=path, min_new_tokens=min_new_tokens)
    theirs, ours = (vlm.hidden(pictures(LLAVA), TEXTS) for vlm in (local, served))
    assert_same_hidden(theirs, ours)
    assert ours.mask[:, ours.spans["generated"]].tolist() == [mask] * len(TEXTS)
    assert served.answer(pictures(LLAVA), TEXTS, 6) == local.answer(pictures(LLAVA), TEXTS, 6)
    assert [len(tokens) for tokens in vllm.generated[1:]] == [NEW_TOKENS + 1] * len(TEXTS) + [1] * len(TEXTS)


def test_proxy_settings_are_ignored(serve, monkeypatch):
    monkeypatch.setenv("http_proxy", NOWHERE)
    monkeypatch.delenv("no_proxy", raising=False)
    serve(LLAVA)


def test_rows_of_a_batch_are_requested_concurrently(serve, monkeypatch):
    _, served, vllm = serve(LLAVA)
    all_rows = threading.Barrier(len(TEXTS), timeout=20)
    generate = vllm.generate
    monkeypatch.setattr(vllm, "generate", lambda request: (all_rows.wait(), generate(request))[1])
    served.hidden(pictures(LLAVA), TEXTS)  # one after the other, the first request would time out


def test_bfloat16_states_are_returned_as_float32(serve):
    local, served, _ = serve(LLAVA, dtype="bfloat16")
    states = served.hidden(pictures(LLAVA), TEXTS).states
    assert states.dtype == torch.float32 and served.key()["dtype"] == "bfloat16"
    torch.testing.assert_close(states, local.hidden(pictures(LLAVA), TEXTS).states, rtol=0, atol=0.1)


def test_key_contains_the_backend_but_not_the_address(serve):
    local, served, _ = serve(LLAVA)
    assert served.key() == local.key() | {"backend": "vllm"}
    assert "server" not in json.dumps(local.key())


def test_serve_command_is_valid_and_names_the_layers():
    flags = parse_command(serve_command(str(folder(LLAVA)), Defaults(server="http://gpu-box:8123")))
    assert flags.served_model_name == f"{folder(LLAVA)}@2,3"  # of three layers, the last two
    assert (flags.model, flags.host, flags.port, flags.dtype) == (str(folder(LLAVA)), "gpu-box", 8123, "auto")
    layers = {"hf_config": {"eagle_aux_hidden_state_layer_ids": [2, 3]}}
    assert flags.speculative_config["draft_model_config"] == layers


def test_docs_show_the_serve_command(monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "vllm.md").read_text(encoding="utf-8")
    command = page[page.index("vllm serve ") :].split("```")[0]
    depth = SimpleNamespace(num_hidden_layers=32, max_position_embeddings=4096)
    monkeypatch.setattr(checkpoint, "read_config", lambda path: SimpleNamespace(get_text_config=lambda: depth))
    assert shlex.split(command.replace("\\\n", " ")) == shlex.split(
        serve_command("llava-hf/llava-1.5-7b-hf", Defaults())
    )


def test_without_a_server_the_error_gives_the_command():
    with pytest.raises(UserError, match=f"server='{NOWHERE}'.*docs/vllm.md") as error:
        load_vlm(str(folder(LLAVA)), options_for(LLAVA, server=NOWHERE))
    assert str(error.value).endswith(serve_command(str(folder(LLAVA)), options_for(LLAVA, server=NOWHERE)))


def test_another_service_at_the_address_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            connection.recv(100)
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            connection.close()

        threading.Thread(target=answer).start()
        with pytest.raises(UserError, match="no vLLM server answers"):
            load_vlm(str(folder(LLAVA)), options_for(LLAVA, server=f"http://127.0.0.1:{listener.getsockname()[1]}"))


def test_server_that_stops_later_is_reported(serve, server):
    _, served, _ = serve(LLAVA)
    server.socket.close()
    with pytest.raises(UserError, match="no vLLM server answers"):
        served.hidden(pictures(LLAVA), TEXTS)


def replaced(command, before, after):
    assert before in command
    return command.replace(before, after)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("@0,2,3", "@1,2,3", "answers 404: The model `.*@0,2,3` does not exist. Valid aliases: .*@1,2,3"),
        (" --enable-scale-out", "", "answers 403: Scale-out endpoints are disabled"),
        ("[0, 2, 3]", "[2, 3]", r"returns states \(2, 16\) instead of \(3, 16\)"),
        ("--dtype float32", "--dtype bfloat16", "computes in bfloat16, not in dtype=float32"),
    ],
)
def test_server_with_other_options_is_refused_with_the_right_command(serve, server, before, after, message):
    right = serve_command(str(folder(LLAVA)), options_for(LLAVA, server=server.url))
    with pytest.raises(UserError, match=message) as error:
        serve(LLAVA, command=replaced(right, before, after))
    assert str(error.value).endswith(right)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no connector", "returns no hidden states"),
        ("no choices", "returns no token ids"),
        ("no file", "shared_storage_path"),
        ("fewer states", "returns .* states for .* tokens"),
        ("no BOS", "uses other tokens"),
        ("short", f"stopped after {NEW_TOKENS - 1} of {NEW_TOKENS} tokens"),
    ],
)
def test_faulty_responses_are_refused(serve, fault, message):
    _, served, vllm = serve(LLAVA)
    vllm.faults.add(fault)
    with pytest.raises(UserError, match=message):
        served.hidden(pictures(LLAVA), TEXTS)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.model_type not in MODEL_TYPES], ids=lambda case: case.name
)
def test_families_without_vllm_support_are_refused(case):
    with pytest.raises(UserError, match=f"{case.model_type}, .*llava, qwen2_5_vl, qwen3_vl"):
        load_vlm(str(folder(case)), Defaults(server=NOWHERE, image_size=case.image_size))


@pytest.mark.parametrize(
    ("case", "options", "message"),
    [
        (LLAVA, {"image_size": 64}, "image_size=64 is not possible with server.*Use image_size=32"),
        (LLAVA, {"dtype": "int8"}, "dtype='int8' is not possible with server; use one of auto"),
        (LLAVA, {"generation": "sample"}, "generation='sample' is not possible with server"),
        (QWEN, {"aspect": "native", "frame_size": (64, 32)}, "aspect=native is not possible with server"),
        (LLAVA, {"random_weights": 0}, "random_weights is not possible with server"),
        (QWEN3, {"layers": (1, -1)}, r"the states of \[1\] would not be those of transformers.*use 0, or 2 to 3"),
    ],
)
def test_options_without_vllm_support_are_refused(case, options, message):
    with pytest.raises(UserError, match=message):
        load_vlm(str(folder(case)), options_for(case, **({"server": NOWHERE} | options)))


def test_videos_are_refused(serve):
    case = CASE["qwen2_5_vl"]
    _, served, _ = serve(case)
    video = {"type": "video", "frames": 1}
    with pytest.raises(UserError, match="several images or videos.*leave out vlm_options.server"):
        served.hidden([list(pictures(case)[:1])], [[{"role": "user", "content": [video]}]])


def test_sampling_and_several_images_are_refused(serve):
    _, served, _ = serve(LLAVA)
    with pytest.raises(UserError, match="temperature=0"):
        served.generate(pictures(LLAVA), TEXTS, 2, temperature=1.0)
    image = {"type": "image"}
    with pytest.raises(UserError, match="several images.*leave out vlm_options.server"):
        served.hidden([list(pictures(LLAVA)[:2])], [[{"role": "user", "content": [image, image]}]])


def test_server_must_be_a_url():
    with pytest.raises(ValueError, match="https"):
        Defaults(server="localhost:8000")


def test_vision_tokens_and_training_are_refused(serve):
    _, served, _ = serve(LLAVA)
    with pytest.raises(UserError, match="leave out vlm_options.server"):
        served.vision(pictures(LLAVA))
    frames = [{"environment": "doom", "tasks": ["fetch"], "frames": 1}]
    settings = {"why": "a test", "vlm": str(folder(LLAVA)), "train": frames, "test": frames, "steps": 1}
    with pytest.raises(UserError, match="leave out vlm_options.server"):
        load_for_training(FinetuneConfig(**settings, vlm_options=served.options))
