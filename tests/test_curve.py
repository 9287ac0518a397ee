"""Who may connect: keys in files, the allow-list at work on real sockets, and what may be bound."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zmq
from conftest import Outcome
from result_packets import random_packet, wait_until
from test_client import paced, running

from stages import zap
from stages.client import Subscriber
from stages.curve import CurveConfig, Reach, guard
from stages.curve_keys import ClientKeys, new_keys, public_key, secret_key
from stages.errors import ConfigError
from stages.frame_sender import FrameSender
from stages.local_sockets import bound, check_local, is_open
from stages.sinks.zmq_publisher import ZmqPublisher, ZmqPublisherConfig
from stages.sources.zmq_frames import ZmqFramesConfig, ZmqFrameSource

ANY_PORT = "tcp://127.0.0.1:0"
DEAF_S = 0.5
"""Long enough for whoever is let in: a handshake takes milliseconds."""


class Keys:
    """A run's keys, and those of its clients."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.allowed = folder / "clients"
        new_keys("run", folder)
        new_keys("friend", self.allowed)
        new_keys("stranger", folder)
        self.curve = CurveConfig(secret_key=folder / "run.key_secret", clients=self.allowed)

    @property
    def friend(self) -> ClientKeys:
        return ClientKeys.load(self.allowed / "friend.key_secret", self.folder / "run.key")

    @property
    def stranger(self) -> ClientKeys:
        return ClientKeys.load(self.folder / "stranger.key_secret", self.folder / "run.key")

    @property
    def mistaken(self) -> ClientKeys:
        """A friend who takes another for the run."""
        own = self.allowed / "friend.key_secret"
        return ClientKeys.load(own, self.folder / "stranger.key")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path / "keys")


# Keys in files


def test_new_keys_are_files_of_their_owner_that_libzmq_and_its_tools_take(tmp_path: Path) -> None:
    paths = new_keys("cam1", tmp_path / "keys")
    assert [path.name for path in paths] == ["cam1.key", "cam1.key_secret"]
    for path in (*paths, tmp_path / "keys"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    public, secret = zmq.auth.load_certificate(paths[1])
    assert zmq.auth.load_certificate(paths[0]) == (public, None)
    pair = secret_key(paths[1])
    assert (pair.public, pair.secret) == (public, secret)
    assert public_key(paths[0]) == zmq.curve_public(pair.secret)
    assert pair.secret.decode() not in repr(pair)


@pytest.mark.parametrize("there", ["cam1.key", "cam1.key_secret"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(ConfigError, match=f"{there}: is there already"):
        new_keys("cam1", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", ".x", "x" * 65, "a\nb"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="as a key's name"):
        new_keys(name, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_secret_that_others_may_read_is_none(keys: Keys) -> None:
    path = keys.folder / "run.key_secret"
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read this secret key"):
        secret_key(path)


BROKEN = {
    "empty": b"",
    "short": b'public-key = "abc"\nsecret-key = "abc"\n',
    "no_z85": b'public-key = "' + b"~" * 40 + b'"\n',
    "large": b"#" * 5000 + b'\npublic-key = "' + b"a" * 40 + b'"\n',
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_key_file_is_told_without_its_content(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.key"
    path.write_bytes(BROKEN[name])
    with pytest.raises(ConfigError, match=r"x\.key: holds no CURVE key") as told:
        public_key(path)
    assert "abc" not in str(told.value)
    with pytest.raises(ConfigError, match="No such file"):
        public_key(tmp_path / "none.key")


def test_halves_of_two_pairs_are_no_pair(keys: Keys) -> None:
    text = (keys.folder / "run.key_secret").read_text()
    other = public_key(keys.folder / "stranger.key").decode()
    path = keys.folder / "mixed.key_secret"
    path.touch(0o600)
    path.write_text(text.replace(public_key(keys.folder / "run.key").decode(), other))
    with pytest.raises(ConfigError, match="do not belong together"):
        secret_key(path)
    with pytest.raises(ConfigError, match="holds no secret key"):
        secret_key(keys.folder / "run.key")


# The allow-list at work


@contextmanager
def publishing(curve: CurveConfig | None) -> Iterator[ZmqPublisher]:
    publisher = ZmqPublisher(ZmqPublisherConfig(endpoint=ANY_PORT, curve=curve), "cam1", ())
    try:
        yield publisher
    finally:
        publisher.close()


def hears(publisher: ZmqPublisher, keys: ClientKeys | None, within_s: float = DEAF_S) -> int:
    """How many of a publisher's messages somebody with these keys gets, at most three."""
    packet = random_packet(np.random.default_rng(0), 1, (20, 30), source_id="cam1")[0]
    with Subscriber(publisher.endpoint, keys=keys) as subscriber:
        deadline = time.monotonic() + within_s
        while subscriber.received < 3 and time.monotonic() < deadline:
            publisher.poll()
            publisher.write(packet)
            subscriber.receive(0.02)
        return subscriber.received


def test_results_are_for_those_whose_key_is_allowed(keys: Keys) -> None:
    with publishing(keys.curve) as publisher:
        assert hears(publisher, keys.friend, 10.0) == 3
        assert hears(publisher, keys.stranger) == 0
        assert hears(publisher, None) == 0
        assert publisher.subscribers == 0
        assert hears(publisher, keys.friend, 10.0) == 3


def test_whoever_has_not_the_servers_secret_is_not_believed(keys: Keys) -> None:
    """The impostor lets everyone in, and says that it is the run."""
    impostor = keys.curve.model_copy(update={"secret_key": keys.folder / "stranger.key_secret"})
    with publishing(impostor) as publisher:
        assert hears(publisher, keys.friend) == 0
        assert hears(publisher, keys.mistaken, 10.0) == 3, "it does publish"
    with publishing(None) as publisher:
        assert hears(publisher, keys.friend) == 0
    with publishing(keys.curve) as publisher:
        assert hears(publisher, keys.mistaken) == 0


def test_without_an_answer_from_the_door_nobody_gets_in(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.curve.keep_door", lambda context, allowed: None)
    with publishing(keys.curve) as publisher:
        assert hears(publisher, keys.friend) == 0


def test_a_key_counts_as_soon_as_it_lies_there_and_no_longer(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zap, "_LOOK_EVERY_S", 0.0)
    with publishing(keys.curve) as publisher:
        assert hears(publisher, keys.stranger) == 0
        (keys.folder / "stranger.key").rename(keys.allowed / "stranger.key")
        (keys.allowed / "broken.key").write_text("no key")
        assert hears(publisher, keys.stranger, 10.0) == 3
        (keys.allowed / "friend.key").unlink()
        assert hears(publisher, ClientKeys(secret_key(keys.allowed / "friend.key_secret"),
                                           public_key(keys.folder / "run.key"))) == 0  # fmt: skip


def test_an_error_at_the_door_is_a_no_and_the_door_goes_on(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(allowed: zap.AllowList, key: bytes) -> str:
        raise OSError("the disk is gone")

    with publishing(keys.curve) as publisher:
        with monkeypatch.context() as patch:
            patch.setattr(zap.AllowList, "name", fail)
            assert hears(publisher, keys.friend) == 0
        assert hears(publisher, keys.friend, 10.0) == 3


@pytest.mark.parametrize("who", ["friend", "stranger", None])
def test_frames_come_from_those_whose_key_is_allowed(keys: Keys, who: str | None) -> None:
    source = ZmqFrameSource(ZmqFramesConfig(endpoint=ANY_PORT, curve=keys.curve))
    own = None if who is None else getattr(keys, who)
    try:
        with FrameSender(source.endpoint, keys=own) as sender:
            deadline = time.monotonic() + (10.0 if who == "friend" else DEAF_S)
            while not sender.wait(0.01) and time.monotonic() < deadline:
                source.inbox.read(lambda shape: np.empty(shape, np.uint8), 0.01)
            assert sender.wait(0.0) is (who == "friend")
    finally:
        source.close()


def test_the_door_answers_what_is_no_question_with_no(keys: Keys) -> None:
    allowed = zap.AllowList(keys.allowed)
    friend = zmq.utils.z85.decode(public_key(keys.allowed / "friend.key"))
    question = [b"1.0", b"7", zap.DOMAIN, b"127.0.0.1", b"", b"CURVE", friend]
    assert zap._answer(question, allowed)[2:5] == [b"200", b"OK", b"friend"]
    bad = [[*question[:place], b"x", *question[place + 1 :]] for place in (0, 2, 5, 6)]
    for asked in (*bad, question[:-1], [*question, b""], [], [b"1.0"]):
        assert zap._answer(asked, allowed)[2] == b"400"


def test_an_allow_list_that_cannot_be_read_stops_the_run_before_it_begins(keys: Keys) -> None:
    missing = keys.curve.model_copy(update={"clients": keys.folder / "none"})
    with pytest.raises(ConfigError, match="no such folder"), publishing(missing):
        pass
    (keys.allowed / "broken.key").write_text("no key")
    with pytest.raises(ConfigError, match=r"broken\.key: holds no CURVE key"):
        zap.AllowList(keys.allowed)


# What may be bound


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0"])
def test_beyond_this_host_only_with_keys_or_when_told_so(keys: Keys, endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"results: endpoint: got .* expected an address of"):
        check_local("results", endpoint)
    check_local("results", endpoint, Reach(curve=keys.curve))
    check_local("results", endpoint, Reach(insecure_bind=True))
    fixed = endpoint.replace(":0", ":5556")
    assert is_open(fixed, Reach(insecure_bind=True))
    assert not is_open(fixed, Reach(curve=keys.curve))
    assert not is_open("tcp://127.0.0.1:5556", Reach(insecure_bind=True))


@pytest.mark.parametrize("endpoint", ["udp://1.2.3.4:5", "inproc://x", "tcp://x", "pgm://x:1", ""])
def test_no_key_makes_an_address_of_what_is_none(keys: Keys, endpoint: str) -> None:
    with pytest.raises(ConfigError, match="expected an address"):
        check_local("results", endpoint, Reach(curve=keys.curve, insecure_bind=True))


def test_a_path_is_in_a_folder_that_nobody_else_may_enter(tmp_path: Path, keys: Keys) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    for endpoint in (f"ipc://{shared}/results", "ipc://@abstract"):
        with pytest.raises(ConfigError, match="others may connect"):
            check_local("results", endpoint)
        check_local("results", endpoint, Reach(curve=keys.curve))
        check_local("results", endpoint, Reach(insecure_bind=True))
    shared.chmod(0o700)
    check_local("results", f"ipc://{shared}/results")


def test_a_folder_that_is_missing_is_made_for_its_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with (
            zmq.Context() as context,
            bound(context, zmq.PUB, "results", f"ipc://{tmp_path}/new/results", {}),
        ):
            assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_only_one_door_a_context(keys: Keys) -> None:
    """A second one would not be asked."""
    context = zmq.Context()
    with context.socket(zmq.PUB) as one, context.socket(zmq.PUB) as two:
        guard(context, one, keys.curve)
        with pytest.raises(zmq.ZMQError, match="in use"):
            guard(context, two, keys.curve)
    context.term()


# From the shell


def test_the_command_makes_keys_and_never_the_same_twice(
    call_main: Callable[..., Outcome], tmp_path: Path
) -> None:
    made = call_main("keys", "new", "cam1", "--folder", str(tmp_path / "k"))
    assert made.code == 0
    assert str(tmp_path / "k" / "cam1.key_secret") in made.stdout
    again = call_main("keys", "new", "cam1", "--folder", str(tmp_path / "k"))
    assert again.code == 78
    assert "is there already" in again.stderr


def test_both_keys_or_none(call_main: Callable[..., Outcome], keys: Keys) -> None:
    told = call_main("subscribe", ANY_PORT, "--key", str(keys.folder / "stranger.key_secret"))
    assert told.code == 78
    assert "--server-key is missing" in told.stderr


def test_the_command_subscribes_with_keys(call_main: Callable[..., Outcome], keys: Keys) -> None:
    own = ("--key", str(keys.allowed / "friend.key_secret"))
    server = ("--server-key", str(keys.folder / "run.key"))
    config = ZmqPublisherConfig(endpoint=ANY_PORT, curve=keys.curve, hwm=100)
    publisher = ZmqPublisher(config, "cam1", ("vessel",))
    with running(publisher, paced(publisher, range(5))):
        told = call_main("subscribe", publisher.endpoint, *own, *server, "--lines")
    assert told.code == 0, told.stderr
    assert told.stdout.splitlines()[-1] == "5 packets, 0 lost"


def test_the_command_hears_nothing_without_an_allowed_key(
    call_main: Callable[..., Outcome], keys: Keys
) -> None:
    own = ("--key", str(keys.folder / "stranger.key_secret"))
    server = ("--server-key", str(keys.folder / "run.key"))
    with publishing(keys.curve) as publisher:
        told = call_main("subscribe", publisher.endpoint, *own, *server, "--timeout", "0.5")
        wait_until(lambda: publisher.subscribers == 0, publisher.poll)
    assert told.code == 1
    assert "no publisher answered" in told.stderr
