"""Stopped commands leave alike, whichever they are and whatever stopped them."""

import os
import signal

import pytest
import typer

from wsistain.cli import app, main, stopping


def leave(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code, capsys.readouterr().err


@pytest.fixture(autouse=True)
def _own_handlers():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(("name", "kept"), [*stopping.GO_ON.items(), ("export", None)])
def test_sigterm_in_any_command_ends_in_the_sentence_of_ctrl_c(name, kept, monkeypatch, capsys):
    (command,) = [c for c in app.registered_commands if (c.name or c.callback.__name__) == name]

    def stopped(context: typer.Context) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    stopped.__name__ = name
    monkeypatch.setattr(command, "callback", stopped)
    code, said = leave([name], capsys)
    assert code == 130
    assert said == f"wsistain: stopped by the user{'; ' + kept if kept else ''}\n"


def test_a_forked_child_ends_as_it_would_have(capsys):
    stopping.heed_sigterm()
    pid = os.fork()
    if pid == 0:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
