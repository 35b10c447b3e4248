"""Signals that stop a program: the first takes effect, those that follow do not interrupt the saving."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from processes import TIMEOUT
from toy_runs import TOY, TOY_WORLD, weights

from pr2l.core import registry, signals
from pr2l.core.config import load_config
from pr2l.core.signals import STOP_SIGNALS, not_interrupted, stops_once
from pr2l.training.runs import Run
from pr2l.training.train import train

ROOT = Path(__file__).parents[2]
PPO = {"n_steps": 16, "n_epochs": 1, "batch_size": 32, "head_sizes": [16], "device": "cpu"}

INTERRUPTED = """
import atexit, signal, sys
from pr2l.cli import main
from pr2l.core import registry

def interrupt(where):
    print(where, flush=True)
    signal.raise_signal(signal.SIGINT)

def work(*arguments):
    atexit.register(interrupt, "ending")  # as torch does
    try:
        interrupt("working")
    finally:
        for _ in range(3):
            interrupt("saving")
        print("saved", flush=True)

registry.names = work
sys.argv = ["pr2l", "list", "encoders"]
main()
"""


@pytest.mark.parametrize(("first", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143), (signal.SIGINT, None)])
def test_signals_during_the_saving_change_nothing(write_plugin, tmp_path, monkeypatch, first, code):
    write_plugin("environments", "toy", TOY_WORLD)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY | {"algorithm_options": PPO}))
    toy = registry.load("environments", "toy").Colours
    step, save, sent = toy.step, Run.save, []

    def step_with_signal(env, action):
        if env.steps == 40:
            signal.raise_signal(first)
        return step(env, action)

    def save_with_signals(run, checkpoint):
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if checkpoint.step else ():
            sent.append(number)
            signal.raise_signal(number)
        return save(run, checkpoint)

    monkeypatch.setattr(toy, "step", step_with_signal)
    monkeypatch.setattr(Run, "save", save_with_signals)
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    config = load_config(tmp_path / "toy.yaml", ["checkpoint_every=1000000", "steps=256"])
    with pytest.raises(SystemExit if code else KeyboardInterrupt) as stop:
        train(config, root=tmp_path / "runs")
    assert code is None or stop.value.code == code
    [run] = (tmp_path / "runs").iterdir()
    assert weights(run)[0] == "000000128" and len(sent) == 4
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_command_saves_and_prints_no_traceback_after_five_interrupts(tmp_path):
    """Without `stops_once` the second interrupts the saving; without the handler at exit the fifth has a traceback."""
    command, environment = [sys.executable, "-c", INTERRUPTED], os.environ | {"PYTHONPATH": str(ROOT)}
    program = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert program.stdout.split() == ["working", "saving", "saving", "saving", "saved", "ending"]
    assert program.returncode == 130 and "Traceback" not in program.stderr


def test_later_signal_ends_a_program_that_hangs(monkeypatch):
    monkeypatch.setattr(signals, "SAVING_TIME", 0.0)
    with pytest.raises(KeyboardInterrupt), stops_once(signal.SIGINT):
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)


def test_program_that_was_started_with_nohup_ignores_the_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stops_once(signal.SIGHUP):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_until_the_end_of_not_interrupted_blocks(number):
    written, before = [], [signal.getsignal(number) for number in STOP_SIGNALS]
    with pytest.raises((KeyboardInterrupt, SystemExit)), stops_once(*STOP_SIGNALS), not_interrupted():
        with not_interrupted():
            signal.raise_signal(number)
            written.append("file")
        written.append("folder")
    assert written == ["file", "folder"]
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
