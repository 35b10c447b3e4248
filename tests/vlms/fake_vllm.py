"""A fake `vllm serve`: its command line, requests, responses and files, with states from transformers.

Written from the source of vLLM 0.33, which it follows in

    entrypoints/scale_out/token_in_token_out/protocol.py    GenerateRequest, GenerateTokensResponse
    entrypoints/scale_out/token_in_token_out/serving.py     content_parts, the order of checks
    entrypoints/scale_out/factories.py                      403 without --enable-scale-out
    entrypoints/serve/engine/serving.py                     404 for a name that is not served, ErrorResponse
    multimodal/processing/processor.py                      a placeholder's token becomes as many as the picture takes
    model_executor/models/llama.py, qwen2.py                which layer an id means; the last is not normed
    distributed/kv_transfer/kv_connector/v1/example_hidden_states_connector.py    files, locks, include_output_tokens

Unlike vLLM, it refuses unknown fields, so that misspelt ones are noticed.
"""

import argparse
import fcntl
import json
import shlex
import threading
import time
from base64 import b64decode
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText

REQUEST = {"model", "token_ids", "content_parts", "sampling_params", "kv_transfer_params"}
SAMPLING = {"temperature", "detokenize", "max_tokens", "min_tokens", "ignore_eos"}


def parse_command(command: str) -> argparse.Namespace:
    """Parse a command line of `vllm serve`; unknown flags exit with status 2."""
    program, verb, *words = shlex.split(command)
    assert (program, verb) == ("vllm", "serve")
    flags = argparse.ArgumentParser()
    flags.add_argument("model")
    flags.add_argument("--served-model-name")
    flags.add_argument("--host")
    flags.add_argument("--port", type=int)
    flags.add_argument("--dtype", choices=["auto", "half", "float16", "bfloat16", "float", "float32"])
    flags.add_argument("--max-model-len", type=int)
    for name in ("enable-scale-out", "enable-prefix-caching", "enable-chunked-prefill"):
        flags.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
    for name in ("speculative-config", "kv-transfer-config"):
        flags.add_argument(f"--{name}", type=json.loads)
    return flags.parse_args(words)


@cache
def read_model(path: str, dtype: str) -> torch.nn.Module:
    return AutoModelForImageTextToText.from_pretrained(path, dtype=getattr(torch, dtype)).eval()


class Refused(Exception):
    """A response with a status other than 200."""

    def __init__(self, code: int, kind: str, message: str) -> None:
        self.code = code
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": code}}


@dataclass
class FakeVllm:
    """A server with the options of a command line.

    Args:
        command: The command line.
        folder: Folder for its files, in place of the command's.
        faults: Names of faults to simulate.
        requests: The requests so far.
        generated: The generated token ids of each request.
    """

    command: str
    folder: Path
    faults: set[str] = field(default_factory=set)
    requests: list[dict] = field(default_factory=list)
    generated: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flags = parse_command(self.command)
        assert self.flags.enable_prefix_caching is False and self.flags.enable_chunked_prefill is False
        method, transfer = self.flags.speculative_config, self.flags.kv_transfer_config
        assert method["method"] == "extract_hidden_states" and method["num_speculative_tokens"] == 1
        assert transfer["kv_connector"] == "ExampleHiddenStatesConnector" and transfer["kv_role"] == "kv_producer"
        assert set(transfer["kv_connector_extra_config"]) == {"shared_storage_path"}
        layers = method["draft_model_config"]["hf_config"]["eagle_aux_hidden_state_layer_ids"]
        self.layers = sorted(set(layers))  # as in EagleModelMixin._set_aux_hidden_state_layers
        assert len(self.layers) == len(layers)
        dtype = {"auto": "float32"}.get(self.flags.dtype, self.flags.dtype)
        self.model = read_model(self.flags.model, dtype)
        self.processor = AutoImageProcessor.from_pretrained(self.flags.model, backend="pil")
        self.lock = threading.Lock()

    def generate(self, request: dict) -> dict:
        """POST /inference/v1/generate."""
        if not self.flags.enable_scale_out:
            raise Refused(403, "PermissionDeniedError", "Scale-out endpoints are disabled.")
        assert set(request) <= REQUEST and set(request["sampling_params"]) <= SAMPLING
        if request["model"] != self.flags.served_model_name:
            name = self.flags.served_model_name
            message = f"The model `{request['model']}` does not exist. Valid aliases: {name}."
            raise Refused(404, "NotFoundError", message)
        with self.lock, torch.no_grad():
            self.requests.append(request)
            pixels = self._pixels(request["content_parts"])
            prompt = self._expanded(request["token_ids"], pixels)
            tokens = self._generate_tokens(prompt, pixels, **request["sampling_params"])
            self.generated.append(tokens)
            # As all_token_ids[:-1]: the last token is never an input, so it has no state.
            with_output = (request["kv_transfer_params"] or {}).get("include_output_tokens", False)
            ids = [*prompt, *tokens][:-1] if with_output else prompt
            file = self._write(ids, self._states(ids, pixels))
        choice = {"index": 0, "finish_reason": "length", "token_ids": tokens, "logprobs": None}
        return {
            "request_id": f"generate-tokens-{len(self.requests)}",
            "choices": [] if "no choices" in self.faults else [choice],
            "prompt_token_ids": None,
            "output_mode": "tokens",
            "kv_transfer_params": None if "no connector" in self.faults else {"hidden_states_path": file},
        }

    def _pixels(self, parts: list[dict]) -> dict:
        (part,) = parts
        assert part["type"] == "image_url" and part["url"].startswith("data:image/")
        picture = Image.open(BytesIO(b64decode(part["url"].split(",", 1)[1]))).convert("RGB")
        values = self.processor(images=[np.asarray(picture)], return_tensors="pt")
        return {
            key: value.to(self.model.dtype) if value.is_floating_point() else value for key, value in values.items()
        }

    def _expanded(self, ids: list[int], pixels: dict) -> list[int]:
        vision, placeholder = self.model.config.vision_config, self.model.config.image_token_id
        if "image_grid_thw" in pixels:
            count = int(pixels["image_grid_thw"].prod()) // vision.spatial_merge_size**2
        else:
            count = (pixels["pixel_values"].shape[-1] // vision.patch_size) ** 2
        if ids.count(placeholder) != 1:
            raise Refused(400, "BadRequestError", f"Expected 1 placeholder, found {ids.count(placeholder)}")
        ids = ids[1:] if "no BOS" in self.faults else ids
        index = ids.index(placeholder)
        return [*ids[:index], *[placeholder] * count, *ids[index + 1 :]]

    def _generate_tokens(self, ids, pixels, *, max_tokens, min_tokens=0, ignore_eos=False, **fixed):
        assert fixed == {"temperature": 0.0, "detokenize": False}
        if min_tokens > max_tokens:
            raise Refused(400, "BadRequestError", "min_tokens must be less than or equal to max_tokens")
        ends, chosen = self.model.generation_config.eos_token_id, []
        ends = {*([ends] if isinstance(ends, int) else ends)}
        for step in range(max_tokens - ("short" in self.faults)):
            logits = self._run([*ids, *chosen], pixels)["logits"][0, -1].float()
            if step < min_tokens:
                logits[list(ends)] = -torch.inf
            chosen.append(int(logits.argmax()))
            if chosen[-1] in ends and not ignore_eos:
                break
        return chosen

    def _states(self, ids: list[int], pixels: dict) -> torch.Tensor:
        """Return states [tokens, layers, D]; the last layer is not normed."""
        unnormed: list[torch.Tensor] = []
        norm = self.model.get_decoder().norm
        hook = norm.register_forward_pre_hook(lambda _, inputs: unnormed.append(inputs[0]))
        states = self._run(ids, pixels)["hidden_states"]
        hook.remove()
        states = [*states[:-1], unnormed[0]]
        return torch.stack([states[layer][0] for layer in self.layers], dim=1)

    def _run(self, ids: list[int], pixels: dict):
        tokens = torch.tensor([ids])
        if "image_grid_thw" in pixels:
            pixels = {**pixels, "mm_token_type_ids": (tokens == self.model.config.image_token_id).int()}
        return self.model(input_ids=tokens, **pixels, output_hidden_states=True)

    def _write(self, ids: list[int], states: torch.Tensor) -> str:
        """Lock the file before the response, write it after."""
        file = self.folder / f"generate-tokens-{len(self.requests)}.safetensors"
        lock = open(f"{file}.lock", "w")  # noqa: SIM115
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = "fewer states" in self.faults
        tensors = {"hidden_states": states[missing:].contiguous(), "token_ids": torch.tensor(ids)}

        def write():
            with lock:
                time.sleep(0.05)
                if "no file" not in self.faults:
                    save_file(tensors, file)

        threading.Thread(target=write).start()
        return str(file)


class Server(ThreadingHTTPServer):
    """HTTP server; `vllm` responds."""

    vllm: FakeVllm | None = None
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.headers["Content-Type"] == "application/json"
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            if self.path != "/inference/v1/generate":
                raise Refused(404, "NotFoundError", "Not Found")
            code, body = 200, self.server.vllm.generate(request)
        except Refused as refused:
            code, body = refused.code, refused.body
        response = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def log_message(self, *_) -> None:
        pass
