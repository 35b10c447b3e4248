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
def test_every_plugin_says_what_it_is_and_has_closed_frozen_defaults(kind: str, name: str) -> None:
    plugin = registry.load(kind, name)
    defaults = plugin.Defaults
    assert (plugin.__doc__ or "").strip()
    assert issubclass(defaults, BaseModel)
    assert defaults.model_config.get("frozen") and defaults.model_config.get("extra") == "forbid"
    assert defaults(**defaults().model_dump(mode="json")) == defaults()  # as a run's config.yaml stores it


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_default_has_a_clause_of_reason(kind: str, name: str) -> None:
    assert silent_fields(registry.load(kind, name).Defaults) == []


def silent_fields(model: type[BaseModel]) -> list[str]:
    """Fields without a comment on their lines or just above them, and without a docstring below."""
    source = textwrap.dedent(inspect.getsource(model))
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    lines = source.splitlines()
    silent = []
    for before, node, after in zip([None, *body], body, [*body[1:], None], strict=False):
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.dump(node.annotation):
            start = before.end_lineno if before else 1
            described = re.search(r"#\s*\w", "\n".join(lines[start : node.end_lineno]))
            if not described and not isinstance(after, ast.Expr):
                silent.append(node.target.id)  # type: ignore[union-attr]
    return silent


class HalfExplained(BaseModel):
    width: int = 1  # tokens
    height: int = 1
    depth: int = 1  #
    # of a frame
    area: int = 1
    volume: int = 1
    """in cubic tokens"""


def test_the_clause_rule_sees_a_silent_field() -> None:
    assert silent_fields(HalfExplained) == ["height", "depth"]


def test_the_file_name_is_the_name_and_an_underscore_hides_a_file() -> None:
    assert registry.load("networks", "mlp").__name__ == "pr2l.policies.networks.mlp"
    assert "mlp" in registry.names("networks")
    assert not any(name.startswith("_") for kind in registry.KINDS for name in registry.names(kind))
    with pytest.raises(UnknownName, match="'_base' is not among the networks"):
        registry.load("networks", "_base")


def test_an_unknown_name_teaches_the_nearest_and_all_others() -> None:
    with pytest.raises(UnknownName, match=r"Did you mean 'token_transformer'\? Known networks: .*mlp.*`pr2l list"):
        registry.load("networks", "token_transfomer")


def test_an_unknown_kind_teaches_the_kinds() -> None:
    with pytest.raises(UnknownName, match=r"'encoder' is not among the kinds of plug-in. Did you mean 'encoders'"):
        registry.names("encoder")
    with pytest.raises(UnknownName, match="kinds of plug-in"):
        registry.load("encoder", "pixels")  # type: ignore[call-overload]


def test_plugins_of_another_package_are_found_by_entry_point(write_plugin) -> None:
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


def test_a_package_hides_one_of_the_same_name_in_a_later_folder(tmp_path, monkeypatch) -> None:
    for folder, module in (("later", "old"), ("earlier", "new")):
        metadata = tmp_path / folder / "parrots-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: parrots\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[pr2l.encoders]\nparrot_{module} = {module}\n")
        monkeypatch.syspath_prepend(tmp_path / folder)
    assert [name for name in registry.names("encoders") if name.startswith("parrot")] == ["parrot_new"]


def test_this_project_wins_over_an_outside_plugin_of_the_same_name(write_plugin) -> None:
    write_plugin("networks", "mlp", "raise RuntimeError('the wrong one')\n")
    assert registry.names("networks").count("mlp") == 1
    assert registry.load("networks", "mlp").__name__ == "pr2l.policies.networks.mlp"


def test_an_error_inside_a_plugin_is_shown_as_it_is(write_plugin) -> None:
    write_plugin("encoders", "broken", "import a_package_that_is_not_there\n")
    assert "broken" in registry.names("encoders")  # names import nothing
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        registry.load("encoders", "broken")
