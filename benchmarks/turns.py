"""Measuring contenders in turns, in one process or each in a process of its own.

A process of its own makes peak memory that of one contender. Turns, round after round,
make what else the machine does fall on all of them alike.
"""

import contextlib
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

PAUSE = 0.3  # seconds between turns, until the threads of the last one sleep


def serve(make):
    """Runs in a contender's process: calls `make(case)()` whenever it is its turn.

    Args:
        make: A function of the case, a dictionary, that returns a function without
            arguments, which does the work once and waits for it to be done.
    """
    case = json.loads(sys.argv[2])
    run = make(case)
    forget_peak()
    before = memory("VmRSS")
    first = _seconds(run)
    run()
    say(first_s=first)
    for line in sys.stdin:
        if line.strip() == "run":
            say(ms=1000 * _seconds(run))
        else:
            say(mib=(memory("VmHWM") - before) / 2**20)


def compete(script, contenders, case, rounds):
    """Runs `script --serve CASE` for each contender, and returns what was measured.

    Args:
        script: Path of the script, which calls `serve`.
        contenders: The names, each put into the case as `contender`.
        case: A dictionary that JSON can write.
        rounds: How many times each is timed.

    Returns:
        By contender, a dictionary of `ms`, the median; `mib`, the growth of the process
        over what it was before the first call, at most; and `first_s`, the seconds of the
        first call, which compiles. `error` is there instead for one that failed.
    """
    processes = {name: start(script, {**case, "contender": name}) for name in contenders}
    results, alive = {}, {}
    for name, process in processes.items():
        results[name] = hear(process)  # one after the other: the first call is timed
        if "error" not in results[name]:
            alive[name] = process
    times = {name: [] for name in alive}
    for _ in range(rounds):
        for name, process in alive.items():
            time.sleep(PAUSE)
            times[name].append(ask(process, "run").get("ms", float("nan")))
    for name, process in alive.items():
        results[name] |= ask(process, "memory")
        results[name]["ms"] = statistics.median(times[name])
    for process in processes.values():
        process.stdin.close()
        process.wait()
    return results


def medians(runs, rounds):
    """The median time of each function in milliseconds, all taking turns."""
    for run in runs.values():
        run(), run()
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(values) for name, values in times.items()}


def start(script, case, errors=subprocess.DEVNULL, environment=None):
    """Starts `script --serve CASE`; `errors` is where its standard error goes."""
    command = [sys.executable, str(script), "--serve", json.dumps(case)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
    return subprocess.Popen(command, text=True, bufsize=1, env=environment, **pipes)


def ask(process, what):
    """Sends a line to a process and returns what it says then."""
    try:
        process.stdin.write(what + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return {"error": "ended early"}
    return hear(process)


def hear(process):
    """Returns the next thing that a process says, a dictionary."""
    for line in process.stdout:
        if line.startswith("{"):  # not what a library says
            return json.loads(line)
    return {"error": f"ended with exit code {process.wait()}"}


def say(**what):
    """Says something to the process that started this one."""
    print(json.dumps(what), flush=True)


def _seconds(run):
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def memory(key, process="self"):
    """`VmRSS`, the memory in use, or `VmHWM`, the most that was, in bytes."""
    status = pathlib.Path(f"/proc/{process}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    # Elsewhere than on Linux only the peak is known (in bytes on macOS).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak():
    """Makes Linux count the peak anew."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
