"""From a command line to a frozen dataclass. The only module that knows Hydra and OmegaConf.

Hydra composes (YAML groups, overrides); its launcher, which makes folders and logs, is never run. Nothing in
a configuration can name code: ``_target_`` is an unknown key like any other, ``${resolver:...}`` is refused.
"""

import argparse
import contextlib
import dataclasses
import difflib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Never, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError, safe_load  # type: ignore[import-untyped]

from sam_engine.__main__ import called
from sam_engine.compute.signals import stoppable
from sam_engine.config import AMG_PRESETS, AmgConfig
from sam_engine.dataset.run_info import config_yaml
from sam_engine.errors import ConfigError, SamEngineError

from .help import settings_lines
from .lists import item_type, split_list

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PRESETS: Mapping[Any, Mapping[str, Mapping[str, Any]]] = {AmgConfig: AMG_PRESETS}
"""Choices of sections that the library knows by name, too, and which are therefore no files."""
_IS_1_3 = hydra.__version__.startswith("1.3.")
_BASE: dict[str, Any] = {"version_base": "1.3"} if _IS_1_3 else {}
"""Which behaviour of Hydra is meant: 1.4 has but one, and warns about the setting."""
_STORE: dict[str, Any] = {} if _IS_1_3 else {"replace": True}
"""A program's settings may be registered again: 1.4 wants to be told so."""

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandLine:
    """One program's command line: what `load` needs to know."""

    name: str
    """Of the program and of its YAML file; ``NAME_schema`` is its schema."""
    config_class: type
    """The frozen dataclass with its settings."""
    help: str
    """Text before the list of settings in ``--help``."""
    plain_texts: frozenset[str] = frozenset()
    """Settings whose value may hold any character, as paths do. Hydra never parses them."""
    after_signal: str = "the same command goes on from here"
    """What the last line says of a program that was stopped by a signal."""


def register(name: str, config_class: type) -> None:
    """Make ``config_class`` the schema that YAML can name in its defaults list.

    The dataclass then owns every field's name, type and default; YAML holds only what differs, and an unknown
    key or a wrong type fails before the run starts.
    """
    root = OmegaConf.structured(config_class)
    nodes = [root]
    while nodes:  # OmegaConf makes frozen dataclasses read-only, and nothing could be merged into them
        node = nodes.pop()
        OmegaConf.set_readonly(node, False)
        nodes += [node[key] for key in node if OmegaConf.is_dict(node[key])]
    store = ConfigStore.instance()
    store.store(name=name, node=root, **_STORE)
    for field in dataclasses.fields(config_class):
        for choice, values in PRESETS.get(field.default_factory, {}).items():
            store.store(group=field.name, name=choice, node=dict(values), **_STORE)


def parse(raw: DictConfig) -> Any:
    """Return the dataclass instance; its ``__post_init__`` checks ranges.

    Raises:
        ConfigError: A value has the wrong type or is out of range, or asks for a resolver such as ``oc.env``.
    """
    for key, value in _leaves(OmegaConf.to_container(raw, resolve=False)):
        if isinstance(value, str) and "${" in value and ":" in value.partition("${")[2]:
            raise ConfigError(f"{key} is {value!r}: resolvers are not supported, write the value itself")
    try:
        return OmegaConf.to_object(raw)
    except OmegaConfBaseException as error:
        raise ConfigError(_explain(error)) from error


def main(command: CommandLine, run: Callable[[Any], int], argv: Sequence[str] | None = None) -> int:
    """Run a program from its command line; return its exit code. Errors and signals become one line."""
    return stoppable(lambda: _main(command, run, argv), afterwards=command.after_signal)


def read(command: CommandLine, argv: Sequence[str]) -> Any:
    """Return the configuration that a program's command line makes.

    Raises:
        ConfigError: It is wrong, or asks for something else than a run.
    """
    flags = _flags(command, argv)
    if flags.help or flags.cfg:
        raise ConfigError(
            f"--help and --cfg are for the program itself: {called(f'pipelines.{command.name}')}"
        )
    return load(command, flags.overrides, flags.config_dir, flags.config)


def _main(command: CommandLine, run: Callable[[Any], int], argv: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a path need not be text in this locale
            stream.reconfigure(errors="backslashreplace")
    try:
        flags = _flags(command, sys.argv[1:] if argv is None else argv)
        if flags.help:
            _show(help_text(command) + "\n")
            return 0
        config = load(command, flags.overrides, flags.config_dir, flags.config)
        if flags.cfg:
            _show(config_yaml(config))
            return 0
        return run(config)
    except SamEngineError as error:
        with contextlib.suppress(OSError):  # a full disk may hold the log too; the exit code still tells
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code


def _refuse_code(folder: Path) -> None:
    """Raise `ConfigError` if a file in a folder of configurations names code, wherever it does so.

    Nothing here would call it; but whoever wrote it meant it to be called.
    """
    for path in sorted(folder.rglob("*.yaml")):
        try:
            text = path.read_text(errors="replace")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        if "_target_" in text or "!!python" in text:
            raise ConfigError(f"{path} names code (_target_ or !!python); a configuration file is data here")


def _show(text: str) -> None:
    """Print to a reader that may go away before the end, as `head` does."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def load(
    command: CommandLine,
    overrides: Sequence[str],
    config_dir: str | None = None,
    config_file: str | None = None,
) -> Any:
    """Return the configuration that these overrides make.

    Args:
        command: Whose.
        overrides: ``key=value`` in Hydra's grammar; values of ``command.plain_texts`` are taken as they are.
        config_dir: More YAML choices for the groups, beside those in ``configs/``.
        config_file: All settings of a run, as its ``_meta/config.yaml`` holds them; overrides win, and a
            choice of a group, as ``amg=dense``, replaces the file's whole section.

    Raises:
        ConfigError: With one line that names the key and what would do.
    """
    folders, for_hydra = [CONFIGS], []
    if config_dir is not None:
        folders.append(Path(config_dir).resolve())
        if not folders[-1].is_dir():
            raise ConfigError(f"--config-dir is {config_dir!r}, which is not a folder")
        _refuse_code(folders[-1])
        for_hydra.append(f"hydra.searchpath=[{_quoted(f'file://{folders[-1]}')}]")
    groups = _groups(folders, command.config_class)
    texts: dict[str, str | None] = {}
    leaves: dict[str, str] = {}  # what Hydra would take for a choice of another program's group
    given = [_split(override, command.config_class, groups) for override in overrides]
    if config_file is not None:
        chosen = {key for key, _ in given if key in groups}
        settings = _settings_in(config_file, command)
        given = [pair for pair in settings if pair[0].partition(".")[0] not in chosen] + given
    for key, value in given:
        if key in command.plain_texts:
            texts[key] = None if value == "null" else os.path.expanduser(value)
            if not value:
                raise ConfigError(f"{key} is empty; give a value, or leave it out")
            continue
        if key not in groups and (kind := item_type(command.config_class, key)):
            value = _list_override(key, value, kind)
        if key not in groups and any((folder / key).is_dir() for folder in folders):
            leaves[key] = value
        else:
            for_hydra.append(f"{key}={value}")
    register(f"{command.name}_schema", command.config_class)
    try:
        with initialize_config_dir(str(CONFIGS), **_BASE):
            raw = compose(command.name, for_hydra)
            for key, value in leaves.items():
                OmegaConf.update(raw, key, OverridesParser.create().parse_override(f"_={value}").value())
    except YAMLError as error:
        raise ConfigError(f"a file in {config_dir} is no YAML: {error}") from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explain(error, keys=list(_keys(command.config_class)))) from error
    return _with_texts(parse(raw), texts)


def help_text(command: CommandLine) -> str:
    """Return the text of ``--help``: the program's own, its groups, then every setting with its default."""
    module = f"pipelines.{command.name}"
    text = command.help.strip().replace(f"python -m {module}", called(module))
    lines = [text, "", "Choices:"]
    for group, choices in _groups([CONFIGS], command.config_class).items():
        lines.append(f"  {group}={' | '.join(choices)}")
    lines += ["", "Settings and their defaults:"]
    lines += settings_lines(command.config_class)
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing usage and exiting."""

    def error(self, message: str) -> Never:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _flags(command: CommandLine, argv: Sequence[str]) -> argparse.Namespace:
    """Split a command line into flags and overrides."""
    parser = _Parser(prog=called(f"pipelines.{command.name}"), add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job"])
    parser.add_argument("-cd", "--config-dir")
    parser.add_argument("--config")
    parser.add_argument("overrides", nargs="*")
    return parser.parse_intermixed_args(list(argv))


def _split(override: str, config_class: type, groups: Mapping[str, Collection[str]]) -> tuple[str, str]:
    """Return key and value of an override whose key, and choice if it is a group, exist."""
    key, equals, value = override.partition("=")
    key = key.lstrip("+")
    if not equals:
        raise ConfigError(f"{override!r} is no setting; write key=value, for example input=photos")
    if key in groups:
        if value not in groups[key]:
            raise ConfigError(
                f"{key} is {value!r}; choose from {', '.join(groups[key])}{_hint(value, groups[key])}"
            )
        return key, value
    keys = list(_keys(config_class))
    if key not in keys:
        section = key.rpartition(".")[0]
        siblings = [other for other in keys if section and other.startswith(f"{section}.")]
        names = [other.removeprefix(f"{section}.") for other in siblings] or [
            *(other for other in keys if "." not in other),
            *sorted({other.partition(".")[0] + ".*" for other in keys if "." in other}),
        ]
        hint = _hint(key, [*keys, *groups]) or ";"
        whose = section if siblings else "the program"
        raise ConfigError(f"there is no setting {key!r}{hint} {whose} knows {', '.join(names)}")
    return key, value


def _settings_in(path: str, command: CommandLine) -> Iterator[tuple[str, str]]:
    """Yield key and value, as on a command line, of every setting in a file such as ``_meta/config.yaml``.

    Raises:
        ConfigError: The file cannot be read, is no such YAML, or has a setting that there is not.
    """
    try:
        document = safe_load(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"--config is {path!r}, which cannot be read: {error.strerror}") from error
    except YAMLError as error:
        raise ConfigError(
            f"--config is {path!r}, which is no YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(f"--config is {path!r}, which holds no settings")
    keys, plain_texts = set(_keys(command.config_class)), command.plain_texts
    for key, value in _sections(document):
        if key not in keys:
            raise ConfigError(f"{path}: there is no setting {key!r}{_hint(key, keys)}")
        yield key, value if key in plain_texts and isinstance(value, str) else _as_override(value)


def _list_override(key: str, value: str, kind: type) -> str:
    """Return a list as Hydra's grammar reads it; a single value is a list of one."""
    if kind is str:
        return _as_override(split_list(key, value))
    return value if value.startswith("[") or value == "null" else f"[{value}]"


def _sections(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of all settings in nested mappings."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _sections(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _as_override(value: Any) -> str:
    """Return a value as Hydra's grammar reads it."""
    if isinstance(value, list):
        return "[" + ",".join(map(_as_override, value)) + "]"
    return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _hint(word: str, choices: Collection[str]) -> str:
    """Return a guess at what was meant, as the end of a sentence; empty if nothing is close."""
    close = difflib.get_close_matches(word, choices, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _keys(config_class: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings."""
    for field in dataclasses.fields(config_class):
        if isinstance(field.default_factory, type) and dataclasses.is_dataclass(field.default_factory):
            yield from _keys(field.default_factory, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _groups(folders: Sequence[Path], config_class: type) -> dict[str, list[str]]:
    """Return the choices of each configuration group that fills a section of this program."""
    groups: dict[str, list[str]] = {}
    for field in dataclasses.fields(config_class):
        if not dataclasses.is_dataclass(field.default_factory):
            continue
        choices = {path.stem for folder in folders for path in folder.glob(f"{field.name}/*.yaml")}
        choices |= PRESETS.get(field.default_factory, {}).keys()
        if choices:
            groups[field.name] = sorted(choices)
    return groups


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of all scalars in nested containers."""
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _with_texts(config: Any, texts: Mapping[str, str | None]) -> Any:
    """Return ``config`` with these settings replaced; nested ones have dotted names."""
    for key, value in texts.items():
        head, _, rest = key.partition(".")
        new = _with_texts(getattr(config, head), {rest: value}) if rest else value
        config = dataclasses.replace(config, **{head: new})
    return config


def _quoted(value: str) -> str:
    """Return ``value`` so that Hydra's grammar reads exactly it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _explain(error: Exception, keys: Sequence[str] = ()) -> str:
    """Return what Hydra or OmegaConf found wrong, as one line that names the key."""
    while error.__cause__ is not None and not isinstance(error, OmegaConfBaseException):
        if not isinstance(error.__cause__, (HydraException, OmegaConfBaseException)):
            break
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    override = getattr(error, "override", None)  # of Hydra's parser
    if override:
        return f"{override!r} cannot be read: {lines[0]}"
    if lines[0].endswith(":"):  # "In 'amg/mine': ConfigKeyError raised while composing config:"
        lines[0] = " ".join(lines[:2])
    key = getattr(error, "full_key", None)
    message = f"{key}: {lines[0]}" if key and not lines[0].startswith(str(key)) else lines[0]
    return message + (_hint(str(key), keys) if key and key not in keys else "")
