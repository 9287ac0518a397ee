"""The address of a stream connects with its credentials and shows none of them, anywhere."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_config
from stages.errors import ConfigError
from stages.sources.rtsp import RtspConfig, RtspSource
from stages.sources.stream_url import StreamUrl

CANARY = "CANARY"
"""In every secret below, in whatever way it is written."""

SHOWN = {
    "rtsp://cam/live": "rtsp://cam/live",
    "rtsp://10.0.0.7:8554/live/1?channel=1&subtype=0": (
        "rtsp://10.0.0.7:8554/live/1?channel=1&subtype=0"
    ),
    "rtsp://[::1]:554/x": "rtsp://[::1]:554/x",
    "udp://:5000": "udp://:5000",
    "RTSP://Cam/Live": "rtsp://Cam/Live",
    "rtsp://CANARY:CANARY@cam/live": "rtsp://***@cam/live",
    "rtsp://CANARY@cam/live": "rtsp://***@cam/live",
    "rtsp://me:p@CANARY@cam:554/live": "rtsp://***@cam:554/live",
    "rtsp://me:@@CANARY@@@cam/live": "rtsp://***@cam/live",
    "rtsp://me:p%40CANARY%2F%3A@cam/live": "rtsp://***@cam/live",
    "rtsp://me:CANARY:8554@cam/live": "rtsp://***@cam/live",
    "http://cam/video.cgi?user=CANARY&pwd=CANARY&fps=5": (
        "http://cam/video.cgi?user=***&pwd=***&fps=5"
    ),
    "rtsp://cam/user=CANARY_password=CANARY_channel=1.sdp": "rtsp://cam/user=***",
    "rtsp://cam/stream;Password=CANARY/CANARY": "rtsp://cam/stream;Password=***",
    "rtsp://cam/pass%77ord=CANARY/x": "rtsp://cam/***",
    "rtsp://cam/password%3DCANARY?fps=5": "rtsp://cam/***?fps=5",
    "rtsp://cam/channel=1_password=CANARY": "rtsp://cam/channel=***",
    "rtsp://cam/trackID=1/x;channel=2": "rtsp://cam/trackID=1/x;channel=2",
    "http://cam/s;jsessionid=CANARY?Channel=1": "http://cam/s;jsessionid=***?Channel=1",
    "srt://h:8890?streamid=read:mystream:operator:CANARY&pkt_size=1316": (
        "srt://h:8890?streamid=***&pkt_size=1316"
    ),
    "srt://h:8890?streamid=#!::r=live,u=CANARY,s=CANARY": "srt://h:8890?streamid=***#***",
    "rtsp://cam/x?jwt=CANARY": "rtsp://cam/x?jwt=***",
    "rtsp://cam/x?u=CANARY&p=CANARY": "rtsp://cam/x?u=***&p=***",
    "http://cam/x?pw=CANARY;code=CANARY;hash=CANARY": "http://cam/x?pw=***;code=***;hash=***",
    "http://cam/x?credential=CANARY==": "http://cam/x?credential=***",
    "http://cam/x?pass%77ord=CANARY": "http://cam/x?***",
    "http://cam/x?channel=1%26pwd=CANARY": "http://cam/x?channel=***",
    "http://cam/x?password=S3/CANARY": "http://cam/x?password=***",
    "http://cam/x?password=S3&CANARY#CANARY": "http://cam/x?password=***&***#***",
    "http://cam/x?CANARY": "http://cam/x?***",
}


@pytest.mark.parametrize(("text", "shown"), SHOWN.items(), ids=range(len(SHOWN)))
def test_what_is_shown_holds_no_secret(text: str, shown: str) -> None:
    url = StreamUrl(text)
    assert str(url) == shown
    assert CANARY not in f"{url} {url!r} {url.place} {[url]}"
    assert text.count(CANARY) == url.reveal().count(CANARY), "but it is kept"


REVEALED = {
    "rtsp://me:p@ss@cam/live": "rtsp://me:p%40ss@cam/live",
    "rtsp://me:p%40ss@cam/live": "rtsp://me:p%40ss@cam/live",
    "rtsp://me:p:q%2Fr@cam:554/live?x=1": "rtsp://me:p%3Aq%2Fr@cam:554/live?x=1",
    "rtsp://me@cam/live": "rtsp://me:@cam/live",
    "rtsp://cam/live": "rtsp://cam/live",
}


@pytest.mark.parametrize(("text", "revealed"), REVEALED.items())
def test_who_connects_gets_all_of_it(text: str, revealed: str) -> None:
    assert StreamUrl(text).reveal() == revealed


def test_username_and_password_beside_the_address_win() -> None:
    assert StreamUrl("rtsp://a:b@cam/x").reveal("me", "p@/") == "rtsp://me:p%40%2F@cam/x"
    assert StreamUrl("rtsp://a:b@cam/x").reveal(None, "q") == "rtsp://a:q@cam/x"
    assert StreamUrl("rtsp://cam/x").reveal("me", "q") == "rtsp://me:q@cam/x"


REFUSED: dict[str, str] = {
    "file:///etc/CANARY": "scheme file",
    "concat:CANARY|CANARY": "cannot be read",
    "subfile,,start,0,end,9,,:/etc/CANARY": "cannot be read",
    "exec://CANARY": "scheme exec",
    "/etc/CANARY": "cannot be read",
    "rtsp:///CANARY": "has no host",
    "rtsp://me:pa/CANARY@cam/live": "%2F",
    "rtsp://me:1/CANARY@cam/live": "%2F",
    "rtsp://me:pa?CANARY@cam/live": "%3F",
    "rtsp://me:pa#CANARY@cam/live": "%23",
    "rtsp://cam:99999/CANARY": "port 99999",
    "rtsp://cam:0/CANARY": "port 0",
    "rtsp://cam/a b CANARY": "cannot be read",
    "rtsp://cam/\nCANARY": "cannot be read",
    "rtsp://me:CANARY@ca m/live": "cannot be read",
    "rtsp://***@cam/live": "password_env",
    "http://cam/v?token=***": "password_env",
    "rtsp://cam/" + "CANARY" * 1000: "cannot be read",
    "": "cannot be read",
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.items(), ids=range(len(REFUSED)))
def test_what_is_no_address_is_refused_in_words_that_hold_none_of_it(
    text: str, expected: str
) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        StreamUrl(text)
    assert expected in str(caught.value)
    assert CANARY not in str(caught.value)


CONFIG = """\
name: t
source: {{kind: rtsp, url: {url}, {more}}}
detector: {{kind: none}}
segmenter: {{kind: sam2_image, max_objects: 2}}
"""


def written(tmp_path: Path, url: object, more: str = "") -> str:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(url=url, more=more))
    return str(path)


@pytest.mark.parametrize(
    "url",
    [
        "rtps://me:CANARY@cam/live",
        "rtsp://me:CA/NARY@CANARY/live",
        "[rtsp://me:CANARY@cam/live]",
        "{a: CANARY}",
        "'rtsp://me:CANARY@cam/li ve'",
    ],
)
def test_a_mistake_in_a_configuration_is_one_line_without_the_secret(
    tmp_path: Path, url: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, url))
    message = str(caught.value)
    assert "source.url: " in message
    assert "expected rtsp|" in message
    assert CANARY not in "".join(traceback.format_exception_only(caught.value))


def test_the_configuration_that_is_written_loads_back_without_its_secret(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "rtsp://me:CANARY@cam/live"))
    text = config.as_yaml()
    assert "rtsp://***@cam/live" in text
    assert CANARY not in text + repr(config) + str(config.model_dump())
    with pytest.raises(ConfigError, match="credentials left out"):
        load_config(written(tmp_path, "rtsp://***@cam/live"))


def test_with_the_password_in_the_environment_it_loads_back_to_the_same(tmp_path: Path) -> None:
    first = load_config(
        written(tmp_path, "rtsp://cam/live", "username: me, password_env: CAMERA_WORD")
    )
    path = tmp_path / "again.yaml"
    path.write_text(first.as_yaml())
    assert load_config(str(path)) == first


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_not_set_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("CAMERA_WORD", raising=False)
    if value is not None:
        monkeypatch.setenv("CAMERA_WORD", value)
    given: dict[str, Any] = {"url": "rtsp://cam/live", "password_env": "CAMERA_WORD"}
    with pytest.raises(ConfigError, match="password_env: CAMERA_WORD is not set, expected"):
        RtspSource(RtspConfig.model_validate(given))
