"""Batches without Snakemake: the jobs of the sheet that was written, one after another in this process."""

import csv
import re
from pathlib import Path

import pytest

from tests.pipeline.slides import small_config
from wsistain.batch import workflow
from wsistain.config import RunConfig
from wsistain.errors import WsistainError
from wsistain.pipeline.run import run


def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `run_batch` stain here: what the rule `stain` does, by the sheet, the logs and the done markers alone."""

    def jobs(folder: Path, snakefile: Path, flags) -> int:
        work, code = folder / "batch", 0
        mode = re.search("mode: (.*)", (work / "config.yaml").read_text())[1]
        with (work / "slides.tsv").open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        for row in rows:
            tag = f"{row['slide']}.{row['markers'].replace(',', '-')}"
            done, log = work / "done" / f"{tag}.done", work / "logs" / f"{tag}.log"
            if done.exists():
                continue
            log.write_text("Staining\n")
            config = small_config(
                mpp=float(row["mpp"]) if row["mpp"] else None, series=int(row["series"]) if row["series"] else None
            )
            try:
                run(row["path"], row["markers"], folder / row["folder"], config=config, **{mode: True})
                done.touch()
            except WsistainError as error:
                log.write_text(f"wsistain: {error}\n")
                code = 1
        return code

    monkeypatch.setattr(workflow, "_snakemake", jobs)


def batch(source: Path, output: Path, **options) -> dict[str, "workflow.Row"]:
    """The rows of a batch by the end of the slide's path."""
    config = options.pop("config", RunConfig(weights="identity"))
    rows = workflow.run_batch(source, ["ER"], output, config=config, **options)
    base = source if source.is_dir() else source.parent
    return {str(Path(row.path).relative_to(base.absolute())): row for row in rows}
