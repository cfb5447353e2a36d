"""Says how far a program is: imported by every Python that has this folder on its path, before the program.

Python's audit events name what is imported, listed, linked and renamed. The first event of the phase that is
waited for makes a file, which is what the one who waits looks at.
"""

import os
import sys
import time

_PHASE, _FILE, _INPUT = (os.environ.get(name, "") for name in ("PHASE", "PHASE_FILE", "PHASE_INPUT"))


_EVENTS = ("import", "open", "os.scandir", "os.link", "os.rename")


def _is_reached(event, arguments):
    if _PHASE == "imports":
        return event == "import" and arguments[0] == "pipelines.config"
    if _PHASE == "listing":
        return event == "os.scandir" and os.fsdecode(arguments[0]).startswith(_INPUT)
    if _PHASE == "ray":
        return event == "import" and arguments[0] == "ray"
    if _PHASE == "model":
        return event == "open" and str(arguments[0]).endswith("tiny.safetensors")
    if _PHASE == "shards":
        return event == "os.link" and "/annotations/" in str(arguments[1])
    if _PHASE == "finish":
        return event == "os.rename" and os.fsdecode(arguments[1]).endswith("errors.jsonl")
    return False


def _listen(event, arguments):
    global _PHASE
    if _PHASE and event in _EVENTS and _is_reached(event, arguments):
        is_short, _PHASE = _PHASE == "finish", ""
        os.close(os.open(_FILE, os.O_CREAT | os.O_WRONLY, 0o666))
        if is_short:  # it would be over before a signal could be sent
            time.sleep(0.3)


if _PHASE:
    sys.addaudithook(_listen)
