"""What a section of settings is checked by: the types at its fields; and how it is made of plain values."""

import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from sam_engine.errors import ConfigError

Config = TypeVar("Config")


def check_setting(key: str, value: object, ok: bool, expected: str) -> None:
    """Raise `ConfigError` naming the key unless ``ok``."""
    if not ok:
        raise ConfigError(f"{key} must be {expected}, got {value!r}")


_KINDS: dict[Any, tuple[Any, str]] = {
    int: (Integral, "an int"),
    float: (Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a text"),
}


def check_types(config: Any, prefix: str = "") -> None:
    """Raise `ConfigError` unless every value of a section is of the type that its field says."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        check_setting(prefix + name, value, _is_of(value, hint), _name_of(hint))


def _is_of(value: object, hint: Any) -> bool:
    """Return whether a value is of a type as it stands at a field."""
    if get_origin(hint) in (Union, UnionType):
        return any(_is_of(value, member) for member in get_args(hint))
    if get_origin(hint) is list:
        return isinstance(value, (list, tuple)) and all(_is_of(item, get_args(hint)[0]) for item in value)
    if hint in _KINDS:
        return isinstance(value, _KINDS[hint][0]) and (hint is bool or not isinstance(value, bool))
    return not isinstance(hint, type) or isinstance(value, hint)


def _name_of(hint: Any) -> str:
    """Return what a type is called in messages."""
    if get_origin(hint) in (Union, UnionType):
        names = [_name_of(member) for member in get_args(hint) if member is not NoneType]
        return " or ".join(names)
    if get_origin(hint) is list:
        return f"a list, each {_name_of(get_args(hint)[0])}"
    return _KINDS[hint][1] if hint in _KINDS else getattr(hint, "__name__", str(hint))


def settings_from(config_class: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """Return settings made of plain values.

    Args:
        config_class: Of the settings.
        values: By the name of the field. A section may be given as such, as a mapping, or, where it has a
            ``name``, as that; a path as such.
        prefix: Of the keys, for messages.

    Raises:
        ConfigError: There is no such setting, or a value is wrong.
    """
    names = [each.name for each in fields(config_class)]  # type: ignore[arg-type]
    types = get_type_hints(config_class)
    settings = {}
    for key, value in values.items():
        if key not in names:
            raise ConfigError(f"there is no setting {prefix + key!r}; known are {', '.join(names)}")
        section = types[key]
        if is_dataclass(section) and isinstance(section, type) and not isinstance(value, section):
            if isinstance(value, str) and "name" in get_type_hints(section):
                value = {"name": value}
            check_setting(prefix + key, value, isinstance(value, Mapping), f"a mapping or {section.__name__}")
            settings[key] = settings_from(section, value, f"{prefix}{key}.")
        else:
            settings[key] = os.fspath(value) if isinstance(value, os.PathLike) else value
    return config_class(**settings)
