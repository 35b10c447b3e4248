"""Tests of types of options in words."""

import ast

import pytest

from pr2l.core.type_words import field_type_words, type_words

BOUNDS = "MOST = 8\nSmall = Annotated[int, Field(gt=0, le=MOST)]\nMode = Literal['fast', 'exact']\n"


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("bool", "bool"),
        ("int | None", "int | null"),
        ("PositiveInt", "int > 0"),
        ("dict[str, Any]", "mapping"),
        ("Literal['a', 'b']", "a | b"),
        ("Annotated[float, Field(ge=0, allow_inf_nan=False)]", "float >= 0"),
        ("Annotated[str, Field(pattern='a+')]", "str"),
        ("tuple[int, ...]", "list of int"),
        ("tuple[int, str] | None", "[int, str] | null"),
        ("Small", "int > 0, <= 8"),
        ("tuple[Mode, ...]", "list of fast | exact"),
        ("Imported", "int > 0, <= 8"),
        ("np.ndarray", "np.ndarray"),
    ],
)
def test_type_is_in_words(tmp_path, annotation, words):
    (tmp_path / "other.py").write_text(BOUNDS)
    file = tmp_path / "options.py"
    file.write_text(f"from .other import Small as Imported\n{BOUNDS}")
    assert type_words(ast.parse(annotation, mode="eval").body, file) == words


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("rooms: int = Field(default=4, ge=2, le=MOST)", "int >= 2, <= 8"),
        ("penalty: float | None = Field(None, ge=0)", "float >= 0 | null"),
        ("seed: PositiveInt = Field(1, lt=10)", "int > 0, < 10"),
        ("names: tuple[str, ...] = Field(min_length=1)", "list of str"),
        ("steps: int = 4", "int"),
    ],
)
def test_bounds_of_a_default_are_part_of_the_type(tmp_path, field, words):
    file = tmp_path / "options.py"
    file.write_text(BOUNDS)
    [statement] = ast.parse(field).body
    assert field_type_words(statement, file) == words
