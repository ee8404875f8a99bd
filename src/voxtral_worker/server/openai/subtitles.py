"""Writes the segments of a transcript as subtitles."""

from collections.abc import Iterable

from voxtral_worker.engine.transcript import Segment


def as_srt(segments: Iterable[Segment]) -> str:
    """SubRip: numbered cues, times with a comma."""
    cues = (
        f"{number}\n{_time(each.start_s, ',')} --> {_time(each.end_s, ',')}\n{_line(each)}\n\n"
        for number, each in enumerate(segments, 1)
    )
    return "".join(cues)


def as_vtt(segments: Iterable[Segment]) -> str:
    """WebVTT, https://www.w3.org/TR/webvtt1/: cues without numbers, times with a point."""
    cues = (
        f"{_time(each.start_s, '.')} --> {_time(each.end_s, '.')}\n{_escaped(_line(each))}\n\n"
        for each in segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def _time(seconds: float, point: str) -> str:
    total_ms = round(seconds * 1000)
    minutes, ms = divmod(total_ms, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}{point}{ms % 1000:03}"


def _line(segment: Segment) -> str:
    # An empty line would end the cue.
    return " ".join(segment.answer.text.split())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
