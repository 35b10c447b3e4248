"""Data sets whose `collect` was stopped, killed, started twice, or damaged afterwards."""

import io
import os
import random
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path

import h5py
import minari
import pytest
from processes import run_in_fork
from toy_runs import TOY_WORLD

from pr2l.core.disk import DiskFull
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile
from pr2l.core.lock import locked
from pr2l.data import parts
from pr2l.data.manifest import Manifest
from pr2l.data.parts import EpisodeWriter, count_episodes, part_files
from pr2l.data.recording import Recording
from pr2l.training.collect import collect

DEMONSTRATIONS = """
from types import SimpleNamespace
def demonstrations(path):
    for problem in path.read_text().splitlines():
        yield SimpleNamespace(problem=problem.strip("-"), start=None, actions=[0] * 7)
def begin(env, start): return env.unwrapped._observation(), env.unwrapped._info()
"""
KIND = {"noise": 0.3, "labels": True, "seed": 7, "infos": ["measures"], "policy": "random"}


@pytest.fixture(autouse=True)
def toy(write_plugin, monkeypatch):
    """The toy world, with demonstrations; every episode is committed when it ends."""
    write_plugin("environments", "toy", TOY_WORLD + DEMONSTRATIONS)
    monkeypatch.setattr(parts, "COMMIT_EVERY", 0)


def killed(folder: Path, monkeypatch: pytest.MonkeyPatch, after: int, **arguments) -> None:
    """Run `collect` in a process that is killed in the episode after the first `after` ones."""
    append = EpisodeWriter.append

    def kill(self, *episode):
        if len(self.seeds) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, *episode)

    with monkeypatch.context() as patch:
        patch.setattr(EpisodeWriter, "append", kill)
        assert run_in_fork(lambda: collect("toy", "colours", folder, **arguments)) == -signal.SIGKILL


def assert_same(folder: Path, expected: Path) -> None:
    """Two data sets have the same arrays, attributes and labels."""
    found: list[dict] = []
    for path in (folder, expected):
        entries: dict = {"labels": (path / "labels.jsonl").read_bytes() if (path / "labels.jsonl").is_file() else b""}
        with h5py.File(path / "data" / "main_data.hdf5") as file:

            def add(name, item, entries=entries):
                entries[f"{name} attributes"] = {key: str(value) for key, value in item.attrs.items()}
                if isinstance(item, h5py.Dataset):
                    entries[name] = item[()].tolist()

            file.visititems(add)
        found.append(entries)
    assert found[0] == found[1]


@pytest.mark.slow
def test_collect_that_is_killed_at_random_moments_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    """Killed every few hundredths of a second, in the middle of episodes and of writing."""
    monkeypatch.setattr(parts, "COMMIT_EVERY", 0.0)  # a part for each episode, so that every call gets further
    rng, folder, arguments = random.Random(0), tmp_path / "killed", {**KIND, "episodes": 100}
    code, kills, counts = -signal.SIGKILL, 0, [0]
    while code == -signal.SIGKILL:
        delay = rng.uniform(0.0, 0.2) + 0.02 * kills  # the merge needs a longer time

        def collect_until_killed(delay=delay):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
            collect("toy", "colours", folder, **arguments)

        code = run_in_fork(collect_until_killed)
        kills += code == -signal.SIGKILL
        manifest = Manifest.read(folder)
        if manifest is not None and not manifest.is_complete:  # otherwise it was killed while it removed the parts
            counts.append(len(EpisodeWriter(folder, "").seeds))
    assert code == 0 and kills > 5 and counts == sorted(counts)
    collect("toy", "colours", tmp_path / "whole", **arguments)
    assert_same(folder, tmp_path / "whole")
    assert Recording(folder).episodes == 100


def test_kill_before_any_call_of_the_system_loses_nothing(tmp_path, monkeypatch):
    """Before each call, the folder is copied, as a process that is killed there would leave it.

    The copies are those of a new data set of two episodes, then of its extension to three.
    """
    folder, copies, contents = tmp_path / "a", {2: [], 3: []}, []

    def copied(function, episodes):
        def call(*arguments, **options):
            content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
            if content not in contents:
                contents.append(content)
                copies[episodes].append(tmp_path / f"{episodes}-{len(contents)}")
                shutil.copytree(folder, copies[episodes][-1])
            return function(*arguments, **options)

        return call

    for episodes in copies:
        with monkeypatch.context() as patch:
            for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
                patch.setattr(os, name, copied(getattr(os, name), episodes))
            collect("toy", "colours", folder, **KIND, episodes=episodes)
        shutil.copytree(folder, tmp_path / f"whole {episodes}")
        assert len(copies[episodes]) > 8
        recorded = [killed_and_continued(copy, episodes, tmp_path / f"whole {episodes}") for copy in copies[episodes]]
        assert recorded == sorted(recorded)


def killed_and_continued(folder: Path, episodes: int, whole: Path) -> int:
    """Continue a data set after a kill; returns the number of episodes that it had."""
    manifest = Manifest.read(folder)
    if manifest is not None and manifest.is_complete:
        recorded = Recording(folder).episodes
    else:
        recorded = count_episodes(folder)
        with pytest.raises(UserError, match="is incomplete" if manifest else "is not a data set"):
            Recording(folder)
    collect("toy", "colours", folder, **KIND, episodes=episodes)
    assert_same(folder, whole)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in whole.iterdir())
    assert Recording(folder).episodes == episodes and not (folder / "parts").exists()
    return recorded


@pytest.mark.parametrize(("policy", "after"), [("random", 0), ("random", 3), ("oracle", 3)])
def test_killed_collect_is_refused_until_it_is_continued(tmp_path, monkeypatch, capsys, policy, after):
    """The continued data set equals that of an uninterrupted command."""
    arguments, folder = {**KIND, "policy": policy, "episodes": 5}, tmp_path / "killed"
    killed(folder, monkeypatch, after, **arguments)
    assert count_episodes(folder) == len(EpisodeWriter(folder, "").seeds) == after
    with pytest.raises(UserError, match=rf"is incomplete: it has {after} of 5 episodes.*\npr2l collect toy colours"):
        Recording(folder)
    collect("toy", "colours", folder, **arguments)
    assert "which has ended; taking over" in capsys.readouterr().out
    collect("toy", "colours", tmp_path / "whole", **arguments)
    assert_same(folder, tmp_path / "whole")
    assert Recording(folder).episodes == 5


def test_killed_collect_of_demonstrations_is_continued(tmp_path, monkeypatch, capsys):
    """The demonstrations that cannot be played are counted again."""
    file = tmp_path / "demonstrations"
    file.write_text("-\nit is damaged\n-\n-\n")
    killed(tmp_path / "killed", monkeypatch, 2, demonstrations=file)
    with pytest.raises(UserError, match="(?s)has 2 of all episodes.*--from .*demonstrations\n.* add: --episodes 2"):
        Recording(tmp_path / "killed")
    collect("toy", "colours", tmp_path / "killed", demonstrations=file)
    assert "1 demonstrations are left out" in capsys.readouterr().out
    collect("toy", "colours", tmp_path / "whole", demonstrations=file)
    assert_same(tmp_path / "killed", tmp_path / "whole")
    file.write_text("-\n-\n")
    with pytest.raises(UserError, match="demonstrations_sha256 is .* there and .* here"):
        collect("toy", "colours", tmp_path / "whole", demonstrations=file)


def test_same_command_does_nothing_and_more_episodes_extend(tmp_path):
    folder, file = tmp_path / "a", tmp_path / "a" / "data" / "main_data.hdf5"
    collect("toy", "colours", folder, **KIND, episodes=2)
    before = file.stat().st_mtime_ns
    assert collect("toy", "colours", folder, **KIND, episodes=2).total_episodes == 2
    assert file.stat().st_mtime_ns == before
    collect("toy", "colours", folder, **KIND, episodes=4)
    collect("toy", "colours", tmp_path / "b", **KIND, episodes=4)
    assert_same(folder, tmp_path / "b")
    assert Recording(folder).episodes == 4
    with pytest.raises(UserError, match="has 4 episodes already, more than 3"):
        collect("toy", "colours", folder, **KIND, episodes=3)
    assert Recording(folder).episodes == 4


def test_other_settings_are_refused_with_the_differences(tmp_path):
    collect("toy", "colours", tmp_path / "a", **KIND, episodes=1)
    with pytest.raises(UserError, match=r"(?s)noise is 0.3 there and 0.5 here.*--seed 7 --noise 0.3") as error:
        collect("toy", "colours", tmp_path / "a", **{**KIND, "noise": 0.5}, episodes=2)
    assert str(error.value).endswith("--episodes 1 --labels --info measures")
    assert Recording(tmp_path / "a").episodes == 1


def test_second_process_is_refused(tmp_path):
    with locked(tmp_path / "a"), pytest.raises(UserError, match="a is in use by process [0-9]+ on"):
        collect("toy", "colours", tmp_path / "a", episodes=1)


def test_folder_of_an_earlier_version_is_not_continued(tmp_path):
    collect("toy", "colours", tmp_path / "a", episodes=1)
    (tmp_path / "a" / "collect.json").unlink()
    with pytest.raises(UserError, match="exists already, without the file collect.json"):
        collect("toy", "colours", tmp_path / "a", episodes=1)
    assert Recording(tmp_path / "a").episodes == 1


@pytest.mark.parametrize("name", ["data/main_data.hdf5", "data/metadata.json", "labels.jsonl", "collect.json"])
def test_damage_is_found_when_the_data_set_is_opened_or_extended(tmp_path, name):
    collect("toy", "colours", tmp_path / "a", **KIND, episodes=2)
    file = tmp_path / "a" / name
    if name == "data/metadata.json":
        file.write_text(file.read_text().replace('"noise": 0.3', '"noise": 0.4'))
    else:
        content = bytearray(file.read_bytes())
        content[len(content) * 3 // 4] ^= 1
        file.write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"{name} is damaged.*Delete .*a and collect it again"):
        Recording(tmp_path / "a")
    with pytest.raises(DamagedFile, match=rf"{name} is damaged"):
        collect("toy", "colours", tmp_path / "a", **KIND, episodes=3)


def test_damaged_part_is_named_and_its_episodes_are_recorded_again(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    killed(folder, monkeypatch, 3, **KIND, episodes=4)
    first = part_files(folder)[0]
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 1
    first.write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"{first.name} is damaged.*Delete this file"):
        collect("toy", "colours", folder, **KIND, episodes=4)
    with pytest.raises(UserError, match="is incomplete: it has 3 of 4 episodes"):
        Recording(folder)
    first.unlink()
    collect("toy", "colours", folder, **KIND, episodes=4)
    seeds = [values["seed"] for values in minari.MinariDataset(folder / "data").storage.get_episode_metadata(range(4))]
    assert seeds == [8, 9, 7, 10] and [episode.id for episode in minari.MinariDataset(folder / "data")] == [0, 1, 2, 3]


def test_incomplete_data_set_without_parts_is_not_replaced(tmp_path):
    """As an earlier version left it when it was stopped."""
    collect("toy", "colours", tmp_path / "a", **KIND, episodes=2)
    manifest = Manifest.read(tmp_path / "a")
    assert manifest is not None
    replace(manifest, recorded=0, files={}).write(tmp_path / "a")
    with pytest.raises(UserError, match="no episodes in parts, .* earlier version .*delete the folder"):
        collect("toy", "colours", tmp_path / "a", **KIND, episodes=2)
    assert len(minari.MinariDataset(tmp_path / "a" / "data")) == 2


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the system refuse to write files beyond a size, with an error like that of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with redirect_stdout(io.StringIO()):  # pytest's is a file
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "message", "kept"),
    [
        (0, "the first files of .*a take .*free some space, or name a folder on another disk", 0),
        (300, "the settings of the data set take .*To continue:\npr2l collect toy colours", 0),
        (5_000, "the next episodes take .*0 episodes are kept. To continue:\npr2l collect toy colours", 0),
        (40_000, "the merged episodes take .*all episodes are kept in .*parts. To continue:\npr2l collect", 4),
    ],
)
def test_full_disk_is_explained_for_every_file(tmp_path, size, message, kept):
    """What was recorded stays, and the same command completes the data set when there is space."""
    folder, arguments = tmp_path / "a", {**KIND, "episodes": 4}
    with largest_file(size), pytest.raises(DiskFull, match=f"(?s){message}"):
        collect("toy", "colours", folder, **arguments)
    assert count_episodes(folder) == kept and not (folder / ".partial-data").exists()
    collect("toy", "colours", folder, **arguments)
    collect("toy", "colours", tmp_path / "b", **arguments)
    assert_same(folder, tmp_path / "b")


def test_full_disk_keeps_the_episodes_before(tmp_path, monkeypatch):
    """The disk is full at the third episode."""
    append = EpisodeWriter.append

    def on_full_disk(self, *episode):
        with largest_file(1000) if len(self.seeds) == 2 else nullcontext():
            append(self, *episode)

    with monkeypatch.context() as patch, pytest.raises(DiskFull) as error:
        patch.setattr(EpisodeWriter, "append", on_full_disk)
        collect("toy", "colours", tmp_path / "a", **KIND, episodes=4)
    assert "free some space; 2 episodes are kept. To continue:\npr2l collect toy colours" in str(error.value)
    assert sorted(path.name[:8] for path in (tmp_path / "a" / "parts").iterdir()) == ["00000000", "00000001"]
    collect("toy", "colours", tmp_path / "a", **KIND, episodes=4)
    collect("toy", "colours", tmp_path / "b", **KIND, episodes=4)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_too_little_space_for_the_merge_is_explained_before_it_starts(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(DiskFull, match=r"(?s)free \d.* kB or more; all .*pr2l collect"):
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        collect("toy", "colours", folder, **KIND, episodes=2)
    assert count_episodes(folder) == 2 and not (folder / "data").exists()
    collect("toy", "colours", folder, **KIND, episodes=2)
    assert Recording(folder).episodes == 2


def test_episodes_are_committed_together_within_a_second(tmp_path, monkeypatch):
    """All of them when the command ends, also by an error or a signal."""
    monkeypatch.setattr(parts, "COMMIT_EVERY", 1000)
    with pytest.raises(RuntimeError, match="toy engine has died"):
        collect("toy", "colours", tmp_path / "a", episodes=50, options={"crash_at": 20})
    assert 2 <= count_episodes(tmp_path / "a") <= 4 and len(part_files(tmp_path / "a")) == 1


def test_data_set_does_not_depend_on_the_parts(tmp_path, monkeypatch):
    collect("toy", "colours", tmp_path / "a", **KIND, episodes=5)
    monkeypatch.setattr(parts, "COMMIT_EVERY", 1000)
    collect("toy", "colours", tmp_path / "b", **KIND, episodes=5)
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_signal_while_an_episode_is_added_keeps_it_once(tmp_path, monkeypatch, capsys, number, error):
    sync = parts.sync

    def interrupted(path):
        if path.is_dir():  # the part has its name already
            signal.raise_signal(number)
        sync(path)

    with monkeypatch.context() as patch, pytest.raises(error):
        patch.setattr(parts, "sync", interrupted)
        collect("toy", "colours", tmp_path / "a", **KIND, episodes=4)
    assert count_episodes(tmp_path / "a") == 1
    assert "1 episodes are kept; to continue:\npr2l collect toy colours" in capsys.readouterr().out
    collect("toy", "colours", tmp_path / "a", **KIND, episodes=4)
    collect("toy", "colours", tmp_path / "b", **KIND, episodes=4)
    assert_same(tmp_path / "a", tmp_path / "b")


def test_random_actions_do_not_repeat_the_random_numbers_of_the_environment(tmp_path, monkeypatch):
    """With the seed of the environment, the length of an episode, its first random number, would tell the action."""
    monkeypatch.setattr(parts, "COMMIT_EVERY", 1000)
    episodes = collect("toy", "colours", tmp_path / "a", episodes=40)
    assert len({(len(episode.rewards), int(episode.actions[0])) for episode in episodes}) >= 9


def test_command_of_a_manifest_has_all_settings_that_differ_from_the_defaults(tmp_path):
    collect("toy", "colours", tmp_path / "a", episodes=1, split="evaluation", options={"crash_at": 90})
    manifest = Manifest.read(tmp_path / "a")
    assert manifest is not None and manifest.recorded == manifest.wanted == 1
    words = f"pr2l collect toy colours crash_at=90 --output {tmp_path / 'a'} --split evaluation --episodes 1"
    assert manifest.command(tmp_path / "a") == words
