"""Part files: each is complete or absent, and its name says what it holds."""

import h5py
import numpy as np
import pytest
from minari.data_collector import EpisodeBuffer

from pr2l.core import digest
from pr2l.core.io import DamagedFile
from pr2l.data.parts import EpisodeWriter, count_episodes, new_part, part_files


def episode(seed: int) -> EpisodeBuffer:
    """Return an episode of two steps."""
    columns = {"rewards": [0.0, 1.0], "terminations": [False, True], "truncations": [False, False]}
    return EpisodeBuffer(seed=seed, observations=np.full((3, 4), seed), actions=np.arange(2), **columns)


def test_each_commit_makes_one_part(tmp_path):
    """Its name has its number, the number of its episodes, and its digest."""
    writer = EpisodeWriter(tmp_path, "pr2l collect")
    for seeds in ((5, 6), (), (7,)):
        for seed in seeds:
            writer.append(episode(seed), {"success": True}, [{"name": str(seed)}])
        writer.commit()
    first, second = part_files(tmp_path)
    assert first.name == f"00000000-2-{digest.of_file(first)[:16]}.hdf5"
    assert second.name == f"00000001-1-{digest.of_file(second)[:16]}.hdf5"
    assert EpisodeWriter(tmp_path, "").seeds == writer.seeds == [5, 6, 7] and count_episodes(tmp_path) == 3
    with h5py.File(first) as file:
        assert file["episode_1/observations"][()].tolist() == [[6] * 4] * 3
        assert dict(file["episode_1"].attrs) == {"id": 1, "seed": 6, "total_steps": 2, "success": True}
        assert file["labels"].asstr()[()].tolist() == ['[{"name": "5"}]\n', '[{"name": "6"}]\n']


def test_part_whose_writing_fails_is_removed(tmp_path):
    with pytest.raises(OSError, match="disk"), new_part(tmp_path, 1) as path:
        path.write_bytes(b"half")
        raise OSError("disk")
    assert list((tmp_path / "parts").iterdir()) == []


def test_number_of_a_deleted_part_is_not_used_again(tmp_path):
    for content in (b"a", b"b", b"c"):
        with new_part(tmp_path, 1) as path:
            path.write_bytes(content)
        part_files(tmp_path)[0].unlink() if content == b"b" else None
    assert [path.name[:10] for path in part_files(tmp_path)] == ["00000001-1", "00000002-1"]


def test_truncated_part_is_damaged(tmp_path):
    writer = EpisodeWriter(tmp_path, "")
    writer.append(episode(0), {})
    writer.commit()
    [part] = part_files(tmp_path)
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=f"{part.name} is damaged: its content differs"):
        EpisodeWriter(tmp_path, "")
