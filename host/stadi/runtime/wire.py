"""A socket between processes: framed and checked, and written to by a thread, so that whoever sends does not wait."""

from __future__ import annotations

import contextlib
import json
import pickle
import queue
import socket
import struct
import threading
import zlib
from typing import Any

from .post import Again, Key, Letter, Message

_HEADER = struct.Struct("<4sBIQIII")
"""Magic, kind, bytes of the label, bytes of the content, CRC-32 of both and of what stands before it."""

_MAGIC = b"BRWN"
_OBJECT, _MESSAGE, _AGAIN = range(3)


class TornError(ConnectionError):
    """What came over a socket makes no sense from some byte on; nothing more can be read from it."""


class Wire:
    """One end of a socket.

    Messages of devices are read as data, never unpickled, and one whose content is damaged is handed on as it came: its
    receiver asks for it again. Everything else comes from Brownout's own processes and is pickled.

    Parameters
    ----------
    end : socket.socket
        Of a stream; closed by `close`.
    name : str
        Of the thread.
    """

    def __init__(self, end: socket.socket, name: str) -> None:
        self._end = end
        self._outgoing: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name=f"wire to {name}", daemon=True)
        self._writer.start()

    def send(self, item: Any) -> None:
        """Hand over a letter or another object; nothing happens if the other end is gone."""
        # Whoever waits for an answer has a deadline, and the reader of this wire notices.
        if self._writer.is_alive():
            self._outgoing.put(item)

    def _write(self) -> None:
        while (item := self._outgoing.get()) is not None:
            try:
                for part in _packed(item):
                    self._end.sendall(part)
            except OSError:
                return

    def receive(self) -> Any:
        """Wait for what comes next.

        Raises
        ------
        TornError
            The header, or anything but the content of a message, is damaged.
        ConnectionError
            The other end is gone.
        """
        header = self._read(_HEADER.size)
        magic, kind, label_bytes, content_bytes, label_sum, content_sum, own_sum = _HEADER.unpack(header)
        if magic != _MAGIC or own_sum != zlib.crc32(header[: _HEADER.size - 4]):
            raise TornError("sent bytes that are no message")
        label, content = self._read(label_bytes), self._read(content_bytes)
        if label_sum != zlib.crc32(label):
            raise TornError("sent a message with a damaged name")
        if kind == _OBJECT:
            if content_sum != zlib.crc32(content):
                raise TornError("sent a damaged command or answer")
            return pickle.loads(content)
        *key, receiver = json.loads(label)
        return Again(Key(*key), receiver) if kind == _AGAIN else Message(Key(*key), bytes(content), content_sum)

    def _read(self, count: int) -> bytearray:
        found = bytearray(count)
        left = memoryview(found)
        while left:
            try:
                read = self._end.recv_into(left)
            except OSError as error:
                raise ConnectionError("closed its connection") from error
            if not read:
                raise ConnectionError("closed its connection")
            left = left[read:]
        return found

    def shut(self) -> None:
        """Let reader and writer stop; what has not been written yet is dropped."""
        # The other end may have been faster.
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._outgoing.put(None)

    def close(self) -> None:
        """Free the socket; nobody may be reading any more."""
        self.shut()
        self._writer.join()
        self._end.close()


def _packed(item: Letter | Any) -> tuple[bytes, bytes, bytes]:
    if isinstance(item, Message):
        return _frame(_MESSAGE, [*item.key, ""], item.data, item.checksum)
    if isinstance(item, Again):
        return _frame(_AGAIN, [*item.key, item.receiver], b"", 0)
    content = pickle.dumps(item)
    return _frame(_OBJECT, [], content, zlib.crc32(content))


def _frame(kind: int, names: list[Any], content: bytes, checksum: int) -> tuple[bytes, bytes, bytes]:
    label = json.dumps(names).encode()
    # The last field is the sum of all others.
    fields = (_MAGIC, kind, len(label), len(content), zlib.crc32(label), checksum)
    start = _HEADER.pack(*fields, 0)[:-4]
    return start + struct.pack("<I", zlib.crc32(start)), label, content
