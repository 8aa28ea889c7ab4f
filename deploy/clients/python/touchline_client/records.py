"""The records of Touchline as types.

A record is a `dict` with the keys of one of these types; its key `type` says which. Later versions of Touchline may add keys and
kinds of records: ignore what you do not know. The descriptions of all keys are in the schema, `/api/v1/schema`.
"""

from __future__ import annotations

from typing import Any, Dict, List, Literal, Mapping, NotRequired, Optional, TypedDict, Union

Classes = Mapping[str, float]


class Wall(TypedDict):
    """Wall time of the start of a second."""

    time: str
    source: str
    uncertainty_ms: float


class Timecode(TypedDict):
    """Timecode of a picture, from the media."""

    label: str
    rate: str
    pts_ns: int


class Modality(TypedDict, total=False):
    """The result of a modality: `absent`, or the other keys."""

    label: str
    score: float
    votes: int
    voters: int
    absent: str


class Modalities(TypedDict):
    rgb: Modality
    flow: Modality
    audio: Modality


class Window(TypedDict):
    """The estimate: the vote over the last seconds."""

    label: Optional[str]
    unknown: NotRequired[bool]
    share: Classes
    mean: Classes
    seconds: int
    gaps: int


class Pack(TypedDict):
    """The model pack that decides."""

    name: str
    weights_sha256: str
    manifest_sha256: str


class Common(TypedDict):
    """The keys of every record beside its kind."""

    stream: str
    schema: int
    instance: NotRequired[str]
    node: NotRequired[str]
    epoch: NotRequired[int]


class Place(Common):
    """The keys of every record of a second."""

    run: int
    index: int
    pts_ns: int


class Second(Place):
    """A second with a decision."""

    type: Literal["second"]
    wall: Optional[Wall]
    timecode: NotRequired[Timecode]
    modalities: Modalities
    frame_share: NotRequired[float]
    tier: NotRequired[str]
    decided_by: str
    why: str
    label: str
    probability: float
    unknown: NotRequired[bool]
    probabilities: Classes
    window: Window
    latency_ms: Optional[float]
    backlog: int
    signal: NotRequired[List[str]]
    pack: Pack


# `from` is a keyword.
Lost = TypedDict("Lost", {"from": str, "to": str, "seconds": int})
"""A span of wall time in which no machine of a fleet published a stream."""


class Gap(Place):
    """A second without a decision."""

    type: Literal["gap"]
    reason: str
    signal: NotRequired[List[str]]
    window: Window
    backlog: int
    lost: NotRequired[Lost]


# `class` is a keyword, which the syntax of classes does not allow as a key.
Event = TypedDict(
    "Event",
    {
        "type": Literal["event"],
        "schema": int,
        "instance": NotRequired[str],
        "node": NotRequired[str],
        "epoch": NotRequired[int],
        "stream": str,
        "kind": Literal["onset", "offset"],
        "class": str,
        "run": int,
        "index": int,
        "pts_ns": int,
        "wall": Optional[Wall],
        "probability": float,
        "reason": NotRequired[str],
    },
)
Event.__doc__ = "A class came on air or went off air."


class State(Common):
    """The state of the stream changed."""

    type: Literal["state"]
    state: str
    kind: Optional[str]
    cause: Optional[str]
    advice: Optional[str]
    attempt: Optional[int]
    retry_in_ms: Optional[float]
    next_try: Optional[str]
    tracks: Optional[Dict[str, bool]]
    at: Optional[str]


class Incident(Common):
    """An incident of the source while it played or between two connections."""

    type: Literal["incident"]
    incident: str
    track: Optional[str]
    cause: Optional[str]
    run: int
    signal: NotRequired[str]
    began_pts_ns: NotRequired[int]
    lasted_ms: NotRequired[float]
    since: Optional[str]
    at: Optional[str]


class PackChange(Place):
    """The model pack changes with this second."""

    type: Literal["pack"]
    pack: Pack
    previous: Pack
    at: Optional[str]


# `class` is a keyword here too.
Segment = TypedDict(
    "Segment",
    {
        "type": Literal["segment"],
        "schema": int,
        "instance": NotRequired[str],
        "node": NotRequired[str],
        "epoch": NotRequired[int],
        "stream": str,
        "content": Literal["class", "unknown", "no-programme", "undecided"],
        "class": Optional[str],
        "run": int,
        "first": int,
        "last": int,
        "pts_ns": int,
        "end_pts_ns": int,
        "began": Optional[str],
        "ended": Optional[str],
        "seconds": int,
        "mean": Optional[float],
        "peak": Optional[float],
        "peak_index": Optional[int],
        "decided": int,
        "unknown": int,
        "decided_by": Dict[str, int],
        "gaps": Dict[str, int],
        "missing": int,
        "revision": int,
    },
)
Segment.__doc__ = "Consecutive seconds of a run with the same content are over."


class Expectation(Place):
    """Something unexpected has been on air for too long, or is over."""

    type: Literal["expectation"]
    wall: Optional[Wall]
    kind: Literal["unexpected-began", "unexpected-ended"]
    expected: List[str]
    on_air: Optional[str]
    seconds: int
    reason: NotRequired[str]


class Snapshot(TypedDict):
    """A stream with its last ten minutes: what `Client.stream` returns. The first item of a live connection."""

    type: Literal["snapshot"]
    stream: str
    detail: Dict[str, Any]


class Lagged(TypedDict):
    """The reader was too slow and missed records. A snapshot follows."""

    type: Literal["lagged"]
    stream: str
    skipped: int


Record = Union[Second, Gap, Event, State, Incident, PackChange, Segment, Expectation]
LiveItem = Union[Snapshot, Lagged, Record]

#: The type of the records of each kind.
KINDS = {
    "second": Second,
    "gap": Gap,
    "event": Event,
    "state": State,
    "incident": Incident,
    "pack": PackChange,
    "segment": Segment,
    "expectation": Expectation,
}
