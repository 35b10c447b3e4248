"""Writes the third-party files of the phone (style sheets, fonts, their licences) from the packages in vendor.json.

    python environments/phone/web/vendor.py

downloads each package from the npm registry, checks its SHA-256, writes the files into vendor/ and their hashes into
vendor.json. With Node.js it also writes vendor/themes.css: the colours that Framework7 derives from each accent colour.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

WEB = Path(__file__).parent
LOCK = WEB / "vendor.json"

# Prints the style sheet of the accent colours; Framework7's JavaScript would compute the same in the page.
THEMES = """
import { materialColors } from "./package/shared/material-colors.js";
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).join(", ");
const block = (selector, colours) => {
  const lines = Object.entries(colours).map(([name, value]) => `  ${name}: ${value};`);
  return `${selector} {\\n${lines.join("\\n")}\\n  --f7-md-primary-rgb: ${rgb(colours["--f7-md-primary"])};\\n}`;
};
for (const accent of process.argv.slice(2)) {
  const { light, dark } = materialColors(accent);
  console.log(block(`html[data-accent="${accent}"]`, light));
  console.log(block(`html.dark[data-accent="${accent}"]`, dark));
}
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def download(package: dict[str, Any]) -> bytes:
    """Return the tarball of a package of the lock.

    Raises:
        ValueError: If its hash is not that of the lock.
    """
    with urllib.request.urlopen(package["url"]) as response:
        tarball: bytes = response.read()
    if sha256(tarball) != package["sha256"]:
        raise ValueError(f"{package['url']} has SHA-256 {sha256(tarball)}, vendor.json has {package['sha256']}")
    return tarball


def unpack(tarball: bytes, package: dict[str, Any]) -> None:
    """Write the files of a package into vendor/ and their hashes into the lock's entry."""
    with tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        for file in package["files"]:
            member = archive.extractfile(f"package/{file['source']}")
            assert member is not None, file
            content = member.read()
            target = WEB / file["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            file["sha256"] = sha256(content)


def write_themes(tarball: bytes, themes: dict[str, Any]) -> None:
    """Write the style sheet of the accent colours and its hash into the lock's entry."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(tarball)) as archive:
        archive.extractall(folder, filter="data")
        script = Path(folder, "themes.mjs")
        script.write_text(THEMES)
        command = ["node", str(script), *themes["accents"]]
        style = subprocess.run(command, check=True, capture_output=True).stdout
    (WEB / themes["path"]).write_bytes(style)
    themes["sha256"] = sha256(style)


def main() -> None:
    lock = json.loads(LOCK.read_text())
    for package in lock["packages"]:
        tarball = download(package)
        unpack(tarball, package)
        if package["name"] == "framework7":
            write_themes(tarball, lock["themes"])
    LOCK.write_text(json.dumps(lock, indent=2) + "\n")


if __name__ == "__main__":
    main()
