"""The files of the phone's page: its third-party files are those of the lock, and index.html lists every script."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from pr2l.environments.phone.static_data import WEB

SCRIPTS = [file for folder in ("core", "data", "apps", "sites") for file in (WEB / folder).glob("*.js")]
LOCK = json.loads((WEB / "vendor.json").read_text())


def locked_files():
    return [LOCK["themes"], *(file for package in LOCK["packages"] for file in package["files"])]


def test_the_vendored_files_are_those_of_the_lock():
    hashes = {file["path"]: file["sha256"] for file in locked_files()}
    files = [file for file in (WEB / "vendor").rglob("*") if file.is_file()]
    assert {str(file.relative_to(WEB)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files} == hashes


@pytest.mark.parametrize("package", LOCK["packages"], ids=lambda package: package["name"])
def test_each_vendored_package_has_its_licence(package):
    assert any(Path(file["path"]).name == "LICENSE" for file in package["files"])


def test_the_page_lists_every_script_of_its_folders():
    listed = re.findall(r'<script src="([^"]+)">', (WEB / "index.html").read_text())
    assert sorted(listed) == sorted(str(file.relative_to(WEB)) for file in SCRIPTS)


def test_no_script_depends_on_the_time_chance_or_a_network():
    forbidden = re.compile(r"Date\.now|new Date\(\)|Math\.random|performance\.now|fetch\(|https?://")
    for file in [*SCRIPTS, WEB / "index.html", WEB / "style.css"]:
        assert not forbidden.search(file.read_text()), file
