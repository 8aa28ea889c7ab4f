#!/usr/bin/env python3
"""The cost of a process for each source: processor time, memory and start-up, with and without it.

    python3 benches/isolation.py [--program target/release/touchline] [--seconds 30] [--rounds 3]

Plays a recording at its own pace in `touchline run`, which receives, decodes, infers and publishes, alternately with
`--isolation none` and `--isolation process`. Processor time includes the program and its finished child process. For
the start-up time, the script itself sends the protocol's request to a worker. Needs ffmpeg and Linux.
"""

import argparse
import glob
import json
import os
import resource
import socket
import statistics
import struct
import subprocess
import tempfile
import threading
import time


def clip(path, seconds):
    subprocess.run(
        ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", f"testsrc2=size=1280x720:rate=30:duration={seconds}",
         "-f", "lavfi", "-i", f"sine=frequency=440:sample_rate=48000:duration={seconds}", "-c:v", "libx264", "-preset", "veryfast",
         "-pix_fmt", "yuv420p", "-c:a", "aac", "-ac", "2", path], check=True)


def pss_kb(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return None


def children(pid):
    found = []
    for path in glob.glob("/proc/[0-9]*/status"):
        try:
            with open(path) as file:
                if f"PPid:\t{pid}\n" in file.read():
                    found.append(int(path.split("/")[2]))
        except OSError:
            pass
    return found


def play(program, path, isolation, seconds):
    """Processor time, s; memory of the program and of its process at 60 % of the time, kB."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.Popen([program, "run", "--quiet", "--listen", "off", "--realtime", "--isolation", isolation, path],
                           stderr=subprocess.DEVNULL)
    memory = []

    def sample():
        memory.append((pss_kb(run.pid), [pss_kb(child) for child in children(run.pid)]))

    timer = threading.Timer(seconds * 0.6, sample)
    timer.start()
    assert run.wait() == 0
    timer.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, memory


def start(program):
    """Seconds from the start of a worker until its source is open, and until its first picture."""
    request = {
        "version": 1, "id": "bench", "uri": "testsrc://?width=64&height=48&fps=10&audio=0", "frame_height": 288, "want_video": True,
        "want_audio": False, "pacing": "Auto", "latency_ms": 200, "rtsp_transport": "tcp", "pipeline": None, "connect_timeout_ms": 10000,
        "sources": None, "hls": {}, "kind": None, "plan": None, "on_demand": None, "clock_origin_ns": 0,
        "learned": {"over_tcp": False, "needs_relay": None, "hls": None,
                    "claims": {"off_max_ns": 0, "last_ns": None, "agreeing": None}},
    }
    ours, theirs = socket.socketpair()
    began = time.monotonic()
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    process = subprocess.Popen([program, "source-worker", "bench"], stdin=theirs, env=environment)
    theirs.close()
    head = json.dumps({"Open": request}).encode()
    ours.sendall(struct.pack("<I", len(head)) + head)
    stream = ours.makefile("rb")
    opened = None
    while True:
        (length,) = struct.unpack("<I", stream.read(4))
        message = json.loads(stream.read(length))
        if message == "Started":
            opened = time.monotonic() - began
        if "Frame" in message:
            first = time.monotonic() - began
            break
        assert "NotOpened" not in message, message
    stream.close()
    ours.close()
    process.wait()
    return opened, first


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/touchline")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.mp4")
        clip(path, arguments.seconds)
        costs = {"none": [], "process": []}
        memory = {}
        for _ in range(arguments.rounds):
            for isolation, all_costs in costs.items():
                cost, memory[isolation] = play(arguments.program, path, isolation, arguments.seconds)
                all_costs.append(cost)
        print("| isolation | processor time, s | ms per second of the stream | memory of the program, of its processes (PSS, MB) |")
        print("|---|---|---|---|")
        for isolation, all_costs in costs.items():
            own, others = memory[isolation][0] if memory[isolation] else (None, [])
            shown = ", ".join(f"{kb / 1024:.0f}" for kb in [own, *others] if kb)
            median = statistics.median(all_costs)
            spread = f"{min(all_costs):.2f} to {max(all_costs):.2f}"
            print(f"| {isolation} | {median:.2f} ({spread}) | {1000 * median / arguments.seconds:.1f} | {shown} |")
    starts = [start(arguments.program) for _ in range(10)]
    opened, first = (statistics.median(column) * 1000 for column in zip(*starts))
    print(f"start-up: open after {opened:.0f} ms, first picture after {first:.0f} ms (median of 10)")


if __name__ == "__main__":
    main()
