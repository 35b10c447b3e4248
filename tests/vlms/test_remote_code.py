"""Checkpoints that come with Python code: pr2l never runs the code, and says so."""

import json

import pytest

from pr2l.core.errors import UserError
from pr2l.encoders.answer_text import SentenceEmbedder
from pr2l.encoders.common.vision import load_pretrained
from pr2l.vlms import checkpoint
from pr2l.vlms.processor import read_processor

CODE = """
from pathlib import Path
Path(__file__).with_name("executed").touch()
class Config: ...
class Model: ...
class Tokenizer: ...
class Processor: ...
"""
CLASSES = {"AutoConfig": "code.Config", "AutoModelForImageTextToText": "code.Model", "AutoModel": "code.Model"}
PROCESSORS = {
    "AutoTokenizer": [None, "code.Tokenizer"],
    "AutoProcessor": "code.Processor",
    "AutoImageProcessor": "code.Processor",
}


@pytest.fixture
def folder(tmp_path):
    """A checkpoint whose config and processors name classes in a Python file beside them."""

    files = {
        "config.json": {"model_type": "stranger", "auto_map": CLASSES},
        "tokenizer_config.json": {"tokenizer_class": "Tokenizer", "auto_map": PROCESSORS},
        "preprocessor_config.json": {"image_processor_type": "Processor", "auto_map": PROCESSORS},
        "processor_config.json": {"processor_class": "Processor", "auto_map": PROCESSORS},
    }
    for name, values in files.items():
        (tmp_path / name).write_text(json.dumps(values))
    (tmp_path / "code.py").write_text(CODE)
    return tmp_path


@pytest.mark.parametrize(
    "read",
    [
        checkpoint.read_config,
        checkpoint.read_tokenizer,
        checkpoint.read_image_processor,
        lambda path: read_processor(path, None),
        lambda path: SentenceEmbedder(path, "cpu"),
    ],
    ids=["config", "tokenizer", "image processor", "processor", "sentence embedder"],
)
def test_code_of_a_checkpoint_is_refused(read, folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question: "y")  # what a user may answer to transformers' question
    with pytest.raises(UserError, match="pr2l runs no such code"):
        read(str(folder))
    assert not list(folder.rglob("executed"))


def test_code_of_a_model_is_refused(folder):
    from transformers import AutoModel

    with pytest.raises(UserError, match="pr2l runs no such code"):
        load_pretrained(AutoModel, str(folder), None)
    assert not list(folder.rglob("executed"))
