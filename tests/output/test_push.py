"""A copy in a bucket is finished when all of it is there and was compared, and not a file before."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.output.making import small_spec, tissue_like, write_all
from wsistain.cli import main
from wsistain.errors import OutputError
from wsistain.output.push import push_stain

URL = "bucket://results/o.ome.zarr"


class Bucket(MemoryFileSystem):
    """A store in memory that tells the MD5 of what it holds, as S3 does; `fault(name, data)` may change what arrives."""

    protocol = "bucket"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False
    order: ClassVar[list[str]] = []
    tells_md5 = True
    fault: Any = None

    def put_file(self, lpath: str, rpath: str, *_: object, **__: object) -> None:
        name = rpath.partition(".zarr/")[2]
        data = Path(lpath).read_bytes()
        if Bucket.fault is not None:
            data = Bucket.fault(name, data)
        self.pipe_file(rpath, data)
        Bucket.order.append(name)

    def info(self, path: str, **kwargs: object) -> dict[str, Any]:
        found = super().info(path, **kwargs)
        if found["type"] == "file" and Bucket.tells_md5:
            found["ETag"] = f'"{hashlib.md5(self.cat_file(path)).hexdigest()}"'
        return found

    def find(self, path: str, maxdepth: Any = None, withdirs: bool = False, detail: bool = False, **_: object) -> Any:
        names = super().find(path)
        return {name: self.info(name) for name in names} if detail else names


@pytest.fixture(autouse=True)
def bucket() -> Iterator[type[Bucket]]:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    Bucket.store.clear()
    Bucket.order.clear()
    Bucket.fault, Bucket.tells_md5 = None, True
    yield Bucket


def stain(folder: Path, ngff: str = "0.5", seed: int = 0) -> Path:
    spec = small_spec(folder / "o.ome.zarr", 100, 150, ngff=ngff)
    write_all(spec, tissue_like(100, 150, seed=seed) if seed else tissue_like(100, 150))
    return Path(spec.path)


def held() -> dict[str, bytes]:
    return {path.partition(".zarr/")[2]: file.getvalue() for path, file in Bucket.store.items()}


def local(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize("tells_md5", [True, False])
def test_everything_arrives_and_the_root_last(tmp_path: Path, ngff: str, tells_md5: bool) -> None:
    folder = stain(tmp_path, ngff)
    Bucket.tells_md5 = tells_md5
    steps: list[tuple[int, int]] = []
    done = push_stain(folder, URL, threads=2, progress=lambda n, total: steps.append((n, total)))
    assert held() == local(folder)
    assert (done.files, done.sent, done.size) == (len(held()), len(held()), sum(map(len, held().values())))
    assert steps == [(n, done.files) for n in range(1, done.files + 1)]
    root = {"0.5": ["zarr.json"], "0.4": [".zgroup", ".zattrs"]}[ngff]
    assert Bucket.order[-len(root) :] == root
    is_metadata = [name.rpartition("/")[2] in {"zarr.json", ".zarray", ".zgroup", ".zattrs"} for name in Bucket.order]
    assert is_metadata == sorted(is_metadata)  # pixels, then what describes them


def test_the_same_command_again_sends_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stain(tmp_path)
    for sent in (len(local(folder)), 0):
        with pytest.raises(SystemExit) as left:
            main(["export", str(folder), URL])
        assert left.value.code == 0
        assert f"{len(local(folder))} files, " in (told := capsys.readouterr().out) and f"; {sent} sent" in told


@pytest.mark.parametrize("stop", range(1, 8, 2))
def test_an_interrupted_copy_has_no_root_and_goes_on_where_it_stopped(tmp_path: Path, stop: int) -> None:
    folder = stain(tmp_path)

    def fault(name: str, data: bytes) -> bytes:
        if len(Bucket.order) == stop:
            raise OSError("the line was cut")
        return data

    Bucket.fault = fault
    with pytest.raises(OutputError, match=r"the line was cut.*run the same command again"):
        push_stain(folder, URL, threads=1)
    assert len(held().keys() - {".wsistain-copy"}) == stop and "zarr.json" not in held()
    Bucket.fault = None
    assert push_stain(folder, URL, threads=1).sent == len(local(folder)) - stop
    assert held() == local(folder)


@pytest.mark.parametrize("tells_md5", [True, False])
@pytest.mark.parametrize("spoil", [lambda data: data[:-1], lambda data: bytes([data[0] ^ 1]) + data[1:]])
def test_what_arrives_damaged_is_found_and_the_copy_does_not_look_finished(
    tmp_path: Path, tells_md5: bool, spoil: Any
) -> None:
    folder = stain(tmp_path)
    Bucket.tells_md5 = tells_md5
    for which in ("0/c/0/0/0", "zarr.json"):
        Bucket.fault = lambda name, data, which=which: spoil(data) if name == which else data
        with pytest.raises(OutputError, match=f"{which} did not arrive as it was sent"):
            push_stain(folder, URL)
        assert "zarr.json" not in held()
    Bucket.fault = None
    push_stain(folder, URL)
    assert held() == local(folder)


def test_another_finished_stain_and_files_of_others_stay_as_they_are(tmp_path: Path) -> None:
    folder = stain(tmp_path)
    push_stain(folder, URL)
    (folder / "zarr.json").write_text((folder / "zarr.json").read_text() + " ")
    before = held()
    with pytest.raises(OutputError, match="holds another finished stain"):
        push_stain(folder, URL)
    store, root = fsspec.core.url_to_fs(URL)
    store.rm_file(f"{root}/zarr.json")
    store.pipe_file(f"{root}/notes.txt", b"mine")
    with pytest.raises(OutputError, match=r"1 files that are no part of this stain \(notes.txt\)"):
        push_stain(folder, URL)
    assert held() == {**{n: d for n, d in before.items() if n != "zarr.json"}, "notes.txt": b"mine"}


def test_an_unfinished_copy_of_another_stain_stays_as_it_is(tmp_path: Path) -> None:
    first, second = stain(tmp_path / "first"), stain(tmp_path / "second", seed=7)
    assert local(first).keys() == local(second).keys()

    def fault(name: str, data: bytes) -> bytes:
        if len(Bucket.order) == 2:
            raise OSError("the line was cut")
        return data

    Bucket.fault = fault
    with pytest.raises(OutputError, match="the line was cut"):
        push_stain(first, URL, threads=1)
    Bucket.fault, before = None, held()
    with pytest.raises(OutputError, match="3 files of an unfinished copy of another stain"):
        push_stain(second, URL)
    assert held() == before
    push_stain(first, URL)
    assert held() == local(first)


def test_a_stain_that_changes_meanwhile_is_left_unfinished_there(tmp_path: Path) -> None:
    folder = stain(tmp_path)

    def fault(name: str, data: bytes) -> bytes:
        (folder / "labels.json").write_text("new")
        return data

    Bucket.fault = fault
    with pytest.raises(OutputError, match="changed while it was copied"):
        push_stain(folder, URL)
    assert "zarr.json" not in held()


def test_what_is_not_finished_or_no_ordinary_folder_is_not_sent(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "o.ome.zarr", 100, 150)
    write_all(spec, tissue_like(100, 150), finish=False)
    with pytest.raises(OutputError, match="is not a finished OME-Zarr"):
        push_stain(spec.path, URL)
    folder = stain(tmp_path / "other")
    with pytest.raises(OutputError, match=r"does not end in \.ome\.zarr"):
        push_stain(folder, "bucket://results/")
    (folder / "link").symlink_to(folder / "zarr.json")
    with pytest.raises(OutputError, match="is no ordinary file"):
        push_stain(folder, URL)
    assert held() == {}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([URL, "--overwrite"], "nothing in a bucket is replaced"),
        (["bucket://results/o.ome.tif"], "results are written to local folders only"),
        (["nosuch://results/o.ome.zarr"], "nosuch"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    tmp_path: Path, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["export", str(stain(tmp_path)), *given])
    assert left.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert said in sentence
