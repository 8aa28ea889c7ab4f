"""The client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Union, cast

from .records import LiveItem

# The server sends a comment every 10 s. After this much silence, seconds, a live connection is dead.
SILENCE = 30.0
# Pauses before another attempt to connect, seconds: the first, and the longest.
RETRY = (1.0, 30.0)


class ApiError(Exception):
    """The server refuses a request."""

    def __init__(self, status: int, error: str, advice: str) -> None:
        super().__init__(f"{status}: {error}; {advice}" if advice else f"{status}: {error}")
        #: Status of HTTP.
        self.status = status
        #: What is wrong.
        self.error = error
        #: What to do about it.
        self.advice = advice


class Client:
    """A client of one server.

    `url` is the address of the server with the path prefix of a reverse proxy, if there is one. `token` is a read or admin token.
    `context` verifies the server's certificate; give one for an authority of your own
    (`ssl.create_default_context(cafile=...)`). Requests fail with `ApiError` when the server refuses them, and with `OSError` when
    it does not answer within `timeout` seconds.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8080",
        token: Optional[str] = None,
        timeout: float = 30.0,
        context: Optional[ssl.SSLContext] = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._context = context

    def info(self) -> Dict[str, Any]:
        """The program, its pack and its classes."""
        return self._json("GET", "/api/v1/info")

    def schema(self) -> Dict[str, Any]:
        """The JSON Schema of the records."""
        return self._json("GET", "/api/v1/schema")

    def is_ready(self) -> bool:
        """Whether the server is ready to decide."""
        try:
            self._request("GET", "/readyz").close()
        except ApiError as error:
            if error.status != 503:
                raise
            return False
        return True

    def fleet(self) -> Dict[str, Any]:
        """The machines and streams of the fleet as this machine sees them. Without a fleet an `ApiError` with status 404."""
        return self._json("GET", "/api/v1/fleet")

    def streams(self) -> List[Dict[str, Any]]:
        """The streams without their histories."""
        return cast(List[Dict[str, Any]], self._json("GET", "/api/v1/streams")["streams"])

    def stream(self, stream: str) -> Dict[str, Any]:
        """A stream with its last ten minutes."""
        return self._json("GET", _path(stream))

    def version(self, stream: str) -> str:
        """The version of the settings of a stream, for `if_match`."""
        with self._request("GET", _path(stream)) as response:
            return response.headers["ETag"]

    def add_stream(self, uri: str, **settings: Any) -> Dict[str, Any]:
        """Adds a stream. `settings` are the keys of `[[stream]]` in the configuration file, such as `id` and `label`."""
        return self._json("POST", "/api/v1/streams", {"uri": uri, **settings})

    def probe(self, uri: str, **settings: Any) -> Dict[str, Any]:
        """Tests the source of a stream without adding it: tracks, HLS variants, the first picture as a data URL, or why it fails.

        Takes up to 10 s. `settings` are those of `add_stream`. The server refuses a third test at once (429).
        """
        return self._json("POST", "/api/v1/probe", {"uri": uri, **settings})

    def change_stream(self, stream: str, if_match: Optional[str] = None, **settings: Any) -> Dict[str, Any]:
        """Changes settings of a stream that the API added. `None` selects the default.

        With `if_match` (see `version`) the server refuses the change (412) if the settings have changed since.
        """
        return self._json("PATCH", _path(stream), settings, if_match)

    def remove_stream(self, stream: str, if_match: Optional[str] = None) -> None:
        """Removes a stream that the API added."""
        self._request("DELETE", _path(stream), None, if_match).close()

    def preview(self, stream: str) -> bytes:
        """The newest picture of a stream, a JPEG."""
        with self._request("GET", _path(stream) + "/preview?single=1") as response:
            return response.read()

    def export(self, stream: str, format: str, **choices: Any) -> bytes:
        """The segments of the last day as a file: otio, edl, webvtt, webvtt-metadata, daterange, csv or html.

        `choices` are the parameters of the API, such as `to`, `rate`, `cut` and `all`; `from_` is `from`, which is a keyword.
        """
        values = {"format": format, **{name.rstrip("_"): value for name, value in choices.items()}}
        texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
        with self._request("GET", f"{_path(stream)}/export?{urllib.parse.urlencode(texts)}") as response:
            return response.read()

    def clips(self, stream: Optional[str] = None, page: int = 100) -> Iterator[Dict[str, Any]]:
        """The clips without their decisions, of all streams or of one, in the order of their ids. Each request returns `page` clips."""
        query = {"limit": str(page), **({} if stream is None else {"stream": stream})}
        while True:
            answer = self._json("GET", f"/api/v1/clips?{urllib.parse.urlencode(query)}")
            yield from answer["clips"]
            if answer["next"] is None:
                return
            query["after"] = answer["next"]

    def clip(self, clip: str) -> Dict[str, Any]:
        """A clip with its decisions."""
        return self._json("GET", _clip_path(clip))

    def make_clip(self, stream: str, from_: str, to: str) -> Dict[str, Any]:
        """Cuts a clip from the ring of a stream, between two wall times as in 2026-03-29T14:00:00Z.

        The server refuses a time that is not recorded and decided yet (409).
        """
        return self._json("POST", _path(stream) + "/clips", {"from": from_, "to": to})

    def download(self, clip: str, file: str, path: Union[str, "os.PathLike[str]"]) -> int:
        """Writes a file of a clip (media, poster, sound or sidecar, as the clip names it) to `path`. Returns its size.

        The file gets its final name when it is complete.
        """
        part = f"{os.fspath(path)}.part"
        with self._request("GET", f"{_clip_path(clip)}/{urllib.parse.quote(file, safe='')}") as response:
            length = response.headers["Content-Length"]
            try:
                with open(part, "wb") as out:
                    shutil.copyfileobj(response, out)
                    size = out.tell()
                if length is not None and size != int(length):
                    raise ConnectionError(f"{file}: the connection ended after {size} of {length} bytes")
                os.replace(part, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.remove(part)
                raise
        return size

    def remove_clip(self, clip: str) -> None:
        """Removes a clip and its files."""
        self._request("DELETE", _clip_path(clip)).close()

    def sinks(self) -> List[Dict[str, Any]]:
        """The sent, waiting and lost records of each sink, and its last error."""
        return cast(List[Dict[str, Any]], self._json("GET", "/api/v1/sinks")["sinks"])

    def overview(self) -> Dict[str, Any]:
        """The last ten minutes of all streams as spans."""
        return self._json("GET", "/api/v1/overview")

    def pack(self) -> Dict[str, Any]:
        """The running model pack, its table and the last update."""
        return self._json("GET", "/api/v1/pack")

    def update_pack(self, path: Optional[str] = None) -> Dict[str, Any]:
        """Loads the pack in a directory below the root of packs. Without `path`, reads the running pack's directory again."""
        return self._json("POST", "/api/v1/pack", {} if path is None else {"path": path})

    def live(self, stream: str, reconnect: bool = True) -> Iterator[LiveItem]:
        """The records of a stream as they are published, after a snapshot.

        Ends after the state `removed`. When the connection fails, it is opened again, and another snapshot comes first, which has
        the records that were missed. Without `reconnect` the failure is raised as `OSError`. A refusal is always raised, unless it
        may pass: 429 and 5xx.
        """
        for name, data in self._follow(_path(stream) + "/live", reconnect, resume=False):
            item = _live_item(stream, name, data)
            yield item
            if item["type"] == "state" and item["state"] == "removed":
                return

    def live_all(
        self,
        streams: Optional[Iterable[str]] = None,
        groups: Optional[Iterable[str]] = None,
        types: Optional[Iterable[str]] = None,
        reconnect: bool = True,
    ) -> Iterator[Tuple[str, Dict[str, Any]]]:
        """The events of all streams, or some, over one connection: name and data of each.

        The first is `snapshot`, then come the records, `estimate` (a short answer each second) and `stream` (a stream is new, or its
        settings changed); `types` selects some. After a failure it continues with the next event, or with another snapshot if the
        server no longer has them. Failures and refusals are as in `live`.
        """
        names = {"stream": streams, "group": groups, "type": types}
        query = urllib.parse.urlencode({key: ",".join(value) for key, value in names.items() if value is not None})
        return self._follow("/api/v1/live" + (f"?{query}" if query else ""), reconnect, resume=True)

    def _follow(self, path: str, reconnect: bool, resume: bool) -> Iterator[Tuple[str, Dict[str, Any]]]:
        pause, last = RETRY[0], None  # type: Tuple[float, Optional[str]]
        while True:
            try:
                with self._request("GET", path, timeout=SILENCE, last_event=last if resume else None) as response:
                    for name, data, last in _events(response, last):
                        pause = RETRY[0]
                        yield name, json.loads(data)
                raise ConnectionError("the server closed the connection")
            except ApiError as error:
                if not reconnect or (error.status != 429 and error.status < 500):
                    raise
            except (OSError, http.client.HTTPException):
                if not reconnect:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, RETRY[1])

    def _json(
        self, method: str, path: str, body: Optional[Mapping[str, Any]] = None, if_match: Optional[str] = None
    ) -> Dict[str, Any]:
        with self._request(method, path, body, if_match) as response:
            return cast(Dict[str, Any], json.load(response))

    def _request(
        self,
        method: str,
        path: str,
        body: Optional[Mapping[str, Any]] = None,
        if_match: Optional[str] = None,
        timeout: Optional[float] = None,
        last_event: Optional[str] = None,
    ) -> http.client.HTTPResponse:
        request = urllib.request.Request(self._url + path, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if self._token is not None:
            # Unredirected: a redirect to another host must not receive the token.
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        if if_match is not None:
            request.add_header("If-Match", if_match)
        if last_event is not None:
            request.add_header("Last-Event-ID", last_event)
        try:
            response = urllib.request.urlopen(request, timeout=timeout or self._timeout, context=self._context)
            return cast(http.client.HTTPResponse, response)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error.code, error.read()) from None


def _path(stream: str) -> str:
    return f"/api/v1/streams/{urllib.parse.quote(stream, safe='')}"


def _clip_path(clip: str) -> str:
    return f"/api/v1/clips/{urllib.parse.quote(clip, safe='')}"


def _refusal(status: int, body: bytes) -> ApiError:
    try:
        problem = json.loads(body)
        return ApiError(status, problem["error"], problem["advice"])
    except (ValueError, KeyError, TypeError):
        # A proxy answers with its own page.
        text = " ".join(body.decode(errors="replace").split())
        return ApiError(status, text[:200] or "no text", "")


def _events(lines: Iterable[bytes], last: Optional[str]) -> Iterator[Tuple[str, str, Optional[str]]]:
    """The name, the data and the last id of each server-sent event (WHATWG HTML, section 9.2)."""
    name, data = "message", []  # type: Tuple[str, List[str]]
    for raw in lines:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if data:
                yield name, "\n".join(data), last
            name, data = "message", []
        elif not line.startswith(":"):
            field, _, value = line.partition(":")
            value = value[1:] if value.startswith(" ") else value
            if field == "event":
                name = value
            elif field == "data":
                data.append(value)
            elif field == "id":
                last = value


def _live_item(stream: str, name: str, data: Dict[str, Any]) -> LiveItem:
    if name == "snapshot":
        return {"type": "snapshot", "stream": stream, "detail": data}
    if name == "lagged":
        return {"type": "lagged", "stream": stream, "skipped": data["skipped"]}
    # A record; its key `type` is the name of the event.
    return cast(LiveItem, data)
