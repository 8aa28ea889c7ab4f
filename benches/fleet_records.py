"""The records of a fleet as JetStream has them, and whether they are whole. benches/nodes.py uses it."""

import collections
import datetime
import json
import socket
import threading
import time

# Arrival times of seconds vary with the load of the machine.
TOLERANCE_MS = 500
# The owner before publishes until it has seen that the lease is taken, and its successor begins with three seconds that waited.
OVERLAP_MS = 5000
# A node publishes for two seconds after its last renewal.
LATE = 3

Entry = collections.namedtuple("Entry", "stream kind epoch run index node wall_ms reason lost at_ms")


def milliseconds(text):
    return datetime.datetime.fromisoformat(text).timestamp() * 1e3


class Records(threading.Thread):
    """Reads the seconds and gaps of the fleet from JetStream as they come."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.entries, self.others, self.last = server, [], [], 0

    def run(self):
        while True:
            try:
                self.read()
            except (OSError, ValueError):
                time.sleep(0.2)

    def read(self):
        with socket.create_connection((self.server, 4222), timeout=60) as connection:
            lines = connection.makefile("rb")
            lines.readline()
            # A server that was restarted remembers the consumer before.
            inbox = f"_INBOX.{connection.getsockname()[1]}.{self.last}"
            consumer = {"stream_name": "touchline-main", "config": {
                "deliver_subject": inbox, "ack_policy": "none", "deliver_policy": "by_start_sequence", "opt_start_seq": self.last + 1,
                "replay_policy": "instant"}}
            body = json.dumps(consumer)
            connection.sendall((f"CONNECT {{\"verbose\":false,\"headers\":false}}\r\nSUB {inbox} 1\r\nSUB _INBOX.made 2\r\n"
                                f"PUB $JS.API.CONSUMER.CREATE.touchline-main _INBOX.made {len(body)}\r\n{body}\r\n").encode())
            while line := lines.readline():
                if line.startswith(b"PING"):
                    connection.sendall(b"PONG\r\n")
                elif line.startswith(b"MSG"):
                    words = line.decode().split()
                    payload = lines.read(int(words[-1]) + 2)
                    if words[2] == "1":
                        self.take(json.loads(payload)["data"], words[3].split("."))
                    elif "error" in json.loads(payload):
                        # The fleet has not created the stream yet.
                        return time.sleep(0.2)

    def take(self, record, reply):
        self.last, at_ms = int(reply[5]), int(reply[7]) / 1e6
        if record["type"] not in ("second", "gap"):
            self.others.append((record, at_ms))
            return
        wall = record.get("wall")
        lost = record.get("lost")
        self.entries.append(Entry(
            record["stream"], record["type"], record["epoch"], record["run"], record["index"], record["node"],
            milliseconds(wall["time"]) if wall else None, record.get("reason"),
            lost and (milliseconds(lost["from"]), milliseconds(lost["to"])), at_ms))

    def seconds(self):
        return [entry for entry in list(self.entries) if entry.kind == "second"]

    def owners(self):
        """Of each stream the last epoch and its node."""
        owners = {}
        for entry in self.seconds():
            owners[entry.stream] = max(owners.get(entry.stream, (0, "")), (entry.epoch, entry.node))
        return owners


class Check:
    """What the records of all streams say, and what is wrong with them."""

    def __init__(self, entries, until_ms):
        self.problems, self.counts = [], collections.Counter()
        self.holes_ms, self.overlaps_ms, self.spans_ms = [0], [0], []
        deciders, runs = collections.defaultdict(set), collections.defaultdict(list)
        for entry in entries:
            self.counts[entry.reason or entry.kind] += 1
            deciders[entry.stream, entry.epoch].add(entry.node)
            if not entry.lost:
                runs[entry.stream, entry.epoch, entry.run].append(entry)
        self.problems += [f"{epoch} belongs to {nodes}" for epoch, nodes in deciders.items() if len(nodes) > 1]
        self.starts_ms = {}
        for key, run in runs.items():
            indexes = [entry.index for entry in run]
            if indexes != list(range(indexes[0], indexes[0] + len(indexes))):
                self.problems.append(f"{key}: seconds {indexes}")
            # The second that arrived with the least delay says when the run began.
            walls = [entry.wall_ms - 1000 * entry.index for entry in run if entry.wall_ms]
            self.starts_ms[key] = min(walls) if walls else None
        for stream in sorted({entry.stream for entry in entries}):
            of = [entry for entry in entries if entry.stream == stream]
            # A second without programme has no wall time.
            if not any(entry.reason == "no-programme" for entry in of):
                self.stream(stream, of, until_ms)

    def span(self, entry):
        """When an entry began at the earliest and ended at the latest, by wall time, ms; `None` if it is not known."""
        if entry.lost:
            return entry.lost
        start = self.starts_ms[entry.stream, entry.epoch, entry.run]
        return start and (start + 1000 * entry.index, max(entry.wall_ms or 0, start + 1000 * entry.index) + 1000)

    def end_ms(self, entry):
        """When a second ended at the earliest, by wall time, ms."""
        return self.starts_ms[entry.stream, entry.epoch, entry.run] + 1000 * entry.index + 1000

    def stream(self, stream, entries, until_ms):
        clock = lambda ms: datetime.datetime.fromtimestamp(ms / 1e3).strftime("%H:%M:%S.%f")[:-3]
        end, spans = None, sorted((span, entry) for entry in entries if (span := self.span(entry)))
        for (begin_ms, end_ms), entry in spans:
            if end is not None and begin_ms > end:
                self.holes_ms.append(begin_ms - end)
                if begin_ms > end + TOLERANCE_MS:
                    self.problems.append(f"{stream}: nothing from {clock(end)} to {clock(begin_ms)}, before {entry[:6]}")
            end = max(end or 0, end_ms)
        if end is not None and end < until_ms - 8000:
            self.problems.append(f"{stream}: silent since {clock(end)}")
        epochs = collections.defaultdict(list)
        for entry in entries:
            epochs[entry.epoch].append(entry)
        last_ms = None
        for epoch, of in sorted(epochs.items()):
            decided = [entry for entry in of if entry.wall_ms]
            lost = [entry for entry in of if entry.lost]
            before = [entry for entry in entries if entry.wall_ms and entry.epoch < epoch]
            if lost:
                # What a node that was cut off published in its last two seconds arrives when it is back, and the gap stands.
                came = [entry for entry in before if entry.at_ms < lost[0].at_ms]
                last_ms = max((self.end_ms(entry) for entry in came), default=None)
            if decided and last_ms and (overlap := last_ms - self.span(decided[0])[0]) > 0:
                self.overlaps_ms.append(overlap)
                self.counts["seconds twice at hand-overs"] += 0 if lost else round(overlap / 1000)
                if overlap > (TOLERANCE_MS if lost else OVERLAP_MS):
                    self.problems.append(f"{stream}: epoch {epoch} begins {overlap:.0f} ms before the one before ended, at {clock(last_ms)}")
            for entry in lost:
                begin_ms, end_ms = entry.lost
                self.spans_ms.append(end_ms - begin_ms)
                known = [e.wall_ms + 1000 for e in before if e.at_ms < entry.at_ms]
                late = [e for e in before if e.at_ms >= entry.at_ms and e.wall_ms + 1000 > begin_ms]
                self.counts["seconds that came after their gap"] += len(late)
                if len(late) > LATE:
                    self.problems.append(f"{stream}: {len(late)} seconds of former epochs came after the gap of epoch {epoch}")
                if known and abs(begin_ms - max(known)) > 2 and not late:
                    self.problems.append(f"{stream}: lost since {clock(begin_ms)}, but published until {clock(max(known))} (epoch {epoch})")
            last_ms = max([last_ms or 0, *map(self.end_ms, decided)]) or None
