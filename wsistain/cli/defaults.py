"""Where the settings of a run come from: command line, environment, wsistain.toml, or what is built in, in this order.

Everything that is not built in is told: in a line where it came from a file or a variable, in the provenance always.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from wsistain.config import (
    MOST_BYTES,
    RunConfig,
    Strict,
    apply_overrides,
    keys_of,
    parse_yaml,
    read_yaml,
    validate,
)
from wsistain.errors import ConfigError

FILE = "wsistain.toml"
PREFIX = "WSISTAIN_"
OTHERS = frozenset({"HOME", "MODELS", "MARKERS", "TEST_DATA", "VIEW_REQUESTS"})
"""Variables of ours that are no settings of a run (after the prefix)."""

COMMAND_LINE, ENVIRONMENT = "command line", "environment"

Values = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """Settings of one place. label: as it stands in a provenance, without folders of the user's. place: in full."""

    label: str
    place: str
    values: Values

    def origin(self, key: str) -> str:
        """Where the value of a dotted key comes from; for the environment the variable."""
        return f"{PREFIX}{key.upper().replace('.', '__')}" if self.label == ENVIRONMENT else self.label


@dataclass(frozen=True)
class Settled:
    """A configuration, and where its values come from.

    origins : label of the place of every value that is not built in, by its dotted key.
    told    : one sentence for each file, and for the environment, that a value was taken from.
    """

    config: RunConfig
    origins: Mapping[str, str] = field(default_factory=dict)
    told: tuple[str, ...] = ()


def settle(
    file: Path | None = None, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Settled:
    """The settings of a run: what is built in, under wsistain.toml, the environment, `--config`, `--set` and options.

    options : by key; those that are None were not given.

    Raises ConfigError naming the place, the key and the nearest known one.
    """
    values: Values = {}
    origins: dict[str, str] = {}
    layers = list(_layers(file))
    for layer in layers:
        values = _merged(RunConfig, values, layer.values)
        validate(RunConfig, values, layer.place)
        kept = set(_keys(values))
        origins = {key: origin for key, origin in origins.items() if key in kept}
        origins |= {key: layer.origin(key) for key in _keys(layer.values)}
    values = apply_overrides(values, overrides)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    values.update(given)
    config = validate(RunConfig, values, "options")
    origins |= dict.fromkeys([*keys_of(overrides), *given], COMMAND_LINE)
    return Settled(config, origins, tuple(_sentences(layers, origins, values)))


def places() -> tuple[tuple[str, Path], ...]:
    """Label and path of the files of settings, the weakest first; they need not be there."""
    from platformdirs import user_config_path

    return (f"{FILE} of the user", user_config_path("wsistain") / FILE), (
        f"{FILE} of the working folder",
        Path.cwd() / FILE,
    )


def _layers(file: Path | None) -> Iterator[Layer]:
    for label, path in places():
        if path.exists():
            yield Layer(label, str(path), _read_toml(path))
    values = _read_environment()
    if values:
        yield Layer(ENVIRONMENT, "the environment", values)
    if file is not None:
        yield Layer(f"--config {file.name}", str(file), read_yaml(file))


class _Settings(BaseSettings, RunConfig):
    """The keys as pydantic-settings looks for them; never made, since it would forget where values came from."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True)


class _Environment(EnvSettingsSource):
    """Values are written as after `--set`."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """A list or mapping from the text of a variable."""
        return parse_yaml(str(value), f"{PREFIX}{field_name.upper()}: the value")


def _read_environment() -> Values:
    """What the variables of ours set. ConfigError for one whose name is nearly that of a setting."""
    known = {*(name.upper() for name in RunConfig.model_fields), *OTHERS}
    for name in sorted(os.environ):
        key = name.removeprefix(PREFIX).partition("__")[0]
        if name.startswith(PREFIX) and key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.7)
            if near:
                raise ConfigError(
                    f"the environment holds {name}, which is no setting; did you mean {PREFIX}{near[0]}? Correct or unset it"
                )
    try:
        values = dict(_Environment(_Settings)())
    except SettingsError as error:
        raise ConfigError(f"the environment: {error.__cause__ or error}") from None
    for name, value in values.items():
        if isinstance(value, dict) and _group(RunConfig, name) is None:  # what it holds is of no stated type
            values[name] = {
                k: parse_yaml(v, f"{PREFIX}{name.upper()}__{k.upper()}: the value") for k, v in value.items()
            }
    return values


def foreign_variables() -> list[str]:
    """Variables that begin as ours do and are neither settings nor known otherwise."""
    known = {*(name.upper() for name in RunConfig.model_fields), *OTHERS}
    return [n for n in sorted(os.environ) if n.startswith(PREFIX) and n[len(PREFIX) :].partition("__")[0] not in known]


def _read_toml(path: Path) -> Values:
    if not path.is_file():
        raise ConfigError(f"{path} is no regular file; wanted settings of wsistain")
    if path.stat().st_size > MOST_BYTES:
        raise ConfigError(f"{path} is larger than settings can be ({MOST_BYTES >> 20} MiB)")
    try:
        return dict(TomlConfigSettingsSource(_Settings, path)())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from None
    except (ValueError, RecursionError) as error:  # no TOML, or no text
        raise ConfigError(f"{path} is not TOML: {(str(error).splitlines() or ['?'])[0][:200]}") from None


def _merged(model: type[Strict], base: Values, top: Values) -> Values:
    """`top` over `base`: groups of keys key by key, values (also those that are mappings) as a whole."""
    result = dict(base)
    for name, value in top.items():
        inner = _group(model, name)
        below = base.get(name)
        is_group = inner is not None and isinstance(value, dict) and isinstance(below, dict)
        result[name] = _merged(inner, below, value) if is_group and inner and isinstance(below, dict) else value
    return result


def _group(model: type[Strict], name: str) -> type[Strict] | None:
    """The model of a key that holds keys; None for a value."""
    kind = model.model_fields[name].annotation if name in model.model_fields else None
    return kind if isinstance(kind, type) and issubclass(kind, Strict) else None


def _keys(values: Values, before: str = "") -> Iterator[str]:
    """The dotted keys of `values`."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _keys(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _sentences(layers: Sequence[Layer], origins: Mapping[str, str], values: Values) -> Iterator[str]:
    for layer in layers:
        if layer.label.startswith("--"):
            continue
        told = [f"{key}={_at(values, key)}" for key, origin in origins.items() if origin == layer.origin(key)]
        if told:
            yield f"Settings from {layer.place}: {', '.join(told)}"


def _at(values: Values, key: str) -> Any:
    for name in key.split("."):
        values = values[name]
    return values
