import json
import re
from pathlib import Path

import numpy as np

from tests.data.made_patches import save, tissue
from tests.training.made_runs import tiny_run
from wsistain.evaluation import svg
from wsistain.training.page import write_page


def test_the_page_grows_with_the_run_and_needs_nothing_else(tmp_path: Path) -> None:
    cfg = tiny_run(tmp_path)
    write_page(tmp_path, cfg, done=0, steps=4)
    empty = (tmp_path / "report.html").read_text()
    losses = [{"step": k, "epoch": 0, "lr": 1e-4, "seconds": k, "images_per_second": 2.0, "gan": 1 / k} for k in (1, 2)]
    records = [*losses, {"step": 2, "validation": {"css": 0.4, "r_c": 0.3717, "seconds": 1.0}, "best": True}]
    records[1]["warning"] = "nce stays <at> chance"
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"torn')
    for step in (1, 2):
        save(tissue(step, 40)[0], tmp_path / "samples" / f"step_{step:06d}.jpg")
    write_page(tmp_path, cfg, done=2, steps=4)
    text = (tmp_path / "report.html").read_text()
    assert "gan" not in empty and text.count("<polyline") == 5  # gan, rate, speed, CSS, R_c
    assert "R_c %" in text and "37.17" in text  # as the tables have it
    assert "step 2 of 4, 0.0 minutes of training, about 0.0 minutes left" in text
    assert "The best so far was at step 2" in text and "nce stays &lt;at&gt; chance" in text
    assert text.count("data:image/jpeg;base64,") == 2 and "after step 2" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text) and "http" not in text.replace("http-equiv", "")


def test_a_curve_shows_every_point_or_means_of_many() -> None:
    few = svg.curve([(1, 0.5), (2, float("nan")), (3, 0.25)], x_label="step", mark=3)
    assert few.count("<circle") == 2 and 'class="mark"' in few
    noisy = [(float(k), float(v)) for k, v in enumerate(np.random.default_rng(0).random(5000))]
    many = svg.curve(noisy, x_label="step")
    (points,) = re.findall(r'points="([^"]+)"', many)
    assert 200 < len(points.split()) <= 300 and "<circle" not in many
    for odd in ([], [(1.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)]):
        assert "nan" not in svg.curve(odd, x_label="step")
