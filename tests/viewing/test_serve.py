"""The server itself, over a socket, and what the command says."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.viewing.made import gallery_of
from wsistain.cli import main
from wsistain.errors import ConfigError
from wsistain.viewing.serve import is_loopback, serve


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def served(case):
    server = serve(gallery_of(case))
    server.start()
    yield server
    server.stop()


def test_the_address_holds_the_token_and_answers(served):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{20,}", served.url)
    assert b"page/main.js" in fetch(served.url)
    listing = json.loads(fetch(served.url.replace("/?", "/api/results?")))
    assert len(listing["results"]) == 2
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetch(served.url.split("?")[0])


def test_a_port_that_is_taken_is_refused_in_one_sentence(served, case):
    with pytest.raises(ConfigError, match="try another --port"):
        serve(gallery_of(case), port=served.port)
    with pytest.raises(ConfigError, match="65535"):
        serve(gallery_of(case), port=70000)
    with pytest.raises(ConfigError, match="cannot listen"):
        serve(gallery_of(case), host="203.0.113.7")


def test_only_this_machine_is_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.1.2.3")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.1.2", "example.org", "::", "")))


def test_the_command_prints_its_address_first_and_ends_when_it_is_stopped(case):
    command = [sys.executable, "-m", "wsistain", "view", str(case.er), "--slide", str(case.slide), "--no-open"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline()).group()
        assert json.loads(fetch(url.replace("/?", "/api/results?")))["results"][0]["name"] == "case.ER"
    finally:
        process.terminate()
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "does not exist"),
        ([".", "--overwrite"], "--static"),
        (["{er}", "--slide", "nothing.svs"], "does not exist"),
        (["{slide}"], "is a file"),
        (["{er}", "--port", "-1"], "--port"),
    ],
)
def test_what_cannot_be_shown_ends_in_one_sentence(case, capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        main(["view", *(a.format(er=case.er, slide=case.slide) for a in arguments), "--no-open"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and said in err and "Traceback" not in err


def test_the_help_of_the_command_needs_neither_server_nor_torch():
    code = (
        "import sys\nfrom wsistain.cli import main\ntry:\n    main(['view', '--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=environment, check=False).returncode
        == 0
    )
