"""Running the Snakemake workflow over a sheet: one job a slide, a failed one does not stop the others."""

import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import yaml

from wsistain.batch.blank import keep_blank, key_of, read_blank, terms_of
from wsistain.batch.identity import WORK, identify, made_from
from wsistain.batch.page import write_page
from wsistain.batch.passed_over import keep_passed_over, read_passed_over
from wsistain.batch.scan import Terms, check_entries, scan_folder
from wsistain.batch.sheet import Entry, Refused, listed_slides, parse_sheet, write_sheet
from wsistain.batch.summary import Row, is_finished, stain_path, summarise, write_summary
from wsistain.config import RunConfig, dump_yaml
from wsistain.errors import ConfigError, OutputError
from wsistain.markers import user_file
from wsistain.output.journal import begun_key, open_journal
from wsistain.packaged import packaged_folder
from wsistain.runtime.files import local_path, reporting, write_json, write_text
from wsistain.runtime.lock import locked
from wsistain.runtime.say import is_quiet

_LOG = logging.getLogger(__name__)

_CORES = ("--cores", "-c", "--jobs", "-j", "--profile", "--executor", "-e")
_NO_RUN = (
    *("-n", "--dry-run", "--dryrun", "--lint", "--report", "--dag", "--rulegraph", "--filegraph", "--summary"),
    *("--list-rules", "-l", "--detailed-summary", "-D", "--unlock", "--cleanup-metadata", "--touch", "-t"),
    *("--help", "-h", "--version", "-v", "--archive", "--export-cwl"),
)


_BLANK = "blank.json"
"""In the work folder: the slides without tissue."""


def _is_silent(sentence: str) -> None:
    """Nobody listens."""


def workflow_folder() -> Path:
    """Folder of the Snakefile: in the installed package, or beside it in a checkout."""
    return packaged_folder("workflows")


def run_batch(
    source: Path,
    markers: Sequence[str],
    output: Path,
    *,
    config: RunConfig,
    recursive: bool = False,
    overwrite: bool = False,
    flags: Sequence[str] = (),
    settings_from: Mapping[str, str] | None = None,
    tell: Callable[[str], None] = _is_silent,
) -> list[Row]:
    """Stain every slide of a folder or sample sheet; what each came to, also in `output/summary.csv`.

    source    : folder of slides, or sample sheet (.tsv, .csv).
    config    : of every run; its `mpp` is used for slides that have none, and for no others.
    recursive : look into the folders of `source` as well.
    overwrite : replace finished results; else only what is missing is done.
    flags     : for Snakemake, as on its own command line. With flags that run nothing (--dry-run ...) the list is empty.
    settings_from : where the values of `config` come from, by dotted key; kept beside what the jobs read.
    tell      : called with a sentence for what was passed over without being wrong.

    Raises ConfigError or OutputError for what concerns all slides; what concerns one is in its row.
    """
    # What can be refused for the batch as a whole; faults of single slides become rows.
    if importlib.util.find_spec("snakemake") is None:
        raise ConfigError("batches need snakemake: pip install 'wsistain[batch]'")
    folder, snakefile = local_path(output).absolute(), workflow_folder() / "Snakefile"
    if source.is_dir() and folder.resolve() == source.resolve():
        raise ConfigError(f"{source} is the folder of the slides; choose another --output")
    entries, refused = _find(source, markers, folder, config, recursive, tell)
    if not entries and not refused:
        raise ConfigError(f"{source} holds no files; give a folder of slides or a sample sheet")

    # Under the lock: what the workflow reads, the workflow, and what became of each slide.
    with _alone(folder) as work:
        _prepare(folder, work, entries, config, markers, overwrite)
        with reporting(work, retry="run again"):  # the jobs' provenance names run.yaml; this says where that is from
            write_json(work / "settings_from.json", dict(sorted((settings_from or {}).items())))
        if entries or _runs_nothing(flags):
            code = _snakemake(folder, snakefile, flags)
            if _runs_nothing(flags):
                if code:
                    raise ConfigError(f"Snakemake ended with code {code}; what it said is above")
                return []
        else:
            code = 0
        passed_over = summarise(folder, [], refused, work / "logs", markers)
        keep_passed_over(work, passed_over)
        rows = [*summarise(folder, entries, [], work / "logs", markers), *passed_over]
        empty = {(row.slide, row.path) for row in rows if row.state == "no tissue"}
        with reporting(work, retry="run again"):
            run = (work / "run.yaml").read_text(encoding="utf-8")
            keep_blank(work / _BLANK, [e for e in entries if (e.slide, e.path) in empty], run)
        write_summary(folder / "summary.csv", rows)
        write_page(folder / "summary.html", rows)

    # With a failed row the rows say it; without one Snakemake itself went wrong.
    if code and not any(r.state in ("failed", "no tissue") for r in rows):
        raise ConfigError(f"Snakemake ended with code {code} before any slide failed; what it said is above")
    return rows


def summarise_folder(folder: Path, sheet: Path | None = None, markers: Sequence[str] = ("ER",)) -> list[Row]:
    """What the slides of a workflow came to, written as `summary.csv` and `summary.html` into its working folder.

    sheet   : the workflow's sample sheet; None: that of a batch.
    markers : of slides for which the sheet names none.

    What the batch of the folder passed over, which is in no sheet, comes last, unless a sheet is given. Raises ConfigError or OutputError.
    """
    folder = local_path(folder).absolute()
    entries = listed_slides(sheet or folder / WORK / "slides.tsv", markers)
    rows = summarise(folder, entries, [], folder / WORK / "logs", markers)
    rows += [] if sheet else read_passed_over(folder / WORK)
    write_summary(folder / "summary.csv", rows)
    write_page(folder / "summary.html", rows)
    return rows


def _runs_nothing(flags: Sequence[str]) -> bool:
    return any(flag.split("=")[0] in _NO_RUN for flag in flags)


def _find(
    source: Path,
    markers: Sequence[str],
    output: Path,
    config: RunConfig,
    recursive: bool,
    tell: Callable[[str], None],
) -> tuple[list[Entry], list[Refused]]:
    terms = Terms(config.mpp, config.reader, wants_ihc=config.direction == "ihc-to-he", series=config.series)
    if source.is_dir():
        entries, refused = scan_folder(source, markers, terms, recursive=recursive, without=output)
    else:
        named, surplus = parse_sheet(source, markers)
        if surplus:
            tell(f"{source}: columns passed over: {', '.join(surplus)[:300]}")
        entries, refused = check_entries(named, terms)
    return identify(entries, output), refused


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The work folder of a batch, held so that no other batch writes there."""
    work = folder / WORK
    try:
        for made in (work / "logs", work / "done"):
            made.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the output folder {folder} cannot be made ({error.strerror}); choose another --output"
        ) from None
    with ExitStack() as stack:
        with reporting(work / "lock", retry="run again"):
            stack.enter_context(
                locked(work / "lock", f"another batch writes to {folder}; wait for it or choose another --output")
            )
        yield work


def _prepare(
    folder: Path, work: Path, entries: Sequence[Entry], config: RunConfig, markers: Sequence[str], overwrite: bool
) -> None:
    """Write what the workflow reads; take back done markers whose results are gone, and what was begun with a slide
    that has been replaced since.
    """
    values = {
        "slides": f"{WORK}/slides.tsv",
        "markers": ",".join(markers),
        "run": f"{WORK}/run.yaml",
        "mode": "overwrite" if overwrite else "resume",
        "marker_file": "",
    }
    own = user_file()
    with reporting(work, retry="run again"):
        write_sheet(work / "slides.tsv", entries)
        if own is not None:  # jobs on other machines know the same markers as we do here
            values["marker_file"] = f"{WORK}/markers.yaml"
            _write_if_new(work / "markers.yaml", own.read_text(encoding="utf-8"))
        _write_if_new(work / "config.yaml", yaml.safe_dump(values, sort_keys=False))
        _write_if_new(work / "run.yaml", dump_yaml(config.model_copy(update={"mpp": None})))  # the sheet says whose
        blank, run = read_blank(work / _BLANK), (work / "run.yaml").read_text(encoding="utf-8")
        for entry in entries:
            _forget_replaced(folder, entry)
            done, log = work / "done" / f"{key_of(entry)}.done", work / "logs" / f"{key_of(entry)}.log"
            finished = all(_has_result(folder, entry, m) for m in entry.markers)
            if not overwrite and not finished and log.is_file() and blank.get(key_of(entry)) == terms_of(entry, run):
                done.touch()  # nothing is left to do; the log says why
            elif overwrite or not finished:
                done.unlink(missing_ok=True)
                log.unlink(missing_ok=True)


def _has_result(folder: Path, entry: Entry, marker: str) -> bool:
    """Is there a finished stain of this very slide?"""
    stain = stain_path(folder, entry, marker)
    return is_finished(stain) and made_from(stain) in ("", entry.fingerprint)


def _forget_replaced(folder: Path, entry: Entry) -> None:
    """Remove unfinished results that were begun with another content of the slide's file: a broken copy, most often.

    Raises OutputError when another run is at them.
    """
    if "://" in entry.path:
        return
    for marker in entry.markers:
        stain = stain_path(folder, entry, marker)
        key = begun_key(stain)
        if key is not None and key.get("slide") != entry.fingerprint:
            with open_journal(str(stain), key, resume=False, overwrite=True):  # under its lock
                shutil.rmtree(stain)


def _write_if_new(path: Path, text: str) -> None:
    """Write a file unless it says the same already: Snakemake takes a newer file for a change."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    write_text(path, text)


def _snakemake(folder: Path, snakefile: Path, flags: Sequence[str]) -> int:
    """Exit code of Snakemake over the workflow; it speaks on standard error."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--directory", str(folder)]
    command += ["--configfile", str(folder / WORK / "config.yaml"), "--keep-going", "--rerun-incomplete", "--nolock"]
    if not any(flag.split("=")[0] in _CORES or flag[:2] in ("-c", "-j") for flag in flags):
        command += ["--cores", "all"]
    if not any(flag in ("--quiet", "-q", "--verbose", "--printshellcmds", "-p", *_NO_RUN) for flag in flags):
        command += ["--quiet", "all"] if is_quiet() else ["--quiet", "rules", "host", "reason"]
    _LOG.info("%s", " ".join([*command, *flags]))
    # The rules call `wsistain` by name; the one beside this interpreter comes first.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    # In a session of its own: Ctrl-C, or a signal to this process alone, reaches it once and through us.
    process = subprocess.Popen([*command, *flags], env=environment, stdout=sys.stderr.fileno(), start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        _stop(process)
        raise


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End Snakemake and its jobs, whose results can be resumed; a second interruption ends them at once."""
    try:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
