"""Worker processes that end with the process that started them, however that one ends."""

import multiprocessing
import os
import signal
import threading


def end_with_parent(*, deaf: bool = False) -> None:
    """Called in a worker: it ends as soon as its parent is gone, and leaves Ctrl-C (which reaches both) to the parent.

    deaf : SIGTERM is left to the parent too, for workers that it tells to end in another way. A scheduler sends it to
           every process of a job, and a parent that still wants to save must not lose its workers.

    A parent that is killed tells nobody. What tells is the end of a pipe that only it holds, whichever way workers are
    started: with a fork server `getppid` is the server's, which waits for its workers, which wait for work.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, name="end-with-parent", daemon=True).start()
