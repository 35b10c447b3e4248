"""Sets of labelled frames whose bytes have changed, that two processes play, or that do not fit on the disk."""

import errno
import json
import os
import threading

import pytest
from toy_runs import TOY_WORLD

from pr2l.core.disk import DiskFull
from pr2l.core.io import DamagedFile
from pr2l.core.lock import locked
from pr2l.data.labelled_frames import FILES, Source, load_or_play

SOURCE = Source(environment="toy", tasks=("colours",), frames=10)


@pytest.fixture(autouse=True)
def toy(write_plugin):
    write_plugin("environments", "toy", TOY_WORLD)


@pytest.fixture
def folder(tmp_path):
    """The folder of a complete set."""
    load_or_play(SOURCE, tmp_path / "sets")
    return next((tmp_path / "sets").iterdir())


@pytest.mark.parametrize("name", [*FILES, "set.json"])
def test_changed_files_are_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-9] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(DamagedFile, match=rf"{name} is damaged.*Delete .*{folder.name}; the same command plays"):
        load_or_play(SOURCE, folder.parent)


def test_set_of_an_earlier_version_is_read(folder):
    """Its set.json has no digests."""
    values = json.loads((folder / "set.json").read_text())
    (folder / "set.json").write_text(json.dumps({"source": values["source"], "names": values["names"]}))
    assert len(load_or_play(SOURCE, folder.parent, lambda count: pytest.fail("it is played again"))) == 10


def test_second_process_waits_and_reads_what_the_first_has_played(folder):
    card, played = (folder / "set.json").read_bytes(), []
    (folder / "set.json").unlink()
    with locked(folder):
        thread = threading.Thread(target=load_or_play, args=(SOURCE, folder.parent, played.append))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        (folder / "set.json").write_bytes(card)
    thread.join()
    assert not played


def test_full_disk_is_explained(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match="10 labelled frames take 1.4 kB, .*take fewer frames"):
        load_or_play(SOURCE, tmp_path)
    assert not list(tmp_path.glob("*/frames.npy"))
