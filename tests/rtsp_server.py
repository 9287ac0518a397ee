"""An RTSP server of GStreamer's library with a test picture, for the system's Python, which has
its bindings: prints the port it listens on, and serves `/test` until its standard input ends.

A line `WIDTHxHEIGHT` on the standard input changes the size of the pictures.
"""

from __future__ import annotations

import argparse
import sys
import threading
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
gi.require_version("GstRtsp", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402


def launch(options: argparse.Namespace) -> str:
    """Colour bars, with noise in a corner unless another pattern is asked for."""
    return (
        f"( videotestsrc is-live=true pattern={options.pattern} ! capsfilter name=size "
        f"caps={caps(options.size, options.fps)} ! x264enc tune=zerolatency "
        f"speed-preset=ultrafast threads=1 key-int-max={options.keyframes} bitrate=2000 ! "
        "rtph264pay name=pay0 pt=96 config-interval=1 )"
    )


def caps(size: str, fps: int) -> str:
    width, height = size.split("x")
    return f"video/x-raw,format=I420,width={width},height={height},framerate={fps}/1"


def protect(server: Any, factory: Any, user: str, password: str) -> None:
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_digest(user, password, token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("user", "media.factory.access", True)
    permissions.add_permission_for_role("user", "media.factory.construct", True)
    factory.set_permissions(permissions)


def obey(medias: list[Any], fps: int, loop: Any) -> None:
    """Follow the standard input to its end."""
    for line in sys.stdin:
        for media in medias:
            size = media.get_element().get_by_name("size")
            size.set_property("caps", Gst.Caps.from_string(caps(line.strip(), fps)))
    loop.quit()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", default="0")
    parser.add_argument("--pattern", default="smpte")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--keyframes", type=int, default=25, help="one in so many pictures")
    parser.add_argument("--user")
    parser.add_argument("--password")
    options = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(options.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launch(options))
    factory.set_shared(True)
    medias: list[Any] = []
    factory.connect("media-configure", lambda _, media: medias.append(media))
    if options.user is not None:
        protect(server, factory, options.user, options.password)
    server.get_mount_points().add_factory("/test", factory)
    if not server.attach(None):
        sys.exit("the port cannot be had")
    sys.stdout.write(f"{server.get_bound_port()}\n")
    sys.stdout.flush()
    loop = GLib.MainLoop()
    threading.Thread(target=obey, args=(medias, options.fps, loop), daemon=True).start()
    loop.run()


main()
