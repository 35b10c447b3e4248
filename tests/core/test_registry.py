"""The registry of plug-ins, and rules that every plug-in keeps."""

import ast
import inspect
import re
import textwrap

import pytest
from pydantic import BaseModel

from pr2l.core import registry
from pr2l.core.errors import UnknownName

PLUGINS = [(kind, name) for kind in registry.MODULE_PACKAGES for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_plugins_have_a_docstring_and_frozen_defaults(kind: str, name: str) -> None:
    plugin = registry.load(kind, name)
    defaults = plugin.Defaults
    assert (plugin.__doc__ or "").strip()
    assert issubclass(defaults, BaseModel)
    assert defaults.model_config.get("frozen") and defaults.model_config.get("extra") == "forbid"
    assert defaults(**defaults().model_dump(mode="json")) == defaults()  # as a run's config.yaml stores it


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_default_has_a_comment(kind: str, name: str) -> None:
    assert fields_without_comment(registry.load(kind, name).Defaults) == []


def fields_without_comment(model: type[BaseModel]) -> list[str]:
    """Return the fields without a comment on their lines or just above them, and without a docstring below."""
    source = textwrap.dedent(inspect.getsource(model))
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    lines = source.splitlines()
    names = []
    for previous, node, following in zip([None, *body], body, [*body[1:], None], strict=False):
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.dump(node.annotation):
            start = previous.end_lineno if previous else 1
            comment = re.search(r"#\s*\w", "\n".join(lines[start : node.end_lineno]))
            if not comment and not isinstance(following, ast.Expr):
                names.append(node.target.id)  # type: ignore[union-attr]
    return names


class PartlyCommented(BaseModel):
    width: int = 1  # tokens
    height: int = 1
    depth: int = 1  #
    # of a frame
    area: int = 1
    volume: int = 1
    """in cubic tokens"""


def test_fields_without_comment() -> None:
    assert fields_without_comment(PartlyCommented) == ["height", "depth"]


def test_plugin_names_are_file_names_without_leading_underscore() -> None:
    assert registry.load("networks", "mlp").__name__ == "pr2l.policies.networks.mlp"
    assert "mlp" in registry.names("networks")
    assert not any(name.startswith("_") for kind in registry.KINDS for name in registry.names(kind))
    with pytest.raises(UnknownName, match="'_base' is not among the networks"):
        registry.load("networks", "_base")


def test_unknown_name_gives_the_most_similar_and_all_names() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'token_transformer'\? Known networks: .*mlp.*`pr2l list"):
        registry.load("networks", "token_transfomer")


def test_unknown_kind_gives_the_most_similar_kind() -> None:
    with pytest.raises(UnknownName, match=r"'encoder' is not among the kinds of plug-in. Did you mean 'encoders'"):
        registry.names("encoder")
    with pytest.raises(UnknownName, match="kinds of plug-in"):
        registry.load("encoder", "pixels")  # type: ignore[call-overload]


def test_entry_points_of_other_packages_are_plugins(write_plugin) -> None:
    write_plugin("encoders", "mean_colour", "ANSWER = 42\n")
    write_plugin("prompts", "maze/walk/where", "text: where\n")
    write_plugin("prompts", "maze/walk/what", "text: what\n")
    assert "mean_colour" in registry.names("encoders")
    assert registry.load("encoders", "mean_colour").ANSWER == 42
    assert {"maze/walk/what", "maze/walk/where"} <= set(registry.names("prompts"))
    assert registry.load("prompts", "maze/walk/what").read_text() == "text: what\n"


def test_entry_points_are_read_again_only_after_an_installation(write_plugin, monkeypatch) -> None:
    folders = []
    read = registry.distributions
    monkeypatch.setattr(registry, "distributions", lambda path: folders.extend(path) or read(path=path))
    write_plugin("encoders", "first", "")
    assert "first" in registry.names("encoders") and len(folders) == len(set(folders))
    folders.clear()
    assert all("first" in registry.names(kind) for kind in ("encoders", "encoders")) and registry.names("networks")
    assert folders == []
    write_plugin("encoders", "second", "")
    assert {"first", "second"} <= set(registry.names("encoders")) and len(folders) == 1  # the others have not changed


def test_package_in_an_earlier_folder_hides_one_of_the_same_name(tmp_path, monkeypatch) -> None:
    for folder, module in (("later", "old"), ("earlier", "new")):
        metadata = tmp_path / folder / "parrots-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: parrots\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[pr2l.encoders]\nparrot_{module} = {module}\n")
        monkeypatch.syspath_prepend(tmp_path / folder)
    assert [name for name in registry.names("encoders") if name.startswith("parrot")] == ["parrot_new"]


def test_plugins_of_the_project_win_over_entry_points(write_plugin) -> None:
    write_plugin("networks", "mlp", "raise RuntimeError('the wrong one')\n")
    assert registry.names("networks").count("mlp") == 1
    assert registry.load("networks", "mlp").__name__ == "pr2l.policies.networks.mlp"


def test_import_errors_of_a_plugin_are_raised_unchanged(write_plugin) -> None:
    write_plugin("encoders", "broken", "import a_package_that_is_not_there\n")
    assert "broken" in registry.names("encoders")  # `names` imports nothing
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        registry.load("encoders", "broken")
