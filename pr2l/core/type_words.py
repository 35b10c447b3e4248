"""Types of options in words, from their annotations: `Annotated[int, Field(gt=0, le=8)]` is "int > 0, <= 8"."""

from __future__ import annotations

import ast
from pathlib import Path

from pr2l.core.source import find_definition

WORDS = {
    "PositiveInt": "int > 0",
    "NonNegativeInt": "int >= 0",
    "PositiveFloat": "float > 0",
    "NonNegativeFloat": "float >= 0",
    "Path": "path",
}
BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def field_type_words(field: ast.AnnAssign, file: Path) -> str:
    """Describe the type of a field, with the bounds in its annotation or in its default `Field(4, ge=1)`.

    Args:
        field: An annotated field of a pydantic model.
        file: The file that contains it.
    """
    words = type_words(field.annotation, file)
    match field.value:
        case ast.Call(ast.Name("Field"), keywords=keywords):
            return _bounded(words, keywords, file)
        case _:
            return words


def type_words(annotation: ast.expr, file: Path) -> str:
    """Describe a type.

    Args:
        annotation: The annotation of a field, or the value of a type alias.
        file: The file that contains it; names of type aliases are looked up from there.
    """
    match annotation:
        case ast.Name(name):
            node, source_file = find_definition(file, name) or (None, file)
            alias = getattr(node, "value", None)  # a class has none
            return WORDS.get(name, name) if alias is None else type_words(alias, source_file)
        case ast.Constant(value):
            return "null" if value is None else str(value)
        case ast.BinOp(left, ast.BitOr(), right):
            return f"{type_words(left, file)} | {type_words(right, file)}"
        case ast.Subscript(ast.Name("dict")):
            return "mapping"
        case ast.Subscript(ast.Name("tuple"), ast.Tuple([item, ast.Constant(last)])) if last is ...:
            return f"list of {type_words(item, file)}"
        case ast.Subscript(ast.Name("tuple"), ast.Tuple(items)):
            return f"[{', '.join(type_words(item, file) for item in items)}]"
        case ast.Subscript(ast.Name("Literal"), ast.Tuple(items)):
            return " | ".join(type_words(item, file) for item in items)
        case ast.Subscript(ast.Name("Annotated"), ast.Tuple([kind, ast.Call(keywords=keywords)])):
            return _bounded(type_words(kind, file), keywords, file)
        case _:
            return ast.unparse(annotation)


def _bounded(words: str, keywords: list[ast.keyword], file: Path) -> str:
    """Return the words for a type with the bounds of a `Field`; a bound does not apply to null."""
    bounds = [f"{BOUNDS[word.arg]} {_number(word.value, file)}" for word in keywords if word.arg in BOUNDS]
    kind, null, _ = words.partition(" | null")
    separator = ", " if any(sign in kind for sign in BOUNDS.values()) else " "  # "int >= 0" has a bound
    return (kind + separator + ", ".join(bounds) if bounds else kind) + null


def _number(bound: ast.expr, file: Path) -> str:
    """Return a bound; the value of a constant if the bound is its name."""
    node, source_file = find_definition(file, bound.id) or (None, file) if isinstance(bound, ast.Name) else (None, file)
    value = getattr(node, "value", None)
    return ast.unparse(bound) if value is None else _number(value, source_file)
