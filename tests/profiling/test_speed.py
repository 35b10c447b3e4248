"""The program `pr2l speed`: comparisons with other methods, the sweep of a device, and their reports."""

import json

import pytest
import torch

from pr2l.core.errors import UserError
from pr2l.profiling import sweep
from pr2l.profiling.speed import speed
from pr2l.profiling.timing import Effort

FAST = Effort(frames=2, rounds=1, seconds=0)


@pytest.fixture
def traced(monkeypatch):
    """Compile without a C++ compiler, which takes minutes."""
    make = torch.compile
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", lambda module, dynamic, mode: make(module, dynamic=dynamic, backend="eager"))


def report(folder):
    return json.loads((folder / "speed.json").read_text())


@pytest.mark.slow
def test_sweep_of_a_small_shape_measures_every_implementation_batch_size_generation_and_ppo(tmp_path, traced):
    results = speed(["llava-7b-224px"], FAST, tmp_path, minutes=9, device="cpu", small=True)
    assert not results.failed
    assert results.unmeasured == {"llava-7b-224px: CUDA graphs": "needs a GPU of NVIDIA"}
    measured = {measure.name: measure for measure in results.measures}
    sizes = [measured[f"llava-7b-224px: SDPA, {count} frames"].labels["batch"] for count in (1, 2, 4)]
    assert sizes == [1, 2, 4]
    for name in ("SDPA", "eager", "compiled"):
        share = measured[f"llava-7b-224px: {name}, 2 frames, share"]
        assert 0 < share.value.value < 1 and share.goal is None
    # Two of four layers of 48 tokens: projections of 4 x 64 x 64 and 3 x 64 x 128 numbers; torch counts no attention
    # on a CPU.
    description = "llava-7b-224px (half the layers, 16 + 32 tokens, float32)"
    language_operations = 2 * 2 * 48 * (4 * 64**2 + 3 * 64 * 128) / 1e9
    operations, of_vision = (
        measured[f"{description}: {name}"].value.value
        for name in ("operations a frame", "share of them in the vision tower")
    )
    assert operations * (1 - of_vision) == pytest.approx(language_operations, rel=1e-6)
    assert measured["llava-7b-224px, 8 tokens: ours over notebook"].value.value > 0
    assert measured["PPO with llava-7b-224px"].unit == "steps/s"
    assert [value["name"] for value in report(tmp_path)["measures"]] == list(measured)
    assert report(tmp_path)["unmeasured"] == results.unmeasured
    assert "Not measured:\n\n- llava-7b-224px: CUDA graphs: needs" in (tmp_path / "speed.md").read_text()
    assert (tmp_path / "speed.png").stat().st_size > 20_000


@pytest.mark.slow
def test_sweep_of_all_small_shapes(tmp_path, traced):
    results = speed((), FAST, tmp_path, minutes=30, device="cpu", small=True)
    assert not results.failed
    assert list(results.unmeasured) == [f"{shape}: CUDA graphs" for shape in sweep.EVERYDAY]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an alarm in a destructor of torch
def test_sweep_keeps_what_fits_into_its_time(tmp_path):
    results = speed(["instructblip-7b"], Effort(2, seconds=60), tmp_path, minutes=0.02, device="cpu", small=True)
    assert not results.failed
    assert list(results.unmeasured) == ["instructblip-7b:passes", "instructblip-7b:generation"]
    assert report(tmp_path)["unmeasured"] == results.unmeasured


def test_weights_that_do_not_fit_on_the_disk_are_refused_before_they_are_drawn(tmp_path, monkeypatch):
    bench = sweep.Bench("cpu", tmp_path, small=True)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"the weights of llava-7b take .*, and 1.* free .*; set TMPDIR"):
        bench.checkpoint("llava-7b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["tinny"], {}, "'tiny'"),
        (["smolvlm"], {"device": "cpu"}, "'smolvlm-256m'"),
        ([], {"device": "cuda"}, "torch finds no GPU"),
        ([], {"small": True}, "pr2l speed --device cpu --small"),
    ],
)
def test_wrong_arguments_raise_with_a_suggestion(tmp_path, names, options, message):
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=message):
        speed(names, out=tmp_path, **options)


@pytest.mark.slow
def test_speed_measures_tiny_and_writes_reports(tmp_path):
    results = speed(["tiny"], Effort(frames=4, rounds=6, seconds=0), tmp_path)
    assert not results.unmeasured
    assert [value["name"] for value in report(tmp_path)["measures"]] == [measure.name for measure in results.measures]
    assert all(measure.value.low <= measure.value.value <= measure.value.high for measure in results.measures)
    assert (tmp_path / "speed.png").stat().st_size > 10_000
    assert (tmp_path / "speed.md").read_text().count("\n") == len(results.measures) + 2
    shares = [measure.value.value for measure in results.measures if ": ours, share" in measure.name]
    assert len(shares) == 4 and sum(shares) == pytest.approx(1.0)
