"""Tests of the client against a running `touchline run` (TOUCHLINE_URL, TOUCHLINE_TOKEN), and against a server that fails.

The program's own tests start it: `cargo test --test program client`.
"""

import http.client
import json
import os
import pathlib
import socketserver
import tempfile
import threading
import typing
import unittest
from unittest import mock

import touchline_client.client
from touchline_client import ApiError, Client
from touchline_client.records import KINDS

URL, TOKEN = os.environ["TOUCHLINE_URL"], os.environ["TOUCHLINE_TOKEN"]
PATTERN = "testsrc://?width=64&height=48&fps=10&audio=0"


class Running(unittest.TestCase):
    """A server that runs."""

    def setUp(self):
        self.client = Client(URL, TOKEN)

    def test_a_stream_is_added_changed_watched_and_removed(self):
        client, name = self.client, "court-1"
        self.assertTrue(client.is_ready())
        self.assertEqual(client.add_stream(PATTERN, id=name, label="Court")["id"], name)
        self.assertIn(name, [stream["id"] for stream in client.streams()])
        version = client.version(name)
        self.assertEqual(client.change_stream(name, version, label="Court 1")["settings"]["label"], "Court 1")
        with self.assertRaises(ApiError) as refusal:
            client.change_stream(name, version, label="Court 2")
        self.assertEqual(refusal.exception.status, 412)
        self.assertTrue(refusal.exception.error and refusal.exception.advice)

        overview = next(client.live_all([name]))
        self.assertEqual((overview[0], overview[1]["streams"][0]["id"]), ("snapshot", name))
        live = client.live(name)
        snapshot = next(live)
        self.assertEqual((snapshot["type"], snapshot["detail"]["id"]), ("snapshot", name))
        second = next(record for record in live if record["type"] == "second")
        self.assertAlmostEqual(sum(second["probabilities"].values()), 1, places=3)
        self.assertEqual(second["pack"]["name"], client.pack()["pack"]["name"])
        self.assertEqual(client.preview(name)[:2], b"\xff\xd8", "a JPEG")
        self.assertEqual(client.stream(name)["state"], "playing")
        table = client.export(name, "csv", from_="0:00", all=True).decode().splitlines()
        self.assertEqual(table[0].split(",")[:2], ["stream", "class"])
        self.assertEqual(table[1].split(",")[0], name)
        with self.assertRaises(ApiError) as refusal:
            client.export(name, "aaf")
        self.assertEqual(refusal.exception.status, 422)
        client.remove_stream(name)
        self.assertEqual(list(live)[-1]["state"], "removed")
        with self.assertRaises(ApiError) as refusal:
            client.stream(name)
        self.assertEqual(refusal.exception.status, 404)

    def test_an_address_is_tested(self):
        found = self.client.probe(PATTERN, tier="lean")
        self.assertEqual((found["reachable"], found["failure"], found["audio"]), (True, None, None))
        self.assertEqual((found["video"]["width"], found["video"]["height"]), (64, 48))
        self.assertTrue(found["picture"].startswith("data:image/jpeg;base64,"))
        with self.assertRaises(ApiError) as refusal:
            self.client.probe("http://169.254.169.254/live")
        self.assertEqual(refusal.exception.status, 403)

    def test_clips_are_made_listed_loaded_and_removed(self):
        client, name = self.client, "recorded"
        times = []
        for record in client.live(name):
            if record["type"] == "second" and record["wall"]:
                times.append(record["wall"]["time"])
            if len(times) >= 6:
                break
        made = client.make_clip(name, times[-4], times[-2])
        self.assertEqual((made["stream"], made["reason"]), (name, "request"))
        self.assertIn(made["id"], [clip["id"] for clip in client.clips(name, page=1)])
        self.assertEqual(list(client.clips("court-9")), [])
        self.assertEqual(client.clip(made["id"])["records"][0]["stream"], name)
        media = made["media"][0]
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "clip.mp4"
            self.assertEqual(client.download(made["id"], media["file"], path), media["bytes"])
            self.assertEqual((path.read_bytes()[4:8], path.stat().st_size), (b"ftyp", media["bytes"]))
            with self.assertRaises(ApiError) as refusal:
                client.download(made["id"], "other.mp4", path)
            self.assertEqual((refusal.exception.status, os.listdir(folder)), (404, ["clip.mp4"]))
        client.remove_clip(made["id"])
        with self.assertRaises(ApiError) as refusal:
            client.clip(made["id"])
        self.assertEqual(refusal.exception.status, 404)
        with self.assertRaises(ApiError) as refusal:
            client.make_clip(name, times[-1], "2100-01-01T00:00:00Z")
        self.assertEqual(refusal.exception.status, 422)

    def test_sinks_and_the_overview_are_read(self):
        self.assertEqual([(sink["name"], sink["kind"]) for sink in self.client.sinks()], [("desk", "exec")])
        overview = self.client.overview()
        self.assertIn("recorded", json.dumps(overview))

    def test_wrong_tokens_and_addresses_raise(self):
        with self.assertRaises(ApiError) as refusal:
            Client(URL, "wrong" * 8).info()
        self.assertEqual(refusal.exception.status, 401)
        with self.assertRaises(OSError):
            Client("http://127.0.0.1:1").info()
        with self.assertRaises(ApiError) as refusal:
            next(self.client.live("none"))
        self.assertEqual(refusal.exception.status, 404)

    def test_the_types_have_the_keys_of_the_schema(self):
        schema = self.client.schema()
        kinds = {}
        for kind in schema["oneOf"]:
            # The keys that every record has.
            kind["properties"] |= schema["properties"]
            kind["required"] += schema["required"]
            kinds[kind["properties"]["type"]["const"]] = kind
        self.assertEqual(set(kinds), set(KINDS))
        for name, record in KINDS.items():
            with self.subTest(name):
                self.compare(kinds[name], record, schema)

    def compare(self, schema, record, root):
        hints = typing.get_type_hints(record, include_extras=True)
        self.assertEqual(set(hints), set(schema["properties"]))
        optional = {key for key, hint in hints.items() if typing.get_origin(hint) is typing.NotRequired}
        self.assertEqual(set(hints) - optional, set(schema["required"]))
        for key, hint in hints.items():
            nested = next((t for t in (hint, *typing.get_args(hint)) if typing.is_typeddict(t)), None)
            reference = schema["properties"][key]
            reference = next((s for s in (reference, *reference.get("anyOf", ())) if "$ref" in s), None)
            # Each result of a modality has keys of its own.
            if nested and reference and nested.__total__:
                self.compare(root["$defs"][reference["$ref"].split("/")[-1]], nested, root)


class Failing(unittest.TestCase):
    """A server that closes connections and refuses some."""

    def serve(self, answers, requests=None):
        class Answer(socketserver.StreamRequestHandler):
            def handle(self):
                lines = []
                while line := self.rfile.readline().strip():
                    lines.append(line)
                if requests is not None:
                    requests.append(lines)
                self.wfile.write(answers.pop(0))

        server = socketserver.TCPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return Client(f"http://127.0.0.1:{server.server_address[1]}")

    def test_a_lost_connection_is_opened_again(self):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        answers = [
            head + b': comment\n\nevent: snapshot\ndata: {"state":\ndata: "playing"}\n\nevent: lagged\ndata: {"skipped":7}\n\n',
            b"",
            b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\n<b>no",
            head + b'event: state\r\ndata: {"type":"state","state":"removed","new":1}\r\n\r\n',
        ]
        with mock.patch.object(touchline_client.client.time, "sleep") as sleep:
            items = list(self.serve(answers).live("court"))
        self.assertEqual([item["type"] for item in items], ["snapshot", "lagged", "state"])
        self.assertEqual((items[0]["detail"], items[1]["skipped"]), ({"state": "playing"}, 7))
        self.assertEqual([call.args[0] for call in sleep.call_args_list], [1, 2, 4])

    def test_the_events_of_all_streams_continue_after_the_last(self):
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        requests = []
        answers = [
            head + b'event: snapshot\nid: 7-1\ndata: {"streams":[]}\n\nevent: estimate\nid: 7-2\ndata: {"stream":"a"}\n\n',
            head + b'event: estimate\nid: 7-3\ndata: {"stream":"b"}\n\n',
        ]
        with mock.patch.object(touchline_client.client.time, "sleep"):
            events = self.serve(answers, requests).live_all(groups=["x", "y z"], types=["estimate"])
            names = [next(events) for _ in range(3)]
        self.assertEqual(names, [("snapshot", {"streams": []}), ("estimate", {"stream": "a"}), ("estimate", {"stream": "b"})])
        self.assertTrue(requests[0][0].startswith(b"GET /api/v1/live?group=x%2Cy+z&type=estimate "), requests[0])
        self.assertFalse(any(line.lower().startswith(b"last-event-id") for line in requests[0]))
        self.assertIn(b"last-event-id: 7-2", [line.lower() for line in requests[1]])

    def test_clips_come_page_by_page(self):
        requests = []

        def page(ids, after):
            body = json.dumps({"clips": [{"id": id} for id in ids], "next": after}).encode()
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

        answers = [page(["a", "b &"], "b &"), page(["c"], None)]
        ids = [clip["id"] for clip in self.serve(answers, requests).clips("court 1", page=2)]
        self.assertEqual(ids, ["a", "b &", "c"])
        lines = [lines[0] for lines in requests]
        self.assertEqual(lines[0], b"GET /api/v1/clips?limit=2&stream=court+1 HTTP/1.1")
        self.assertEqual(lines[1], b"GET /api/v1/clips?limit=2&stream=court+1&after=b+%26 HTTP/1.1")

    def test_half_a_download_is_an_error_and_leaves_no_file(self):
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaises((OSError, http.client.HTTPException)):
                client = self.serve([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
                client.download("a", "a.mp4", os.path.join(folder, "a.mp4"))
            self.assertEqual(os.listdir(folder), [])

    def test_without_reconnect_the_failure_is_raised(self):
        with self.assertRaises(OSError):
            list(self.serve([b""]).live("court", reconnect=False))

    def test_a_page_of_a_proxy_is_an_error_with_its_text(self):
        with self.assertRaises(ApiError) as refusal:
            self.serve([b"HTTP/1.1 502 Bad\r\n\r\n<h1>Bad\nGateway</h1>"]).info()
        self.assertEqual(str(refusal.exception), "502: <h1>Bad Gateway</h1>")

    def test_the_token_does_not_follow_a_redirect(self):
        seen = []

        class Redirect(socketserver.StreamRequestHandler):
            def handle(self):
                lines = []
                while line := self.rfile.readline().strip():
                    lines.append(line)
                seen.append(any(line.lower().startswith(b"authorization") for line in lines))
                if len(seen) == 1:
                    self.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /other\r\n\r\n")
                else:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n{}")

        server = socketserver.TCPServer(("127.0.0.1", 0), Redirect)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        Client(f"http://127.0.0.1:{server.server_address[1]}", "secret").info()
        self.assertEqual(seen, [True, False])


if __name__ == "__main__":
    unittest.main()
