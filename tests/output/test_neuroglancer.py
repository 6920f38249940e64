"""The state that Neuroglancer opens: three colours of one source that add up to the stain, and where to look."""

import json
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from tests.output.making import small_spec, tissue_like, write_all
from wsistain.cli import main
from wsistain.errors import OutputError
from wsistain.output.neuroglancer import export_neuroglancer, neuroglancer_state
from wsistain.output.reading import StoredStain

URL = "https://host/results/slide.ER.ome.zarr"
STAIN = StoredStain("o.ome.zarr", "slide.ER", 0.5, ((300, 500), (150, 250)), {}, origin_um=(100.0, 50.0))


def painted(shader: str, value: float) -> list[float]:
    """The colour that a shader of ours emits where its channel has `value`."""
    inside = shader.split("emitRGB(vec3(")[1].split("))")[0]
    return [value if word.strip() == "value" else float(word) for word in inside.split(",")]


def test_the_layers_add_up_to_the_colours_of_the_stain() -> None:
    layers = neuroglancer_state(STAIN, URL)["layers"]
    pixel = (0.9, 0.5, 0.2)
    seen = sum(np.array(painted(layer["shader"], pixel[layer["localPosition"][0]])) for layer in layers)
    assert seen.tolist() == list(pixel)
    assert {layer["blend"] for layer in layers} == {"additive"} and {layer["opacity"] for layer in layers} == {1}
    assert {layer["source"] for layer in layers} == {f"zarr://{URL}/"}


def test_the_first_look_is_at_the_middle_of_the_stain_in_pixels_of_its_size() -> None:
    state = neuroglancer_state(STAIN, URL)
    assert list(state["dimensions"]) == ["x", "y"]
    (scale, unit), _ = state["dimensions"].values()
    assert (scale, unit) == (pytest.approx(0.5e-6), "m")
    in_um = [p * scale * 1e6 for p in state["position"]]
    assert in_um == pytest.approx([50 + 250 * 0.5, 100 + 150 * 0.5])
    assert "not for diagnosis" in state["title"]


@pytest.mark.parametrize("url", ["slide.ER.ome.zarr", "/data/slide.ER.ome.zarr", "file:///x.zarr", "https:///x", ""])
def test_an_address_that_it_cannot_open_is_refused(url: str) -> None:
    with pytest.raises(OutputError, match="is no address at which Neuroglancer finds a stain"):
        neuroglancer_state(STAIN, url)
    with pytest.raises(OutputError, match="has a query or a fragment"):
        neuroglancer_state(STAIN, f"{URL}?token=1")


def test_neuroglancer_itself_takes_the_state_and_gives_it_back() -> None:
    viewer = pytest.importorskip("neuroglancer.viewer_state", reason="neuroglancer is not installed")
    state = neuroglancer_state(STAIN, URL)
    assert viewer.ViewerState(state).to_json() == state


def test_the_command_writes_what_stands_behind_the_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = small_spec(tmp_path / "o.ome.zarr", 60, 70)
    write_all(spec, tissue_like(60, 70))
    target = tmp_path / "o.json"
    with pytest.raises(SystemExit) as left:
        main(["export", spec.path, str(target), "--as", "neuroglancer", "--url", URL])
    assert left.value.code == 0
    kept = json.loads(target.read_text())
    told = capsys.readouterr().out
    assert json.loads(unquote(told.split("#!")[1].split()[0])) == kept
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        export_neuroglancer(spec.path, target, URL)
    export_neuroglancer(spec.path, target, "s3://bucket/x.ome.zarr", overwrite=True)
    assert json.loads(target.read_text()) != kept
    with pytest.raises(OutputError, match=r"does not end in \.json"):
        export_neuroglancer(spec.path, tmp_path / "o.txt", URL)


@pytest.mark.parametrize("given", [["--as", "neuroglancer"], ["--url", URL]])
def test_address_and_form_go_together(tmp_path: Path, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["export", str(tmp_path / "o.ome.zarr"), str(tmp_path / "o.json"), *given])
    assert left.value.code == 2
    assert "--as neuroglancer" in capsys.readouterr().err
