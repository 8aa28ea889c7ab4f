"""Prints the clips and markers that OpenTimelineIO reads from a file, in frames, as JSON.

Usage: export.py FILE NUMERATOR/DENOMINATOR. An EDL does not contain its rate, so it must be given.
"""

import json
import sys

import opentimelineio as otio


def frames(time_range, rate):
    begin, end = time_range.start_time, time_range.end_time_exclusive()
    values = [begin.rescaled_to(rate).value, end.rescaled_to(rate).value]
    whole = [round(value) for value in values]
    assert all(abs(value - frame) < 1e-6 for value, frame in zip(values, whole)), values
    return whole


def main():
    path, fraction = sys.argv[1:]
    numerator, denominator = map(int, fraction.split("/"))
    rate = numerator / denominator
    timeline = otio.adapters.read_from_file(path, **({"rate": rate} if path.endswith(".edl") else {}))
    track = timeline.tracks[0]
    # The adapter of EDL keeps the record timecode of the first event as a negative start.
    start = -round(track.source_range.start_time.value) if track.source_range else 0
    clips = []
    sound = [other for other in timeline.tracks if other.kind == otio.schema.TrackKind.Audio]
    for other in sound:
        same = [clip.source_range for clip in other.find_clips()] == [clip.source_range for clip in track.find_clips()]
        assert same, "the sound has other clips than the pictures"
    for clip in track.find_clips():
        inside = frames(track.range_of_child(clip), rate)
        clips.append(
            {
                "name": clip.name,
                "sound": len(sound),
                "source": frames(clip.source_range, rate),
                "record": [start + frame for frame in inside],
                "markers": [[m.name, str(m.color), *frames(m.marked_range, rate)] for m in clip.markers],
                "media": getattr(clip.media_reference, "target_url", None),
            }
        )
    print(json.dumps(clips))


main()
