"""Agents behind an API, against a stand-in for its server."""

import base64
import io
import logging
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from api_server import gemini, openai, running
from PIL import Image

from pr2l.agents.api import load_api
from pr2l.agents.api.common.keys import read_key
from pr2l.agents.api.common.parallel import in_parallel
from pr2l.agents.base import Agent
from pr2l.core import registry
from pr2l.core.errors import UserError

ROOT = Path(__file__).parents[2]
KEY = "AIza-secret-of-the-test"
FRAME = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
MESSAGES = [
    {"role": "system", "content": [{"type": "text", "text": "You judge."}]},
    {"role": "user", "content": [{"type": "image", "image": FRAME}, {"type": "text", "text": "Task: log in."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Which one?"}]},
    {"role": "user", "content": [{"type": "text", "text": "This one."}]},
]
SHORT = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
NAMES = ("gemini", "openai_server")
RESPONSE = {"gemini": gemini, "openai_server": openai}

every_api = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def server():
    with running() as server:
        yield server


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", KEY)
    for variable in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def waits(monkeypatch):
    """The times that agents have slept."""
    waits = []
    monkeypatch.setattr("pr2l.agents.api.base.sleep", waits.append)
    return waits


def agent(name, server, **options):
    return load_api(name, "model-1", {"key_variable": "KEY_OF_THE_TEST", "base_url": server.url, **options})


def test_every_api_is_tested_here():
    assert set(registry.names("apis")) == set(NAMES)


@every_api
def test_agent_has_the_interface(name, server):
    assert isinstance(agent(name, server), Agent)
    with pytest.raises(UserError, match="no log-probabilities; use a local VLM"):
        agent(name, server).log_prob([SHORT], ["yes"])


def test_request_to_gemini(server):
    server.responses = [gemini("Status: success")]
    assert agent("gemini", server, thinking_budget=0).generate([MESSAGES], temperature=0.5) == [["Status: success"]]
    [(path, headers, body)] = server.requests
    assert path.endswith("/models/model-1:generateContent")
    assert headers["x-goog-api-key"] == KEY
    assert [content["role"] for content in body["contents"]] == ["user", "model", "user"]
    assert body["systemInstruction"]["parts"] == [{"text": "You judge."}]
    image, words = body["contents"][0]["parts"]
    assert "image/png" in image["inlineData"].values() and words == {"text": "Task: log in."}
    assert pixels(base64.urlsafe_b64decode(image["inlineData"]["data"])) == FRAME.tolist()
    config = body["generationConfig"]
    assert (config["temperature"], config["maxOutputTokens"]) == (0.5, 1024)
    assert config["thinkingConfig"] == {"thinking_budget": 0} or config["thinkingConfig"] == {"thinkingBudget": 0}


def test_request_to_an_openai_server(server):
    server.responses = [openai("Status: failure")]
    body = {"max_tokens": None, "max_completion_tokens": 5}
    assert agent("openai_server", server, body=body).generate([MESSAGES]) == [["Status: failure"]]
    [(path, headers, body)] = server.requests
    assert path == "/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    image, words = body["messages"][1]["content"]
    kind, _, content = image["image_url"]["url"].partition(",")
    assert (image["type"], kind) == ("image_url", "data:image/png;base64") and words["text"] == "Task: log in."
    assert pixels(base64.b64decode(content)) == FRAME.tolist()
    assert (body["model"], body["temperature"], body["max_completion_tokens"]) == ("model-1", 0.0, 5)
    assert "max_tokens" not in body


def pixels(file):
    with Image.open(io.BytesIO(file)) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image).tolist()


def test_server_without_a_key(server):
    server.responses = [openai("yes")]
    assert agent("openai_server", server, key_variable=None).generate([SHORT]) == [["yes"]]
    assert "authorization" not in server.requests[0][1]


@every_api
def test_several_responses_have_several_seeds(name, server):
    server.responses = [RESPONSE[name](text) for text in "abcdef"]
    model = agent(name, server, parallel=1)
    assert model.generate([SHORT, MESSAGES], n=2, temperature=1.0, seed=3) == [["a", "b"], ["c", "d"]]
    assert model.generate([SHORT], n=2, temperature=1.0, seed=4) == [["e", "f"]]
    seeds = [seed_of(body) for _, _, body in server.requests]
    assert seeds[:2] == seeds[2:4] and len(set(seeds)) == 4
    assert all(0 <= seed < 2**31 for seed in seeds)


def seed_of(body):
    return body["seed"] if "seed" in body else body["generationConfig"]["seed"]


@every_api
def test_requests_run_in_parallel_and_keep_their_order(name, server):
    server.responses = [(0.2, *RESPONSE[name](str(number))) for number in range(8)]
    model, start = agent(name, server, parallel=4), time.monotonic()
    answers = model.generate([SHORT] * 8)
    assert time.monotonic() - start < 1.2  # 1.6 s one after the other
    assert server.most == 4 and sorted(answers) == [[str(number)] for number in range(8)]
    assert model.usage.requests == 8


@every_api
@pytest.mark.parametrize("failure", [(429, {}), (503, {}), (500, "<html>"), (408, {}), None])
def test_temporary_errors_are_tried_again(name, failure, server, waits):
    server.responses = [failure, failure, RESPONSE[name]("yes")]
    model = agent(name, server, first_wait=3)
    assert model.generate([SHORT]) == [["yes"]]
    assert model.usage.requests == 1 and len(server.requests) == 3
    assert 3 <= waits[0] <= 3.75 and 6 <= waits[1] <= 7.5


@every_api
def test_attempts_are_limited(name, server, waits):
    server.responses = [(503, {"error": {"message": f"overloaded, key {KEY}"}})] * 9
    with pytest.raises(UserError, match=r"status 503.*overloaded.*\(attempt 3 of 3\)"):
        agent(name, server, attempts=3, longest_wait=1.5).generate([SHORT])
    assert len(server.requests) == 3 and waits[1] == 1.5


def test_servers_say_how_long_to_wait(server, waits):
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17.5s"}]
    server.responses = [(429, {"error": {"code": 429, "message": "quota", "details": details}}), gemini("yes")]
    agent("gemini", server).generate([SHORT])
    server.responses = [(429, {}, {"retry-after": "21"}), openai("yes")]
    agent("openai_server", server).generate([SHORT])
    server.responses = [(429, {}, {"retry-after": "86400"}), openai("yes")]
    agent("openai_server", server, longest_wait=90).generate([SHORT])
    server.responses = [(429, {}, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), openai("yes")]
    agent("openai_server", server).generate([SHORT])
    assert waits[:3] == [17.5, 21, 90] and waits[3] <= 1.25


@every_api
def test_slow_server_is_a_failed_attempt(name, server, waits):
    server.responses = [(2.0, *RESPONSE[name]("late")), RESPONSE[name]("yes")]
    start = time.monotonic()
    assert agent(name, server, timeout=0.3).generate([SHORT]) == [["yes"]]
    assert time.monotonic() - start < 1.5 and len(waits) == 1


@every_api
def test_missing_server(name, waits):
    with running() as server:
        pass
    with pytest.raises(UserError, match=r"does not answer.*\(attempt 2 of 2\)"):
        agent(name, server, attempts=2).generate([SHORT])


@every_api
@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_refused_request_is_not_repeated_and_its_error_has_no_key(name, status, server, caplog, capsys):
    server.responses = [(status, {"error": {"message": f"the key {KEY} is wrong", "code": status}})]
    caplog.set_level(logging.DEBUG)
    model = agent(name, server)
    with pytest.raises(UserError, match=rf"status {status}: .*the key \[key\] is wrong") as caught:
        model.generate([SHORT])
    assert len(server.requests) == 1
    trace = "".join(traceback.format_exception(caught.value))
    output = capsys.readouterr()
    for text in (
        trace,
        caplog.text,
        output.out,
        output.err,
        repr(model),
        repr(vars(model).get("options")),
        str(model.key()),
    ):
        assert KEY not in text


@every_api
def test_no_key_in_logs_and_output_of_attempts(name, server, waits, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    server.responses = [(503, {"error": {"message": f"busy, {KEY}"}}), (429, f"busy, {KEY}"), RESPONSE[name]("yes")]
    agent(name, server).generate([SHORT])
    output = capsys.readouterr()
    assert "busy, [key]" in output.err and KEY not in output.err + output.out + caplog.text


@every_api
def test_cost_is_counted(name, server):
    server.responses = [RESPONSE[name]("yes", 1000, 20), RESPONSE[name]("no", 3000, 30)]
    model = agent(name, server, input_price=0.5, output_price=4.0)
    model.generate([SHORT, SHORT])
    usage = model.usage
    assert (usage.requests, usage.input_tokens, usage.output_tokens) == (2, 4000, 50)
    assert usage.dollars == pytest.approx(4000 * 0.5e-6 + 50 * 4e-6)  # 0.0022


def test_thoughts_of_gemini_are_output_tokens(server):
    server.responses = [gemini("yes", 100, 5, thoughts=40)]
    model = agent("gemini", server)
    model.generate([SHORT])
    assert model.usage.output_tokens == 45


@every_api
def test_limit_of_the_cost(name, server):
    server.responses = [RESPONSE[name]("yes", 1000, 0)] * 9
    model = agent(name, server, input_price=1000.0, max_dollars=2.5, parallel=1)
    with pytest.raises(UserError, match=r"have cost \$3.00, the limit max_dollars"):
        model.generate([SHORT] * 9)
    assert len(server.requests) == 3
    with pytest.raises(UserError, match="max_dollars needs prices"):
        agent(name, server, max_dollars=1.0)


@every_api
def test_response_without_text_is_empty(name, server):
    server.responses = [RESPONSE[name](None)]
    assert agent(name, server).generate([SHORT]) == [[""]]


@pytest.mark.parametrize("answer", ["<html>hello</html>", {"choices": []}, [], {"choices": [{"message": None}]}])
def test_server_without_chat_completions(answer, server):
    server.responses = [(200, answer)]
    with pytest.raises(UserError, match="is no server with chat completions; it answered"):
        agent("openai_server", server).generate([SHORT])


@every_api
@pytest.mark.parametrize("value", [None, "", " ", "two words", "line\nbreak", "schlüssel"])
def test_key_comes_from_the_environment(name, value, server, monkeypatch):
    monkeypatch.delenv("KEY_OF_THE_TEST")
    if value is not None:
        monkeypatch.setenv("KEY_OF_THE_TEST", value)
    problem = "is not set" if not (value or "").strip() else "space or a special character"
    with pytest.raises(UserError, match=f"environment variable KEY_OF_THE_TEST .*{problem}") as caught:
        agent(name, server).generate([SHORT])
    assert not (value or "").strip() or value not in str(caught.value)
    assert server.requests == []


def test_key_has_no_space_at_its_ends(monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", f" {KEY}\n")
    assert read_key("KEY_OF_THE_TEST") == KEY


def test_missing_package(server, monkeypatch):
    for module in [name for name in sys.modules if name.startswith("google.genai")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "google.genai", None)
    monkeypatch.delattr(sys.modules.get("google"), "genai", raising=False)
    with pytest.raises(UserError, match=r"needs the package google-genai: pip install 'pr2l\[api\]'"):
        agent("gemini", server).generate([SHORT])


@every_api
def test_bad_arguments(name, server):
    for wrong in ({"n": 0}, {"temperature": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(UserError, match="n must be at least 1, and temperature at least 0"):
            agent(name, server).generate([SHORT], **wrong)
    with pytest.raises(UserError, match=r"messages\[0\]\[0\].content\[0\]: the image part has no image"):
        agent(name, server).generate([[{"role": "user", "content": [{"type": "image"}]}]])
    video = {"type": "video", "video": FRAME[None], "fps": 1.0}
    with pytest.raises(UserError, match="takes images, not videos"):
        agent(name, server).generate([[{"role": "user", "content": [video]}]])
    with pytest.raises(UserError, match="Did you mean 'timeout'"):
        load_api(name, "m", {"time_out": 3})
    for url in ("127.0.0.1:8000", "http://", "http://user:secret@host/v1", "https://host/v1?key=secret", "ftp://host"):
        with pytest.raises(UserError, match="base_url"):
            load_api(name, "m", {"base_url": url})
    assert server.requests == []


@every_api
def test_agent_does_not_carry_its_key_into_a_file(name, server):
    model = agent(name, server)
    assert KEY.encode() not in pickle.dumps((model.key(), model.options))


def test_in_parallel_raises_the_error_of_a_call_and_starts_no_more():
    started, mutex = [], threading.Lock()

    def call(number):
        with mutex:
            started.append(number)
        if number == 2:
            raise UserError("two")
        time.sleep(0.05)
        return -number

    with pytest.raises(UserError, match="two"):
        list(in_parallel(call, range(100), 3))
    time.sleep(0.2)
    assert len(started) <= 8
    assert dict(in_parallel(lambda number: number + 1, range(50), 7)) == {n: n + 1 for n in range(50)}
    assert list(in_parallel(str, [], 3)) == []


def test_running_requests_do_not_keep_the_program_alive():
    code = "import time; from pr2l.agents.api.common.parallel import in_parallel\n"
    code += "for _ in in_parallel(lambda n: time.sleep(60 * n), range(4), 4): raise SystemExit(7)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=40).returncode == 7


def test_ctrl_c_does_not_wait_for_running_requests():
    start = time.monotonic()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(KeyboardInterrupt):
        list(in_parallel(lambda _: time.sleep(3), range(4), 2))
    assert time.monotonic() - start < 1
