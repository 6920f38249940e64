"""`wsistain config`: every key of `wsistain run`, its default and what it means, as YAML to start from."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

import typer

from wsistain.runtime.say import say

if TYPE_CHECKING:
    from pydantic import BaseModel

HELP = """
Print every key of 'wsistain run' with its value and what it means, as YAML that --config takes.

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
    from wsistain.config import RunConfig, load_config

    for line in lines_of(load_config(RunConfig, file, overrides or ())):
        say(line)


def lines_of(model: "BaseModel", indent: str = "") -> list[str]:
    """The YAML lines of a configuration, each key with its description as a comment."""
    import yaml
    from pydantic import BaseModel

    lines = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            lines += [f"{indent}{name}:", *lines_of(value, indent + "  ")]
            continue
        plain = [model.model_dump(mode="json", include={name})[name]]
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10_000).strip()
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        means = "; ".join(filter(None, (field.description, ", ".join(map(str, choices)))))
        lines.append(f"{indent}{name}: {text[1:-1]}" + (f"  # {means}" if means else ""))
    return lines
