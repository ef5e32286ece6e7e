"""Sockets between processes: framed and checked, and written to by a thread, so that whoever sends does not wait.

The end that receives decides what may come: from other devices envelopes (`PeerWire`), from the coordinator and to it
commands and answers (`HomeWire`); both are data. A pickle is read once, by a worker, of the coordinator that started
it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import struct
import threading
import zlib
from collections.abc import Collection
from typing import Any, NamedTuple

from ...errors import FileRefusedError, FleetError
from ...storage.decoding import parse
from ...storage.packing import from_bytes, to_bytes
from .mailbox import Again, Envelope, Key, Message
from .worker import WorkerConfig
from .worker_configs import PackedWorkerConfig, pack_worker_config, unpack_worker_config

_HEADER = struct.Struct("<4sBIQIII")
"""Magic, kind, bytes of the label, bytes of the content, CRC-32 of both and of what stands before it."""

_MAGIC = b"BRWN"
_OBJECT, _MESSAGE, _AGAIN, _SKELETON, _WEIGHTS = range(5)

LABEL_BYTES = 1 << 12
"""Longest name of a frame."""

FRAME_BYTES = 1 << 32
"""Longest content of a frame; of a group norm of SD 1.5, the largest there is, 512 x 512 pixels are 360 MB."""

WEIGHTS_BYTES = 1 << 38
"""Longest content of the frames with a model."""

_PIECE_BYTES = 1 << 24
"""Memory is taken as it is filled, so that a header alone cannot ask for much."""


class TornError(ConnectionError):
    """What came over a socket makes no sense from some byte on; nothing more can be read from it."""


class FrameLimitError(TornError):
    """A frame is longer than is read."""


class _Frame(NamedTuple):
    kind: int
    label: bytes
    content: bytes
    checksum: int


class _Wire:
    """One end of a socket.

    Parameters
    ----------
    end : socket.socket
        End of a stream; closed by `close`.
    name : str
        Name of the other end.
    """

    def __init__(self, end: socket.socket, name: str) -> None:
        self._end, self.name = end, name
        self._outgoing: queue.SimpleQueue[_Frame | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name=f"wire to {name}", daemon=True)
        self._writer.start()

    def _put(self, frame: _Frame, limit: int = FRAME_BYTES) -> None:
        """Hand over a frame; nothing happens if the other end is gone."""
        if len(frame.content) > limit or len(frame.label) > LABEL_BYTES:
            raise FleetError(
                f"a message to {self.name} has {len(frame.content)} bytes and a name of {len(frame.label)}; at most "
                f"{limit} and {LABEL_BYTES} are sent: draw fewer images at once"
            )
        # Whoever waits for an answer has a deadline, and the reader of this wire notices.
        if self._writer.is_alive():
            self._outgoing.put(frame)

    def _write(self) -> None:
        while (frame := self._outgoing.get()) is not None:
            fields = (_MAGIC, frame.kind, len(frame.label), len(frame.content), zlib.crc32(frame.label), frame.checksum)
            # The last field is the sum of all others.
            start = _HEADER.pack(*fields, 0)[:-4]
            try:
                for part in (start + struct.pack("<I", zlib.crc32(start)), frame.label, frame.content):
                    self._end.sendall(part)
            except OSError:
                return

    def _receive(self, kinds: Collection[int], limit: int = FRAME_BYTES) -> _Frame:
        """Wait for a frame of one of some kinds."""
        header = self._read(_HEADER.size)
        magic, kind, label_bytes, content_bytes, label_sum, content_sum, own_sum = _HEADER.unpack(header)
        if magic != _MAGIC or own_sum != zlib.crc32(header[: _HEADER.size - 4]):
            raise TornError("sent bytes that are no message")
        if kind not in kinds:
            raise TornError(f"sent a frame of kind {kind}, which is not read here")
        for what, count, most in (("a name", label_bytes, LABEL_BYTES), ("a frame", content_bytes, limit)):
            if count > most:
                raise FrameLimitError(f"announced {what} of {count} bytes; at most {most} are read")
        label, content = bytes(self._read(label_bytes)), bytes(self._read(content_bytes))
        if label_sum != zlib.crc32(label):
            raise TornError("sent a message with a damaged name")
        return _Frame(kind, label, content, content_sum)

    def _read(self, count: int) -> bytearray:
        found = bytearray()
        while len(found) < count:
            piece = bytearray(min(_PIECE_BYTES, count - len(found)))
            left = memoryview(piece)
            while left:
                try:
                    read = self._end.recv_into(left)
                except OSError as error:
                    raise ConnectionError("closed its connection") from error
                if not read:
                    raise ConnectionError("closed its connection")
                left = left[read:]
            found += piece
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


class PeerWire(_Wire):
    """Between two devices: envelopes.

    A message whose content is damaged is handed on as it came: its receiver asks for it again.
    """

    def send(self, envelope: Envelope) -> None:
        """Hand over an envelope; nothing happens if the other end is gone.

        Raises
        ------
        FleetError
            It is longer than wires carry.
        """
        if isinstance(envelope, Again):
            self._put(_Frame(_AGAIN, _label(envelope.key, envelope.receiver), b"", 0))
        else:
            self._put(_Frame(_MESSAGE, _label(envelope.key, ""), envelope.data, envelope.checksum))

    def receive(self) -> Envelope:
        """Wait for the next envelope.

        Raises
        ------
        TornError
            What comes is no envelope, or one in somebody else's name; or anything but its content is damaged.
        ConnectionError
            The other end is gone.
        """
        frame = self._receive((_MESSAGE, _AGAIN))
        try:
            names = parse(frame.label, "its name")
        except FileRefusedError as error:
            raise TornError(f"sent a letter without a name: {error}") from error
        if not isinstance(names, list) or [type(each) for each in names] != [int, str, int, str, str]:
            raise TornError("sent a letter without a name")
        *key, receiver = names
        envelope: Envelope = Message(Key(*key), frame.content, frame.checksum)
        if frame.kind == _AGAIN:
            envelope = Again(Key(*key), receiver)
        author = receiver if isinstance(envelope, Again) else envelope.key.sender
        if author != self.name:
            raise TornError(f"sent a letter in the name of {author!r}")
        return envelope


class HomeWire(_Wire):
    """Between a worker and its coordinator: numbers with commands or answers, as data."""

    def send(self, item: tuple[int, Any]) -> None:
        """Hand over a number and what belongs to it; raises as `PeerWire.send`, and as `packing.pack`."""
        content = to_bytes(item)
        self._put(_Frame(_OBJECT, b"", content, zlib.crc32(content)))

    def receive(self) -> tuple[int, Any]:
        """Wait for the next one.

        Raises
        ------
        TornError
            It is damaged, or something else.
        ConnectionError
            The other end is gone.
        """
        try:
            item = from_bytes(self._content(_OBJECT), "its command or answer")
        except FileRefusedError as error:
            raise TornError(f"sent what makes no sense: {error}") from error
        if not (isinstance(item, tuple) and len(item) == 2 and type(item[0]) is int):
            raise TornError("sent neither a command nor an answer")
        return item

    def send_worker_config(self, worker_config: WorkerConfig) -> None:
        """Hand over what the worker is made of, before anything else; to a process that this one has started."""
        for kind, content in zip((_SKELETON, _WEIGHTS), pack_worker_config(worker_config), strict=True):
            self._put(_Frame(kind, b"", content, zlib.crc32(content)), WEIGHTS_BYTES)

    def receive_worker_config(self) -> WorkerConfig:
        """Wait for what `send_worker_config` sends, as the process that was started; raises as `receive`."""
        packed: PackedWorkerConfig = (self._content(_SKELETON, WEIGHTS_BYTES), self._content(_WEIGHTS, WEIGHTS_BYTES))
        return unpack_worker_config(packed)

    def _content(self, kind: int, limit: int = FRAME_BYTES) -> bytes:
        frame = self._receive((kind,), limit)
        if frame.checksum != zlib.crc32(frame.content):
            raise TornError("sent a damaged command or answer")
        return frame.content


def _label(key: Key, receiver: str) -> bytes:
    return json.dumps([*key, receiver]).encode()
