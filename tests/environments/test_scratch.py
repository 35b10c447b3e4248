"""Folder for the logs and locks of a simulator: one per user, and no links are followed."""

import os

import pytest

from pr2l.environments.isolation.scratch import folder, open_lock


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_folder_belongs_to_the_user_alone(tmp_path):
    path = folder("minecraft")
    assert path == tmp_path / f"pr2l-minecraft-{os.getuid()}" == folder("minecraft")
    assert path.stat().st_mode & 0o777 == 0o700


def test_link_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "victim").mkdir(mode=0o700)
    (tmp_path / f"pr2l-minecraft-{os.getuid()}").symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match="not a folder of this user"):
        folder("minecraft")


def test_folder_that_others_can_write_to_is_refused(tmp_path):
    path = tmp_path / f"pr2l-minecraft-{os.getuid()}"
    path.mkdir()
    path.chmod(0o777)
    with pytest.raises(ValueError, match="0700"):
        folder("minecraft")


def test_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    folder("minecraft")
    owner = os.getuid()
    (tmp_path / f"pr2l-minecraft-{owner}").rename(tmp_path / f"pr2l-minecraft-{owner + 1}")
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(ValueError, match="not a folder of this user"):
        folder("minecraft")


def test_link_in_place_of_a_lock_file_is_refused(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (folder("minecraft") / "9000.lock").symlink_to(victim)
    with pytest.raises(OSError):
        open_lock("minecraft", "9000")
    assert victim.read_text() == "kept"
    os.close(open_lock("minecraft", "9001"))
    assert (folder("minecraft") / "9001.lock").stat().st_mode & 0o777 == 0o600
