"""A VLM whose weights and forward passes are in a vLLM server, in its own Python environment (docs/vllm.md).

    frames --squares--> PNG ---------\\                                  /--> ids of the answer
                                      POST /inference/v1/generate ------+
    texts --layout, 1 placeholder--> ids /                              \\--> states, in a file of a shared folder

One request is sent per row, for all rows of a batch at once. vLLM's method "extract_hidden_states" writes the states of
the input and of every generated token but the last, so one more token than requested is generated, as in generate.py.
It numbers states as transformers does, 0 = embeddings, but returns the last one without the final norm, which is
therefore applied here. vLLM computes the pixels with the checkpoint's own processor, so frames are sent as squares of a
size that this processor does not change.

Written from the source of vLLM 0.33: entrypoints/scale_out/token_in_token_out and, below distributed/kv_transfer,
kv_connector/v1/example_hidden_states_connector.py.
"""

from __future__ import annotations

import json
import shlex
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from pr2l.core.errors import UserError
from pr2l.core.types import Frames, Tokens
from pr2l.vlms import checkpoint
from pr2l.vlms.backends.local import PassStates
from pr2l.vlms.base import VLM, Defaults
from pr2l.vlms.conversation import Images, Prompt, Prompts, image_count, videos_of
from pr2l.vlms.decoding import before_end
from pr2l.vlms.token_ids import image_tokens_first

MODEL_TYPES = ("llava", "qwen2_5_vl", "qwen3_vl")  # families whose class in vLLM returns states
DTYPES = ("auto", "float32", "bfloat16", "float16")
FOLDER = "/dev/shm/pr2l-vllm"  # in memory; each reply of the server contains the path of its file
LONGEST = 4096  # tokens of input and answer; vLLM reserves memory for such a row
AT_ONCE = 64  # requests
TIMEOUT = 600  # seconds to wait for an answer


def serve_command(path: str, options: Defaults) -> str:
    """Return the shell command that starts a server, to be run in the environment of vLLM.

    Args:
        path: A local folder or a Hub id.
        options: Options of the VLM: address, layers and dtype of the server.
    """
    text = checkpoint.read_config(path).get_text_config()
    layers, address = _layer_ids(options, text.num_hidden_layers), urlsplit(options.server or "http://127.0.0.1:8000")
    states = {"hf_config": {"eagle_aux_hidden_state_layer_ids": layers}}
    method = {"method": "extract_hidden_states", "num_speculative_tokens": 1, "draft_model_config": states}
    transfer = {
        "kv_connector": "ExampleHiddenStatesConnector",
        "kv_role": "kv_producer",
        "kv_connector_extra_config": {"shared_storage_path": FOLDER},
    }
    words = ["vllm", "serve", _absolute(path), "--served-model-name", _served_name(path, layers)]
    words += ["--host", str(address.hostname), "--port", str(address.port or 8000), "--dtype", options.dtype]
    words += ["--max-model-len", str(min(LONGEST, text.max_position_embeddings)), "--enable-scale-out"]
    # Cached tokens would have no states; vLLM's documentation says that chunks must be off.
    words += ["--no-enable-prefix-caching", "--no-enable-chunked-prefill"]
    words += ["--speculative-config", json.dumps(method), "--kv-transfer-config", json.dumps(transfer)]
    return shlex.join(words)


def _layer_ids(options: Defaults, depth: int) -> list[int]:
    return sorted({layer % (depth + 1) for layer in options.layers})


def _served_name(path: str, layers: list[int]) -> str:
    """Return a name that includes the layers, since a server does not report its layers, but refuses other names."""
    return f"{_absolute(path)}@{','.join(map(str, layers))}"


def _absolute(path: str) -> str:
    return str(Path(path).resolve()) if Path(path).is_dir() else path


# The server.


@dataclass(frozen=True)
class Reply:
    """Reply of a server to one request.

    Args:
        chosen: Token ids of the answer.
        ids: Token ids that have states: the input and all of the answer but its last token.
        states: [len(ids), layers, D], in the server's dtype.
    """

    chosen: list[int]
    ids: list[int]
    states: torch.Tensor


@dataclass(frozen=True)
class Server:
    """A running `vllm serve`. Each of its failures is a UserError with the next step.

    Args:
        url: Address of the server.
        model: Name of the model that it serves.
        command: Command that starts it with the right options.
    """

    url: str
    model: str
    command: str

    def ask(self, ids: list[int], square: Frames, **sampling: Any) -> Reply:
        """Send one request, and read the states of the reply.

        Args:
            ids: Token ids of the input, with one image placeholder.
            square: uint8 [S, S, 3], the image.
            sampling: Further sampling parameters of vLLM.

        Raises:
            UserError: The server does not answer, its reply is not as expected, or the file of states cannot be read.
        """
        answer = self._post(
            "/inference/v1/generate",
            {
                "model": self.model,
                "token_ids": ids,
                "content_parts": [{"type": "image_url", "url": _data_url(square)}],
                "sampling_params": {"temperature": 0.0, "detokenize": False, **sampling},
                "kv_transfer_params": {"include_output_tokens": True},
            },
        )
        file = (answer.get("kv_transfer_params") or {}).get("hidden_states_path")
        if file is None:
            raise self.wrong("returns no hidden states")
        try:
            chosen = answer["choices"][0]["token_ids"]
        except (LookupError, TypeError) as error:
            raise self.wrong("returns no token ids") from error
        reply = Reply(chosen, *self._states(file))
        if len(reply.states) != len(reply.ids):
            raise self.wrong(f"returns {len(reply.states)} states for {len(reply.ids)} tokens")
        return reply

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        data, header = json.dumps(body).encode(), {"Content-Type": "application/json"}
        direct = build_opener(ProxyHandler({}))  # without a proxy, as the server shares a folder with this process
        try:
            with direct.open(Request(self.url.rstrip("/") + path, data, header), timeout=TIMEOUT) as answer:
                return dict(json.load(answer))
        except HTTPError as error:
            raise self.wrong(f"answers {error.code}: {_message(error)}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise UserError(
                f"no vLLM server answers at server={self.url!r} ({error}). Start one in a separate Python environment"
                f" (docs/vllm.md), and wait until it answers:\n{self.command}"
            ) from error

    def _states(self, file: str) -> tuple[list[int], torch.Tensor]:
        try:
            _wait_until_written(file)
            tensors = load_file(file)
            ids, states = tensors["token_ids"].tolist(), tensors["hidden_states"]
            for done in (file, f"{file}.lock"):
                Path(done).unlink()
        except (OSError, KeyError, SafetensorError) as error:
            raise UserError(
                f"the vLLM server at {self.url} wrote its states to {file!r}, which this process cannot read and delete"
                f" ({error}). Run the server on this machine and as this user, or set shared_storage_path in its"
                " command to a folder that both machines share under the same path."
            ) from error
        return ids, states

    def wrong(self, what: str) -> UserError:
        """Return the error for a server with wrong options.

        Args:
            what: Predicate of the error message, such as "returns no hidden states".
        """
        return UserError(f"the vLLM server at {self.url} {what}. For this VLM and these layers start:\n{self.command}")


def _data_url(square: Frames) -> str:
    written = BytesIO()
    Image.fromarray(square).save(written, "PNG", compress_level=1)
    return f"data:image/png;base64,{b64encode(written.getvalue()).decode()}"


def _message(error: HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip() or str(error.reason)


def _wait_until_written(file: str) -> None:
    """Wait until the server has written a file; it answers earlier, but holds a lock until then."""
    import fcntl  # not on Windows, where vLLM does not run either

    with open(f"{file}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)


# The VLM.


def served(family: type[VLM]) -> type[VLM]:
    """Return a subclass of a family whose passes run in the server of the options.

    Args:
        family: Class of the local VLM. The subclass has its name, so that `key` names the same family.
    """
    return type(family.__name__, (Served, family), {})


class Served(VLM):
    """Overrides of a family whose passes run in a server. Its states differ from local ones by rounding only."""

    has_engine = False
    max_positions = None  # the server has its own limit

    def read_model(self, path: str) -> Any:
        """Read the parts that are needed beside the forward passes; states arrive on the CPU.

        Args:
            path: A local folder or a Hub id; the server must serve the same checkpoint.

        Returns:
            An object with the device, the dtype (float32) and the generation config, without weights.
        """
        self._layers = _layer_ids(self.options, self.depth)
        command = serve_command(path, self.options)
        self._server = Server(str(self.options.server), _served_name(path, self._layers), command)
        self._norm = checkpoint.read_final_norm(path, self.config) if self.depth in self._layers else None
        generation = checkpoint.read_generation_config(path, self.config)
        return SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32, generation_config=generation)

    def key(self) -> dict[str, Any]:
        return super().key() | {"backend": "vllm"}

    def vision(self, frames: Frames) -> Tokens:
        raise UserError("a vLLM server does not return the vision tower's tokens; leave out vlm_options.server.")

    @torch.no_grad()
    def generate(
        self,
        frames: Images,
        prompts: Prompts,
        new_tokens: int,
        *,
        samples: int = 1,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
    ) -> list[list[int]]:
        if temperature:
            raise UserError("sampling is not possible with server; use temperature=0, or leave out server.")
        replies = self._ask(*self.batch(frames, prompts), max_tokens=new_tokens)
        return [
            tokens[0, before_end(tokens, self.eos_token_ids)[0]].tolist()
            for tokens in (torch.tensor([reply.chosen]) for reply in replies)
            for _ in range(samples)
        ]

    def check_complete(self) -> None:
        raise UserError("a VLM on a vLLM server cannot be trained; leave out vlm_options.server.")

    def passes(self, frames: Frames, prompts: list[Prompt]) -> Iterator[tuple[list[int], PassStates]]:
        count = self.new_tokens
        shortest = min(self.options.min_new_tokens, count)
        replies = self._ask(frames, prompts, max_tokens=count + 1, min_tokens=shortest, ignore_eos=True)
        for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            generated = len(reply.ids) - len(self.token_ids(prompt))
            if generated != count:
                raise self._server.wrong(f"stopped after {generated} of {count} tokens")
            yield [row], self._arrange(prompt, reply)

    def _arrange(self, prompt: Prompt, reply: Reply) -> PassStates:
        states = reply.states.float()
        if self._norm is not None:
            states[:, -1] = self._norm(states[:, -1])
        layers = [self._layers.index(layer % (self.depth + 1)) for layer in self.options.layers]
        whole, length = states[:, layers].transpose(0, 1)[None], len(self.token_ids(prompt))
        tokens = torch.tensor([reply.ids[length:]], dtype=torch.long)
        order = image_tokens_first(self.ids([prompt]), self.image_token_id)
        return PassStates(whole[:, :, order], tokens, whole[:, :, length:])

    def _ask(self, frames: Frames, prompts: list[Prompt], **sampling: Any) -> list[Reply]:
        """Return one reply per row."""
        if max(map(image_count, prompts)) > 1 or any(map(videos_of, prompts)):
            raise UserError(
                "several images or videos in a prompt are not possible with server; leave out vlm_options.server."
            )
        with ThreadPoolExecutor(min(len(prompts), AT_ONCE)) as pool:
            return list(pool.map(partial(self._ask_one, **sampling), self.fit(frames), prompts))

    def _ask_one(self, square: Frames, prompt: Prompt, **sampling: Any) -> Reply:
        ids = list(self.token_ids(prompt))
        start, count = ids.index(self.image_token_id), self.image_length()
        reply = self._server.ask(ids[: start + 1] + ids[start + count :], square, **sampling)
        if reply.ids[: len(ids)] != ids:
            raise self._server.wrong("uses other tokens than the tokenizer of this checkpoint")
        return reply

    def probe_vision(self) -> tuple[int, int]:
        """Return the number of image tokens, from one black frame, and 0 for the tower's width, which is unknown."""
        self._check_pixels()
        self.vision_length = 1  # a layout then has one placeholder, as a request has
        black = np.zeros((self.image_size, self.image_size, 3), dtype=np.uint8)
        reply = self._server.ask(self.layout(""), black, max_tokens=1)
        if reply.states.shape[1:] != (expected := (len(self._layers), self.hidden_size)):
            raise self._server.wrong(
                f"returns states {tuple(reply.states.shape[1:])} instead of {expected} for a token"
            )
        dtype = str(reply.states.dtype).removeprefix("torch.")
        if self.options.dtype not in ("auto", dtype):
            raise self._server.wrong(f"computes in {dtype}, not in dtype={self.options.dtype}")
        self.model.dtype = reply.states.dtype
        return reply.ids.count(self.image_token_id), 0

    def _check_pixels(self) -> None:
        """Check that the checkpoint's image processor, which vLLM uses, leaves a square as it is."""
        noise = np.random.default_rng(0).integers(0, 256, (1, self.image_size, self.image_size, 3), dtype=np.uint8)
        theirs = self.image_processor(images=list(noise), return_tensors="pt")["pixel_values"]
        ours = self.pixels(noise)["pixel_values"]
        if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=1e-3):
            raise UserError(
                f"image_size={self.image_size} is not possible with server, because the checkpoint's image processor in"
                f" vLLM would resize or crop such a square. Use image_size={self.default_image_size()}."
            )

    def check_options(self, path: str) -> None:
        super().check_options(path)
        kind, options = self.config.model_type, self.options
        if kind not in MODEL_TYPES:
            raise UserError(
                f"server={options.server!r}: vLLM does not return the hidden states of {path!r}, a {kind}, only those"
                f" of {', '.join(MODEL_TYPES)}. Leave out server to run the model in this process."
            )
        if options.dtype not in DTYPES:
            raise UserError(f"dtype={options.dtype!r} is not possible with server; use one of {', '.join(DTYPES)}.")
        if options.aspect == "native":
            raise UserError("aspect=native is not possible with server; use stretch or letterbox.")
        if options.random_weights is not None:
            raise UserError(
                "random_weights is not possible with server, which loads the weights; leave out one of them."
            )
        if options.generation == "sample":
            raise UserError(
                "generation='sample' is not possible with server, because pr2l has to draw the random numbers. Use"
                " generation=greedy or generation=none."
            )
        # Qwen3-VL adds vision features after each of its first layers: transformers takes the state before, vLLM after.
        deep = len(getattr(self.config.vision_config, "deepstack_visual_indexes", ()))
        if bad := [layer for layer in options.layers if 1 <= layer % (self.depth + 1) <= deep]:
            raise UserError(
                f"layers={list(options.layers)}: with server, the states of {bad} would not be those of transformers,"
                f" as a {kind} adds vision features after its layers 1 to {deep}; use 0, or {deep + 1} to {self.depth}."
            )
