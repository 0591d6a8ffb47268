"""Phones for tests: an adb server of their own, and stand-ins attached to it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from mcc.runtime.android.phone import phone as used_phone
from tests.runtime.stand_in.adb_server import AdbServer, Manners
from tests.runtime.stand_in.phone import PROGRAMS, Phone, Trouble

Plug = Callable[..., AdbServer]
STATE_LIMIT_S = 60.0  # until adb lists a phone that was attached


def adb(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the adb client."""
    return subprocess.run(["adb", *words], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="session")
def adb_port(tmp_path_factory: pytest.TempPathFactory) -> Generator[int]:
    """Port of an adb server that knows no phone but those of the tests, and keeps its files apart."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    assert not missing, f"the set-up of the tests installs {', '.join(missing)}"
    folder = tmp_path_factory.mktemp("adb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    environment = {
        **os.environ,
        "ANDROID_ADB_SERVER_PORT": str(port),
        "HOME": str(folder),
        "TMPDIR": str(folder),
    }
    subprocess.run(["adb", "start-server"], env=environment, capture_output=True, timeout=120, check=True)
    yield port
    subprocess.run(["adb", "kill-server"], env=environment, capture_output=True, timeout=120, check=True)


def plugging(folder: Path, environment: pytest.MonkeyPatch, port: int) -> Generator[Plug]:
    """What `plug` and `one_phone` share: attaches stand-ins, and detaches them at the end."""
    environment.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    servers: list[AdbServer] = []

    def attach(manners: Manners = "open", state: str = "device", **about: object) -> AdbServer:
        server = AdbServer(Phone(folder / f"phone{len(servers)}", **about), manners)  # type: ignore[arg-type]
        servers.append(server)
        # Not waited for: the client takes ten seconds to give up a phone that never speaks.
        connecting = subprocess.Popen(
            ["adb", "connect", server.serial], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(server.serial, state)
        connecting.kill()
        connecting.wait()
        return server

    yield attach
    for server in servers:
        used_phone(
            server.serial
        ).leave()  # now, and not when Python ends, which would start an adb server again
        server.close()
        adb("disconnect", server.serial)


def wait_for(serial: str, state: str) -> None:
    deadline = time.monotonic() + STATE_LIMIT_S
    while f"{serial}\t{state}" not in (listed := adb("devices").stdout):
        assert time.monotonic() < deadline, f"{serial} is not {state}: {listed}"
        time.sleep(0.05)


@pytest.fixture
def plug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adb_port: int) -> Generator[Plug]:
    """`plug(manners, state, ...)` attaches a phone and waits until adb lists it in that state."""
    yield from plugging(tmp_path, monkeypatch, adb_port)


@pytest.fixture(scope="module")
def one_phone(tmp_path_factory: pytest.TempPathFactory, adb_port: int) -> Generator[AdbServer]:
    """A phone for all tests of a file: programs are pushed to it once."""
    with pytest.MonkeyPatch.context() as environment:
        yield from (attach() for attach in plugging(tmp_path_factory.mktemp("phone"), environment, adb_port))


__all__ = ["Plug", "Trouble", "adb", "adb_port", "one_phone", "plug", "wait_for"]
