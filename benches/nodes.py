#!/usr/bin/env python3
"""A fleet on real processes and a real network: what is lost, what is decided twice, and how long a stream has nobody.

Puts nats-server, a source and three nodes of a fleet (`touchline run --fleet`) into network namespaces on one bridge, disturbs one node at
a time, and reads from JetStream what was published of every stream.

    cargo build --release
    python3 benches/nodes.py --scenario kill --repeat 50
    python3 benches/nodes.py --scenario idle --streams 64 --seconds 1860

kill          kill -9 of a node, which is started again
pause         SIGSTOP for --seconds, then SIGCONT
cut           no packet passes between a node and NATS for --seconds
one-way       packets pass from NATS to the node but not back, or back but not there, in turn
cut-source    no packet passes between a node and the source (HLS) for --seconds
nats-restart  kill -9 of nats-server, which is started again after one second, or after ten, in turn
slow-disk     the disk of a node (spool, store, JSON lines) hangs for --seconds: its file system is frozen
drain         `touchline stream drain`, or SIGTERM, in turn; the node is started again
idle          1,000 definitions that no node may watch beside --streams streams; what that costs after two minutes and at the end

Packets are lost without a trace: one side gets a wrong hardware address of the other (a static neighbour), which needs no more of the
kernel than `ip`. The run fails if one of these is broken:

- a number of a run (stream, epoch, run, index) is there once, in order and without a hole, and an epoch belongs to one node;
- no wall time between the first and the last record of a stream is without a record by more than TOLERANCE_MS;
- no two epochs decide the same time, unless the stream was handed over (then the higher epoch counts, and OVERLAP_MS is the bound);
- a gap `node-lost` lasts from the end of the last second that JetStream had to the begin of the successor's first one;
- of all streams of the killed, stopped or cut off nodes, 95 % are published by another node within 5 s, as the clock of NATS says;
- a stream that is handed over has no gap, and no stream is silent at the end.

Needs root for namespaces (`ip`), nats-server, ffmpeg for `cut-source`, and mkfs.ext4, mount and fsfreeze for `slow-disk`. Streams
have sound only, which a fifth of a picture's time decides, so that three nodes fit two cores.
"""

import argparse
import collections
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from fleet_records import Check, Records
from streams import percentile, usage

HOSTS = {"nats": 1, "source": 2, "a": 11, "b": 12, "c": 13}
NODES = ["a", "b", "c"]
# Threads of three nodes would wait for each other on two cores.
ENVIRONMENT = {**os.environ, "RAYON_NUM_THREADS": "1"}
# Has the pack that ships.
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TEST_SOURCE = "testsrc://?video=0&live=1"
# Needs no inference: the rest is the fleet, publishing, and one small pipeline for each stream.
IDLE_SOURCE = "testsrc://?width=64&height=48&fps=2&audio=0&live=1&pattern=black"
TAKEOVER_MS = 5000
LIMIT_S = 180
# Of a stream, tier key.
COST = 25


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def wait(what, condition, limit=LIMIT_S):
    end = time.time() + limit
    while not (found := condition()):
        if time.time() > end:
            sys.exit(f"waited {limit} s for {what}")
        time.sleep(0.1)
    return found


class Network:
    """Namespaces on a bridge. This process reaches them over the bridge."""

    def __init__(self, number):
        self.number, self.bridge = number, f"touchline{number}"
        if os.geteuid() or not shutil.which("ip"):
            sys.exit("network namespaces need root and `ip` (Debian: iproute2)")
        if os.path.exists(f"/sys/class/net/{self.bridge}"):
            sys.exit(f"{self.bridge} exists: choose another --bridge, or if a run was killed: ip link del {self.bridge}; ip -all netns del")

    def make(self):
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", f"10.79.{self.number}.254/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        for name in HOSTS:
            space, outside = self.space(name), self.outside(name)
            run("ip", "netns", "add", space)
            run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "set", outside, "master", self.bridge, "up")
            run("ip", "-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
            run("ip", "-n", space, "link", "set", "lo", "up")

    def space(self, name):
        return f"touchline{self.number}-{name}"

    def outside(self, name):
        return f"tl{self.number}-{name}"

    def address(self, name):
        return f"10.79.{self.number}.{HOSTS[name]}"

    def command(self, name):
        return ["ip", "netns", "exec", self.space(name)]

    def lose(self, sender, receiver):
        """Loses all packets from `sender` to `receiver` from now on."""
        run("ip", "-n", self.space(sender), "neigh", "replace", self.address(receiver), "lladdr", "02:00:00:00:00:99", "dev", "eth0",
            "nud", "permanent")

    def heal(self, sender, receiver):
        run("ip", "-n", self.space(sender), "neigh", "del", self.address(receiver), "dev", "eth0")

    def remove(self):
        for name in HOSTS:
            # The namespace goes later than its name, and its end of the link with it.
            subprocess.run(["ip", "link", "del", self.outside(name)], capture_output=True)
            subprocess.run(["ip", "netns", "del", self.space(name)], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)


class Fleet:
    def __init__(self, program, folder, network, streams, disk=None):
        # One node could watch all streams, and has reason to hand some of them over.
        self.capacity = COST * streams
        self.program, self.folder, self.network, self.disk = program, folder, network, disk
        self.processes, self.nats = {}, network.address("nats")
        self.start_nats()
        self.records = Records(self.nats)
        self.records.start()

    def start(self, name, space, *command):
        log = open(os.path.join(self.folder, f"{name}.log"), "a")
        self.processes[name] = subprocess.Popen([*self.network.command(space), *command], stdin=subprocess.DEVNULL,
                                                stdout=log, stderr=log, cwd=ROOT, env=ENVIRONMENT)

    def start_nats(self):
        self.start("nats", "nats", "nats-server", "-a", self.nats, "-m", "8222", "-js", "-sd", os.path.join(self.folder, "jetstream"))

        def listens():
            try:
                return socket.create_connection((self.nats, 4222), timeout=1)
            except OSError:
                return None
        wait("nats-server", listens).close()

    def start_node(self, node):
        folder = os.path.join(self.disk if self.disk and node == NODES[0] else self.folder, node)
        os.makedirs(folder, exist_ok=True)
        path = lambda name: os.path.join(folder, name)
        self.start(node, node, self.program, "run", "--quiet", "--linger", "--listen", "127.0.0.1:8080", "--tier", "key",
                   "--fleet", self.url(), "--node", node, "--capacity", str(self.capacity), "--max-streams", "64", "--sources-allow-addresses",
                   f"{self.nats}/24", "--state", path("store.db"), "--fleet-spool", path("spool"), "--jsonl", path("records.jsonl"))

    def url(self):
        return f"nats://{self.nats}:4222"

    def stream(self, *arguments):
        return run(self.program, "stream", "--fleet", self.url(), *arguments)

    def add(self, count, source):
        for n in range(count):
            self.stream("add", f"s{n}={source}", "--set", "isolation=none", "--set", "tier=key")

    def signal(self, name, number):
        self.processes[name].send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            code = self.processes[name].wait(timeout=60)
            assert code == (0 if number == signal.SIGTERM else -number), f"{name} ended with {code}"

    def state(self, node):
        listed = json.loads(self.stream("list", "--json"))
        return next((known["state"] for known in listed["nodes"] if known["name"] == node), None)

    def settled(self, count, kinds=("second",)):
        """Waits until all streams are published and each node has some."""
        since = len(self.records.entries)

        def is_settled():
            recent = {entry.stream: entry.node for entry in self.records.entries[since:] if entry.kind in kinds}
            return len(recent) == count and len(set(recent.values())) == len(NODES)
        wait("streams on all nodes", is_settled)

    def victim(self):
        """The node with the most streams, and their epochs."""
        owners = self.records.owners()
        node = collections.Counter(node for _, node in owners.values()).most_common(1)[0][0]
        return node, {stream: epoch for stream, (epoch, owner) in owners.items() if owner == node}

    def metric(self, node, name):
        text = run(*self.network.command(node), "curl", "-s", "127.0.0.1:8080/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def end(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


def round_of(fleet, arguments, number):
    """Disturbs a node once. Returns how long the streams of the node had nobody, ms, and what else there is to say."""
    victim, owned = fleet.victim()
    since = len(fleet.records.entries)
    scenario, began_ms, note = arguments.scenario, time.time() * 1e3, ""

    def taken(limit=60):
        """When each stream of the victim was first published with a higher epoch."""
        def first():
            seconds = [entry for entry in fleet.records.entries[since:] if entry.kind == "second"]
            times = {stream: [e.at_ms for e in seconds if e.stream == stream and e.epoch > epoch] for stream, epoch in owned.items()}
            return all(times.values()) and [min(at) - began_ms for at in times.values()]
        return wait("takeovers", first, limit)

    def pairs(node, other):
        both = [(node, other), (other, node)]
        return both if scenario != "one-way" else both[number % 2:][:1]

    if scenario == "kill":
        fleet.signal(victim, signal.SIGKILL)
        times = taken()
        fleet.start_node(victim)
    elif scenario == "pause":
        fleet.signal(victim, signal.SIGSTOP)
        times = taken()
        time.sleep(max(0, arguments.seconds - (time.time() - began_ms / 1e3)))
        fleet.signal(victim, signal.SIGCONT)
    elif scenario in ("cut", "one-way"):
        for pair in pairs(victim, "nats"):
            fleet.network.lose(*pair)
        times = taken()
        time.sleep(max(0, arguments.seconds - (time.time() - began_ms / 1e3)))
        for pair in pairs(victim, "nats"):
            fleet.network.heal(*pair)
        healed = time.time()
        wait("the node's return", lambda: fleet.state(victim) == "active")
        note = f"back in the fleet {time.time() - healed:.1f} s after the network"
    elif scenario == "cut-source":
        for pair in pairs(victim, "source"):
            fleet.network.lose(*pair)
        time.sleep(arguments.seconds)
        for pair in pairs(victim, "source"):
            fleet.network.heal(*pair)
        times = []
    elif scenario == "nats-restart":
        fleet.signal("nats", signal.SIGKILL)
        time.sleep(1 if number % 2 == 0 else 10)
        fleet.start_nats()
        times = []
    elif scenario == "slow-disk":
        run("fsfreeze", "--freeze", fleet.disk)
        try:
            time.sleep(arguments.seconds)
        finally:
            run("fsfreeze", "--unfreeze", fleet.disk)
        times = []
    elif scenario == "drain":
        if number % 2 == 0:
            fleet.stream("drain", victim)
            wait("the end of the drain", lambda: fleet.state(victim) == "gone")
        fleet.signal(victim, signal.SIGTERM)
        times = taken()
        fleet.start_node(victim)
    fleet.settled(arguments.streams)
    return times, f"{victim} with {len(owned)} streams; {note}"


def serve_source(fleet):
    """Serves a live HLS channel. Returns its address."""
    folder = os.path.join(fleet.folder, "channel")
    os.makedirs(folder)
    fleet.start("packager", "source", "ffmpeg", "-v", "error", "-re", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-c:a", "aac",
                "-f", "hls", "-hls_time", "1", "-hls_list_size", "6", "-hls_flags", "delete_segments+program_date_time",
                os.path.join(folder, "channel.m3u8"))
    fleet.start("server", "source", sys.executable, "-m", "http.server", "--directory", folder, "80")
    wait("the channel", lambda: os.path.exists(os.path.join(folder, "channel.m3u8")))
    return f"http://{fleet.network.address('source')}/channel.m3u8"


def make_disk(folder):
    """A file system of its own, which can be frozen."""
    image, disk = os.path.join(folder, "disk.img"), os.path.join(folder, "disk")
    os.makedirs(disk)
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    run("mkfs.ext4", "-q", image)
    run("mount", "-o", "loop", image, disk)
    return disk


def figures(fleet, what):
    """Prints what each process and NATS cost over a minute. Returns memory (kB), threads and descriptors of each."""
    def read():
        counters = json.load(urllib.request.urlopen(f"http://{fleet.nats}:8222/varz", timeout=10))
        return time.time(), counters, {name: usage(process.pid) for name, process in fleet.processes.items()}

    since, counters, before = read()
    time.sleep(60)
    until, later, after = read()
    sent, received = ((later[key] - counters[key]) / (until - since) for key in ("in_msgs", "out_msgs"))
    found = {}
    for name, of in after.items():
        files = len(os.listdir(f"/proc/{fleet.processes[name].pid}/fd"))
        found[name] = of["resident"], of["threads"], files
        messages = f"{sent:.0f}, {received:.0f}" if name == "nats" else ""
        print(f"| {what} | {name} | {(of['seconds'] - before[name]['seconds']) / (until - since):.1%} | {of['resident'] / 1024:.0f} "
              f"| {of['threads']} | {files} | {messages} |", flush=True)
    return found


def idle(fleet, arguments):
    """Returns what grows."""
    print("| with | process | processor, share of a core | MB | threads | files | messages a second to, from NATS |\n|---|---|---|---|---|---|---|")
    figures(fleet, "nothing")
    for n in range(1000):
        fleet.stream("add", f"idle{n}={IDLE_SOURCE}", "--needs", "site=nowhere")
    figures(fleet, "1,000 definitions")
    fleet.add(arguments.streams, IDLE_SOURCE)
    fleet.settled(arguments.streams, kinds=("second", "gap"))
    began = time.time()
    time.sleep(60)
    first = figures(fleet, f"and {arguments.streams} streams, after 120 s")
    time.sleep(max(0, began + arguments.seconds - 60 - time.time()))
    last = figures(fleet, f"after {arguments.seconds:.0f} s")
    # Of all nodes together: streams move between them.
    (memory, threads, files), (more, threads_later, files_later) = ([sum(of[name][n] for name in NODES) for n in range(3)] for of in (first, last))
    # A leak of a kilobyte for each second of a stream would be 120 MB.
    if more > memory * 1.05 + 30 * 1024 or threads_later > threads + 12 or files_later > files + 24:
        return [f"the nodes grow: from {memory} kB, {threads} threads and {files} files to {more}, {threads_later} and {files_later}"]
    return []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = os.environ.get("CARGO_TARGET_DIR", "target")
    parser.add_argument("--program", default=os.path.join(target, "release", "touchline"))
    scenarios = ["kill", "pause", "cut", "one-way", "cut-source", "nats-restart", "slow-disk", "drain", "idle"]
    parser.add_argument("--scenario", choices=scenarios, required=True)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--streams", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--bridge", type=int, default=0, choices=range(256), metavar="N", help="number of the bridge, for runs at the same time")
    parser.add_argument("--keep", help="an empty folder for logs, spools and records, which stays")
    arguments = parser.parse_args()
    arguments.program = os.path.abspath(arguments.program)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    network, fleet, disk = Network(arguments.bridge), None, None
    folder = arguments.keep or tempfile.mkdtemp()
    try:
        network.make()
        os.makedirs(folder, exist_ok=True)
        disk = make_disk(folder) if arguments.scenario == "slow-disk" else None
        fleet = Fleet(arguments.program, folder, network, arguments.streams, disk)
        for node in NODES:
            fleet.start_node(node)
        wait("the nodes", lambda: all(fleet.state(node) == "active" for node in NODES))
        problems = measure(fleet, arguments)
        for problem in problems:
            print(problem, file=sys.stderr)
        return 1 if problems else 0
    finally:
        if fleet:
            fleet.end()
        if disk:
            subprocess.run(["umount", disk])
        network.remove()
        if not arguments.keep:
            shutil.rmtree(folder)


def measure(fleet, arguments):
    """Runs the scenario. Returns what is wrong."""
    scenario = arguments.scenario
    problems, rounds = [], []
    if scenario == "idle":
        problems = idle(fleet, arguments)
    else:
        fleet.add(arguments.streams, serve_source(fleet) if scenario == "cut-source" else TEST_SOURCE)
        fleet.settled(arguments.streams)
        for number in range(arguments.repeat):
            times, note = round_of(fleet, arguments, number)
            rounds.append(times)
            text = " ".join(f"{ms / 1e3:.1f}" for ms in sorted(times))
            print(f"<!-- {time.strftime('%H:%M:%S')} round {number + 1}: {note}{text and ': taken after ' + text + ' s'} -->", flush=True)
    # What is on its way to JetStream arrives.
    time.sleep(5)
    check = Check(list(fleet.records.entries), time.time() * 1e3)
    problems += check.problems
    taken = [ms for times in rounds for ms in times]
    shown = lambda values: f"{percentile(values, 0.5) / 1e3:.1f}, {percentile(values, 0.95) / 1e3:.1f}, {max(values) / 1e3:.1f}" if values else ""
    print("| scenario | rounds | streams taken | taken after, s (median, p95, most) | lost by a stream, s (median, p95, most) | decided | gaps "
          "| hole, overlap at most, ms |\n|---|---|---|---|---|---|---|---|")
    gaps = ", ".join(f"{count} {reason}" for reason, count in sorted(check.counts.items()) if reason != "second" and count)
    print(f"| {scenario} | {len(rounds)} | {len(taken)} | {shown(taken)} | {shown(check.spans_ms)} | {check.counts['second']} | {gaps} "
          f"| {max(check.holes_ms):.0f}, {max(check.overlaps_ms):.0f} |", flush=True)
    if scenario != "drain" and taken and percentile(taken, 0.95) > TAKEOVER_MS:
        problems.append(f"p95 of the takeovers is {percentile(taken, 0.95):.0f} ms")
    if scenario in ("drain", "idle", "slow-disk") and check.counts["node-lost"]:
        problems.append(f"{check.counts['node-lost']} spans were lost")
    return problems


if __name__ == "__main__":
    sys.exit(main())
