"""`wsistain config`: every key of `wsistain run`, its value, where that comes from, and what it means, as YAML."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

import typer

from wsistain.runtime.say import note, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

HELP = """
Print every key of 'wsistain run' with its value, what it means, and where the value comes from where it is not built in,
as YAML that --config takes.

Values come from the command line, else from --config, else from variables (WSISTAIN_NORM=tile, WSISTAIN_OUTPUT__CHUNK=256),
else from wsistain.toml in the working folder, else from wsistain.toml in your configuration folder.

Examples:

  wsistain config > mine.yaml

  wsistain config --config mine.yaml --set norm=tile
"""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("config", help=HELP)(config)


def config(
    file: Path | None = typer.Option(None, "--config", help="YAML file whose values take the defaults' place."),
    overrides: list[str] | None = typer.Option(None, "--set", help="key=value, as in 'wsistain run'."),
) -> None:
    """Print the configuration; see HELP for the help text."""
    from wsistain.cli.defaults import foreign_variables, places, settle

    settled = settle(file, overrides or ())
    for label, path in places():
        note(f"{label}: {path} ({'read' if path.exists() else 'not there'})", err=True)
    for name in foreign_variables():
        note(f"{name} is no setting of wsistain and is left alone", err=True)
    for line in lines_of(settled.config, settled.origins):
        say(line)


def lines_of(model: "BaseModel", origins: "Mapping[str, str]", before: str = "") -> list[str]:
    """The YAML lines of a configuration, each key with its description, and where its value comes from, as a comment.

    origins : place by dotted key, for values that are not built in. before : dotted keys above this model.
    """
    import yaml
    from pydantic import BaseModel

    lines = []
    indent = "  " * before.count(".")
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            lines += [f"{indent}{name}:", *lines_of(value, origins, f"{before}{name}.")]
            continue
        plain = [model.model_dump(mode="json", include={name})[name]]
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10_000).strip()
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        key = f"{before}{name}"
        places = {place for known, place in origins.items() if known == key or known.startswith(f"{key}.")}
        means = [field.description, ", ".join(map(str, choices)), *(f"from {place}" for place in sorted(places))]
        told = "; ".join(filter(None, means))
        lines.append(f"{indent}{name}: {text[1:-1]}" + (f"  # {told}" if told else ""))
    return lines
