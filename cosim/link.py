"""Messages between host and simulator: JSON objects, each after its length, over a Unix socket."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from typing import Any

_LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 1 << 20
"""Longer messages are nonsense: bulk data goes through memory."""


class LinkClosed(Exception):  # noqa: N818
    """The other side has closed the socket or is gone."""


class LinkTimeout(Exception):  # noqa: N818
    """No complete message came before the deadline."""


class LinkGarbled(Exception):  # noqa: N818
    """What came is not a message."""


class SimulatorLink:
    """One end of the connection.

    Parameters
    ----------
    connection : socket.socket
        A connected Unix stream socket; closed by `close`.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, message: dict[str, Any]) -> None:
        """Send one message.

        Raises
        ------
        LinkClosed
            The other side is gone.
        """
        data = json.dumps(message).encode()
        try:
            self._socket.sendall(_LENGTH.pack(len(data)) + data)
        except OSError as error:
            raise LinkClosed(str(error)) from error

    def receive(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait for one message.

        Parameters
        ----------
        timeout_s : float, optional
            Longest wait; None waits for ever.

        Raises
        ------
        LinkClosed, LinkTimeout, LinkGarbled
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, end))
        if length > MAX_MESSAGE_BYTES:
            raise LinkGarbled(f"a message of {length} bytes was announced")
        data = self._read(length, end)
        try:
            message = json.loads(data)
        except ValueError as error:
            raise LinkGarbled(f"not JSON: {data[:80]!r}") from error
        if not isinstance(message, dict):
            raise LinkGarbled(f"not a JSON object: {data[:80]!r}")
        return message

    def _read(self, count: int, end: float | None) -> bytes:
        data = b""
        while len(data) < count:
            if end is not None:
                left = end - time.monotonic()
                if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                    raise LinkTimeout
            try:
                piece = self._socket.recv(count - len(data))
            except OSError as error:
                raise LinkClosed(str(error)) from error
            if not piece:
                raise LinkClosed("end of stream")
            data += piece
        return data

    def close(self) -> None:
        """Close this end; the other side sees the end of the stream, whoever else has this end open."""
        # It may be closed already, by either side.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def abandon(self) -> None:
        """Close this process's copy of this end; the stream goes on if another process has one."""
        self._socket.close()
