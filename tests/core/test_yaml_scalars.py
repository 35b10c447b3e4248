"""Scalars of YAML 1.2, YAML that cannot be read, and the range of seeds."""

import pytest

from pr2l.benchmark.rows import validated
from pr2l.core.config import MAX_SEED, RunConfig, read_config
from pr2l.core.errors import UserError
from pr2l.core.yaml_files import dump, parse, read_mapping, write_mapping
from pr2l.training.collect import collect

CONFIG = {"why": "a test", "environment": "doom", "task": "fetch", "encoder": "pixels", "network": "mlp", "steps": 1}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("-07", -7),
        ("1_000", 1000),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2026-01-31", "2026-01-31"),
        ("0b11", "0b11"),
        ("off", "off"),
        ("1e-4", 1e-4),
        ("+.5", 0.5),
        ("5.", 5.0),
        (".inf", float("inf")),
        (".", "."),
        ("_1", "_1"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    assert parse(text, "it") == value and type(parse(text, "it")) is type(value)


@pytest.mark.parametrize("text", ["010", "09", "0o10", "1:30", "1e5", "1e-4", "off", "2026-01-31", "0x1F", "null", "="])
def test_text_that_looks_like_a_number_stays_a_text(text, tmp_path):
    assert parse(dump(text), "it") == text
    write_mapping(tmp_path / "values.yaml", {"prompt": text})
    assert read_mapping(tmp_path / "values.yaml", verify=True) == {"prompt": text}


@pytest.mark.parametrize(
    "text",
    ["[" * 5_000, "a: !!bool maybe", "a: " + "1" * 5_000, "a: !!timestamp never", "a: !!float ''", "? [1]\n: 2"],
)
def test_unreadable_yaml_is_a_user_error(text, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml is not valid YAML"):
        read_mapping(tmp_path / "bad.yaml")


def test_seeds_are_those_that_numpy_takes(tmp_path):
    (tmp_path / "a.yaml").write_text(dump(CONFIG))
    assert read_config(RunConfig, tmp_path / "a.yaml", [f"seed={MAX_SEED}"]).seed == 4294967295
    for seed in ("4294967296", "-1"):
        with pytest.raises(UserError, match=f"seed = {seed}: Input should be .* than or equal to (4294967295|0)"):
            read_config(RunConfig, tmp_path / "a.yaml", [f"seed={seed}"])
    with pytest.raises(UserError, match="needs the seeds 4294967295 to 4294967296.*at most 4294967294"):
        collect("doom", "fetch", tmp_path / "out", episodes=2, seed=MAX_SEED)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_row_with_a_number_that_is_not_finite_is_refused(number):
    values = {"results": {"played": {"return": [0.5, number]}}, "frames_per_second": 1.0}
    with pytest.raises(UserError, match=rf"row\.json: results\.played\.return\.1 is {number}.*must be finite"):
        validated(values, "row.json")
