"""Client for the API and the live records of Touchline. Standard library only."""

from .client import ApiError, Client
from .records import (
    Event,
    Gap,
    Incident,
    Lagged,
    LiveItem,
    PackChange,
    Record,
    Second,
    Snapshot,
    State,
)

__all__ = [
    "ApiError",
    "Client",
    "Event",
    "Gap",
    "Incident",
    "Lagged",
    "LiveItem",
    "PackChange",
    "Record",
    "Second",
    "Snapshot",
    "State",
]
