"""Reading a YAML file into a model, with errors that a person can act on."""

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ppd.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


def load_model(path: str | Path, model: type[Model], advice: Mapping[str, str] = MappingProxyType({})) -> Model:
    """The `model` that the YAML file at `path` describes.

    YAML 1.2, read by the parser that DVC reads it with, so that both see the same values (`1e-4` is a number).
    Validated strictly: no text is taken for a number. Raises InputError listing every wrong key at once: where it is,
    what is wrong with it and, for a misspelt one, the key that was probably meant. advice: what to do about keys of an
    earlier version.
    """
    from ruamel.yaml import YAML  # here, so that settings that are made in Python need no parser
    from ruamel.yaml.error import YAMLError

    path = Path(path)
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot be read ({reason})", file=path, fix="Name a settings file that exists.") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"is no valid YAML: {_first_lines(error)}", file=path) from error
    if not isinstance(values, dict):
        raise InputError(f"must hold settings by name, not {type(values).__name__}", file=path)
    try:
        # By way of JSON, where strict validation still takes a list for a tuple and text for a path.
        return model.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problems = [_explain(details, model, advice) for details in error.errors()]
        raise InputError("\n  ".join(["settings that cannot be used:", *problems]), file=path) from error


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of `model` and of the models inside it, written with dots."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in _models_in(field.annotation):
            yield from dotted_keys(inner, f"{prefix}{name}.")


def _explain(details: ErrorDetails, model: type[BaseModel], advice: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in details["loc"])
    match details["type"]:
        case "extra_forbidden" if key in advice:
            return f"{key}: {advice[key]}"
        case "extra_forbidden":
            return f"{key}: no such setting. {_suggestion(key, list(dotted_keys(model)))}"
        case "missing":
            return f"{key}: missing. Add it."
        case "value_error":  # raised by a validator of ours, in our own words
            return f"{key or 'settings'}: {details['ctx']['error']}"
        case _:
            return f"{key or 'settings'}: {details['msg']}, found {json.dumps(details['input'], default=str)}"


def _suggestion(key: str, known: list[str]) -> str:
    """What was probably meant by `key`: a sibling with a similar name, or the same name somewhere else."""
    parent, _, name = key.rpartition(".")
    siblings = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == parent]
    if close := difflib.get_close_matches(name, siblings, n=1):
        return f"Did you mean {parent + '.' if parent else ''}{close[0]}?"
    if elsewhere := [other for other in known if other.rpartition(".")[2] == name]:
        return f"Did you mean {' or '.join(elsewhere)}?"
    return f"Known here: {', '.join(sorted(siblings))}." if siblings else "Remove it."


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation such as `tuple[Model, ...]` or `Model | None` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _first_lines(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines()[:6])
