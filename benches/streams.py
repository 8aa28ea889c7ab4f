#!/usr/bin/env python3
"""How many live 720p30 H.264 streams with sound this machine can watch, and where the processor time goes.

Sends N streams as MPEG-TS over UDP on loopback (ffmpeg, copied, no encoding during the measurement), watches them with
`touchline run`, and prints for each N: decision latency (median, p95), shed seconds, processor load, and the overhead:
the share of processor time outside decoding, features and inference. For the largest N it prints the time by group of
threads.

The time of a thread comes from /proc, from the end of the warm-up to the end of the measurement. GStreamer's streaming
threads also copy pictures out of its buffers. The script measures that part separately, by copying pictures of the same
size.

    cargo build --release
    python3 benches/streams.py [--streams 1 2 4] [--seconds 30] [--media CLIP]
    python3 benches/streams.py --tier sparse     decode less
    python3 benches/streams.py --ladder --streams 24    one HLS channel in three sizes, watched N times
    python3 benches/streams.py --idle      streams without data
    python3 benches/streams.py --scale --tier key --streams 1 8 32 64    what grows with the number of streams
    python3 benches/streams.py --record    what recording costs

--scale takes small pictures (320×180, 25 a second, a key picture every second), so that 64 streams fit two cores, and shows for each
number of streams: threads, and per stream and second processor time, wake-ups (voluntary and other context switches) and page faults.

--ladder sends one live HLS channel of 1080, 720 and 360 lines (segments of two seconds), which each stream reads for itself.

--record takes one stream of 1080p50 at 6 Mbit/s and shows the processor time of the threads that write the ring, and that of the whole
program with and without the ring in alternating runs, and its memory at the begin and at the end. It decides from key pictures, which
leaves the ring most visible.

N streams pass when p95 of the decision latency stays below the limit and no second is shed. Needs ffmpeg. Without
--media the picture is a moving test pattern with noise, which is harder to decode than most broadcasts.
"""

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import tempfile
import time

WARM_UP_SECONDS = 6


def free_ports(count):
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def make_media(path, source):
    if source:
        inputs = ["-stream_loop", "-1", "-t", "20", "-i", source, "-vf", "scale=1280:720,fps=30"]
    else:
        inputs = ["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=30:duration=20",
                  "-f", "lavfi", "-i", "anoisesrc=color=pink:sample_rate=48000:duration=20",
                  "-vf", "noise=alls=12:allf=t"]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *inputs, "-c:v", "libx264", "-preset", "veryfast", "-b:v", "4M",
                    "-g", "60", "-pix_fmt", "yuv420p", "-c:a", "aac", "-ar", "48000", path], check=True)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


DECODING = "receiving, demuxing, decoding, scaling, converting"
INFERENCE = "features and inference"
COPYING = "copying out of GStreamer's buffers"
# The work of a thread by the beginning of its name; the first match counts. All other threads are GStreamer's, which
# names a streaming thread after its source pad. Workers without a name of their own inherit `infer`.
GROUPS = [
    (INFERENCE, ("infer", "candle")),
    ("cutting seconds, mixing and resampling sound", ("clip/",)),
    ("supervising sources", ("src/", "bus/")),
    ("publishing and the rest", ("touchline", "tokio", "pack", "shadow")),
]
FRAME_RATE, FRAME_BYTES = 30, 512 * 288 * 3


def thread_seconds(pid):
    """Processor seconds so far of each thread of a process, by thread id and name."""
    seconds = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            name = open(f"/proc/{pid}/task/{task}/comm").read().strip()
            seconds[task, name] = int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0]) / 1e9
        except FileNotFoundError:  # The thread has ended.
            continue
    return seconds


def by_group(before, after, streams, wall):
    """Processor seconds per second of each group of threads."""
    groups = {group: 0.0 for group in (DECODING, INFERENCE, COPYING, *(name for name, _ in GROUPS[1:]))}
    for (task, name), seconds in after.items():
        group = next((group for group, starts in GROUPS if name.startswith(starts)), DECODING)
        groups[group] += (seconds - before.get((task, name), 0.0)) / wall
    groups[COPYING] = streams * FRAME_RATE * copy_seconds()
    groups[DECODING] -= groups[COPYING]
    return groups


def copy_seconds():
    """Time to copy a picture into the next buffer of a pool that is too large for the caches."""
    source, pool = bytearray(FRAME_BYTES), [bytearray(FRAME_BYTES) for _ in range(128)]
    times = []
    for i in range(4 * len(pool)):
        began = time.perf_counter()
        pool[i % len(pool)][:] = source
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def send_udp(media, count):
    """The URIs of `count` streams over UDP, and the commands that send them once the program listens."""
    ports = free_ports(count)
    senders = [["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", media, "-c", "copy", "-f", "mpegts",
                f"udp://127.0.0.1:{port}?pkt_size=1316"] for port in ports]
    return [f"s{i}=udp://127.0.0.1:{port}" for i, port in enumerate(ports)], senders


def make_ladder(directory):
    """A recording of 20 s in three sizes."""
    outputs = [(1080, "6M"), (720, "3M"), (360, "800k")]
    paths = [os.path.join(directory, f"{height}.mp4") for height, _ in outputs]
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=1920x1080:rate=30:duration=20",
               "-f", "lavfi", "-i", "anoisesrc=color=pink:sample_rate=48000:duration=20"]
    for (height, rate), path in zip(outputs, paths):
        command += ["-vf", f"noise=alls=12:allf=t,scale=-2:{height}", "-c:v", "libx264", "-preset", "veryfast", "-b:v", rate, "-g", "60",
                    "-pix_fmt", "yuv420p", "-c:a", "aac", "-ar", "48000", path]
    subprocess.run(command, check=True)
    return paths


def send_ladder(paths, directory, count):
    """The URIs of `count` readers of one live HLS channel, and the commands that make and serve it."""
    root = tempfile.mkdtemp(dir=directory)
    port = free_ports(1)[0]
    inputs = [word for path in paths for word in ("-re", "-stream_loop", "-1", "-i", path)]
    maps = [word for i in range(len(paths)) for word in ("-map", f"{i}:v", "-map", f"{i}:a")]
    packager = ["ffmpeg", "-v", "error", *inputs, *maps, "-c", "copy", "-f", "hls", "-hls_time", "2", "-hls_flags", "delete_segments",
                "-var_stream_map", " ".join(f"v:{i},a:{i}" for i in range(len(paths))), "-master_pl_name", "channel.m3u8",
                os.path.join(root, "%v.m3u8")]
    server = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", root, str(port)]
    return [f"s{i}=http://127.0.0.1:{port}/channel.m3u8" for i in range(count)], [packager, server]


def measure(program, uris, senders, seconds, directory, tier):
    """Watches `uris`, which the commands `senders` send."""
    count = len(uris)
    jsonl = os.path.join(directory, f"streams-{count}.jsonl")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watcher = subprocess.Popen([program, "run", "--quiet", "--listen", "off", "--retry", "--max-streams", "64", "--tier", tier,
                                "--jsonl", jsonl, *uris], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.5)
    senders = [subprocess.Popen(sender, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
               for sender in senders]
    began = time.time()
    time.sleep(WARM_UP_SECONDS)
    threads, since = thread_seconds(watcher.pid), time.time()
    time.sleep(seconds)
    groups = by_group(threads, thread_seconds(watcher.pid), count, time.time() - since)
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(timeout=30)
    wall = time.time() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for sender in senders:
        sender.kill()
        sender.wait()
    records = [json.loads(line) for line in open(jsonl)]
    latencies, decided, gaps = [], 0, {}
    for record in records:
        if record["type"] == "second" and record["index"] >= WARM_UP_SECONDS:
            latencies.append(record["latency_ms"])
            decided += 1
        elif record["type"] == "gap":
            gaps[record["reason"]] = gaps.get(record["reason"], 0) + 1
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / wall / os.cpu_count()
    return latencies, decided, gaps, cpu, groups


def tasks(pid):
    """The directories of the threads of a process and of its children."""
    pids = [str(pid)]
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            pids += open(f"/proc/{pid}/task/{task}/children").read().split()
        except FileNotFoundError:  # The thread has ended.
            continue
    return pids, [f"/proc/{one}/task/{task}" for one in pids for task in os.listdir(f"/proc/{one}/task")]


def usage(pid):
    """Threads, processor seconds, context switches (voluntary, other), page faults and proportional kB of a process and its children so far."""
    pids, threads = tasks(pid)
    totals = {"threads": len(threads), "seconds": 0.0, "voluntary": 0, "other": 0, "faults": 0, "resident": 0}
    for thread in threads:
        try:
            status = dict(line.split(":", 1) for line in open(f"{thread}/status"))
        except FileNotFoundError:
            continue
        totals["voluntary"] += int(status["voluntary_ctxt_switches"])
        totals["other"] += int(status["nonvoluntary_ctxt_switches"])
    for one in pids:
        fields = open(f"/proc/{one}/stat").read().rsplit(")", 1)[1].split()
        totals["faults"] += int(fields[7]) + int(fields[9])
        totals["seconds"] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        totals["resident"] += next(int(line.split()[1]) for line in open(f"/proc/{one}/smaps_rollup") if line.startswith("Pss:"))
    return totals


def kinds_of_threads(pid):
    """For each beginning of a thread's name: the number of threads, and their voluntary context switches so far."""
    kinds = {}
    for thread in tasks(pid)[1]:
        try:
            status = dict(line.split(":", 1) for line in open(f"{thread}/status"))
        except FileNotFoundError:
            continue
        kind = status["Name"].strip().split("/")[0].split(":")[0].rstrip("0123456789-")
        number, switches = kinds.get(kind, (0, 0))
        kinds[kind] = number + 1, switches + int(status["voluntary_ctxt_switches"])
    return kinds


def scale(program, counts, seconds, tier, arguments):
    """What grows with the number of streams. The senders are one process, because 64 would take the processor themselves."""
    with tempfile.TemporaryDirectory() as directory:
        media = os.path.join(directory, "media.ts")
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=20",
                        "-f", "lavfi", "-i", "sine=sample_rate=48000:duration=20", "-c:v", "libx264", "-preset", "veryfast",
                        "-b:v", "300k", "-g", "25", "-bf", "2", "-pix_fmt", "yuv420p", "-c:a", "aac", media], check=True)
        print("| streams | threads | resident MB | decided of due | p95 ms | shed | ms a second of a stream | voluntary switches | other "
              "| page faults |\n|---|---|---|---|---|---|---|---|---|---|")
        for count in counts:
            ports = free_ports(count)
            jsonl = os.path.join(directory, f"scale-{count}.jsonl")
            uris = [f"s{i}=udp://127.0.0.1:{port}" for i, port in enumerate(ports)]
            watcher = subprocess.Popen([program, "run", "--quiet", "--listen", "off", "--retry", "--tier", tier, "--max-streams", "64",
                                        "--jsonl", jsonl, *arguments, *uris], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(1.5)
            outputs = "|".join(f"[f=mpegts]udp://127.0.0.1:{port}?pkt_size=1316" for port in ports)
            sender = subprocess.Popen(["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", media, "-map", "0", "-c", "copy",
                                       "-f", "tee", outputs], stdin=subprocess.DEVNULL)
            time.sleep(WARM_UP_SECONDS + count / 4)
            before, since, written = usage(watcher.pid), time.time(), os.path.getsize(jsonl)
            kinds_before = kinds_of_threads(watcher.pid)
            time.sleep(seconds)
            after, wall, until = usage(watcher.pid), time.time() - since, os.path.getsize(jsonl)
            kinds = kinds_of_threads(watcher.pid)
            watcher.send_signal(signal.SIGTERM)
            watcher.wait(timeout=30)
            sender.kill()
            sender.wait()
            # A record that was not whole at either end is left out.
            lines = open(jsonl, "rb").read()[written:until].splitlines()[1:-1]
            records = [json.loads(line) for line in lines]
            latencies = [record["latency_ms"] for record in records if record["type"] == "second"]
            shed = sum(record["type"] == "gap" and record["reason"] == "overload" for record in records)
            each = {key: (after[key] - before[key]) / wall / count for key in ("seconds", "voluntary", "other", "faults")}
            print(f"| {count} | {after['threads']} | {after['resident'] // 1024} | {len(latencies)} of {int(wall) * count} "
                  f"| {percentile(latencies, 0.95):.0f} | {shed} | {each['seconds'] * 1e3:.1f} | {each['voluntary']:.0f} "
                  f"| {each['other']:.0f} | {each['faults']:.1f} |", flush=True)
            rates = {kind: (number, (switches - kinds_before.get(kind, (0, 0))[1]) / wall / count)
                     for kind, (number, switches) in kinds.items()}
            rates = sorted(rates.items(), key=lambda item: -item[1][1])[:12]
            text = ", ".join(f"{kind} {number} ({rate:.1f})" for kind, (number, rate) in rates)
            print(f"<!-- threads (voluntary switches for each stream and second): {text} -->", flush=True)


def record(program, seconds, rounds):
    """What the ring costs a stream of 1080p50."""
    with tempfile.TemporaryDirectory() as directory:
        media = os.path.join(directory, "media.ts")
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=size=1920x1080:rate=50:duration=20",
                        "-f", "lavfi", "-i", "anoisesrc=color=pink:sample_rate=48000:duration=20", "-vf", "noise=alls=12:allf=t",
                        "-c:v", "libx264", "-preset", "veryfast", "-b:v", "6M", "-maxrate", "6M", "-bufsize", "6M", "-g", "100",
                        "-pix_fmt", "yuv420p", "-c:a", "aac", media], check=True)
        print("| ring | processor, share of a core | of it threads of the ring | MB at the begin | MB at the end | written MB |")
        print("|---|---|---|---|---|---|")
        for number in range(2 * rounds):
            ring = os.path.join(directory, f"ring-{number}")
            more = ["--record-dir", ring, "--record-ring-s", "120"] if number % 2 else []
            port = free_ports(1)[0]
            watcher = subprocess.Popen([program, "run", "--quiet", "--listen", "off", "--retry", "--tier", "key", *more,
                                        f"s=udp://127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(1.5)
            sender = subprocess.Popen(["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", media, "-c", "copy",
                                       "-f", "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316"], stdin=subprocess.DEVNULL)
            time.sleep(WARM_UP_SECONDS)
            before, threads, since = usage(watcher.pid), thread_seconds(watcher.pid), time.time()
            time.sleep(seconds)
            after, later, wall = usage(watcher.pid), thread_seconds(watcher.pid), time.time() - since
            watcher.send_signal(signal.SIGTERM)
            watcher.wait(timeout=60)
            sender.kill()
            sender.wait()
            rings = sum(spent - threads.get(key, 0.0) for key, spent in later.items() if key[1].startswith("ring/"))
            size = sum(os.path.getsize(os.path.join(where, name)) for where, _, names in os.walk(ring) for name in names)
            print(f"| {'yes' if more else 'no'} | {(after['seconds'] - before['seconds']) / wall:.2%} | {rings / wall:.2%} "
                  f"| {before['resident'] / 1024:.0f} | {after['resident'] / 1024:.0f} | {size / 1e6:.0f} |", flush=True)


def idle(program, count, seconds):
    """Measures the processor load of a program whose streams have no data."""
    uris = [f"s{i}=udp://127.0.0.1:{port}" for i, port in enumerate(free_ports(count))]
    watcher = subprocess.Popen([program, "run", "--quiet", "--listen", "off", "--retry", *uris],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def spent():
        fields = open(f"/proc/{watcher.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    time.sleep(WARM_UP_SECONDS)
    before = spent()
    time.sleep(seconds)
    share = (spent() - before) / seconds
    watcher.send_signal(signal.SIGTERM)
    watcher.wait(timeout=30)
    print(f"{count} streams without data: {share:.2%} of one core over {seconds} s, including attempts to connect")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--program", default=os.path.join(target, "release", "touchline"))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--limit-ms", type=float, default=1500)
    parser.add_argument("--media")
    parser.add_argument("--tier", default="auto")
    parser.add_argument("--idle", action="store_true")
    parser.add_argument("--ladder", action="store_true")
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of runs, with --record")
    parser.add_argument("--argument", action="append", default=[], help="an argument of `touchline run`, with --scale")
    arguments = parser.parse_args()
    if arguments.idle:
        return idle(arguments.program, max(arguments.streams), arguments.seconds)
    if arguments.record:
        return record(arguments.program, arguments.seconds, arguments.rounds)
    if arguments.scale:
        return scale(arguments.program, arguments.streams, arguments.seconds, arguments.tier, arguments.argument)
    with tempfile.TemporaryDirectory() as directory:
        media = os.path.join(directory, "media.ts")
        if arguments.ladder:
            paths = make_ladder(directory)
        else:
            make_media(media, arguments.media)
        print("| streams | seconds decided | latency p50 ms | p95 ms | shed seconds | processor | overhead | passed |")
        print("|---|---|---|---|---|---|---|---|")
        for count in arguments.streams:
            uris, senders = send_ladder(paths, directory, count) if arguments.ladder else send_udp(media, count)
            latencies, decided, gaps, cpu, groups = measure(
                arguments.program, uris, senders, arguments.seconds, directory, arguments.tier)
            p50, p95 = percentile(latencies, 0.5), percentile(latencies, 0.95)
            shed = gaps.get("overload", 0)
            passed = decided > 0 and p95 < arguments.limit_ms and shed == 0
            total = sum(groups.values())
            overhead = 1 - (groups[DECODING] + groups[INFERENCE]) / total
            print(f"| {count} | {decided} | {p50:.0f} | {p95:.0f} | {shed} | {cpu:.0%} | {overhead:.1%} "
                  f"| {'yes' if passed else 'no'} |", flush=True)
        print(f"\n| processor time with {count} streams | ms per second | share |\n|---|---|---|")
        for group, seconds in groups.items():
            print(f"| {group} | {seconds * 1e3:.1f} | {seconds / total:.1%} |")


if __name__ == "__main__":
    main()
