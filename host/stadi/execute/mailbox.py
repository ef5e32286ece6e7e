"""What devices send each other: checked messages, waited for with a deadline."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from safetensors.torch import save

from ...errors import ExchangeError, FileRefusedError
from ...storage.packing import load_tensors

ATTEMPTS = 3
"""Times that a damaged message is asked for again."""

Tensors = Mapping[str, torch.Tensor]


class Key(NamedTuple):
    """Names a message.

    Attributes
    ----------
    epoch : int
        Plan under which it was sent: what was sent under another one is not mistaken for it.
    sender : str
        Device.
    step : int
        Step of the sender's evaluation.
    site : str
        Place in the model.
    """

    epoch: int
    sender: str
    step: int
    site: str

    def __str__(self) -> str:
        return f"{self.site} of {self.sender} at step {self.step}"


@dataclass(frozen=True)
class Message:
    """Tensors on their way.

    Attributes
    ----------
    key : Key
        Its name.
    data : bytes
        safetensors.
    checksum : int
        CRC-32 of `data` when it was sent.
    """

    key: Key
    data: bytes
    checksum: int

    @classmethod
    def of(cls, key: Key, tensors: Tensors) -> Message:
        """Pack tensors; those of other messages may change afterwards."""
        data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        return cls(key, data, zlib.crc32(data))

    @property
    def damaged(self) -> bool:
        """Whether the bytes are not those that were sent."""
        return zlib.crc32(self.data) != self.checksum

    def tensors(self) -> dict[str, torch.Tensor]:
        """Unpack; raises `FileRefusedError`."""
        return load_tensors(self.data, str(self.key))


@dataclass(frozen=True)
class Again:
    """Asks for a message that came damaged.

    Attributes
    ----------
    key : Key
        Its name.
    receiver : str
        Who asks.
    """

    key: Key
    receiver: str


Envelope = Message | Again
Transport = Callable[[str, Envelope], None]
"""``transport(receiver, envelope)`` hands an envelope over and does not wait for its arrival."""


class Interrupted(Exception):  # noqa: N818  (no error: the coordinator wants something else)
    """The interval is given up."""


class Mailbox:
    """Correspondence of a device.

    Parameters
    ----------
    name : str
        The device's.
    transport : callable
        Carries envelopes to others.
    patience_s : float
        Wall-clock seconds after which a device that sends nothing, but should, is given up.

    Attributes
    ----------
    damaged : int
        Messages that came damaged.
    sent_bytes : int
        Bytes of the tensors of all messages, without those that were asked for again.
    """

    def __init__(self, name: str, transport: Transport, patience_s: float) -> None:
        self.name, self._transport, self.patience_s = name, transport, patience_s
        self._arrived: dict[Key, Message] = {}
        self._sent: dict[Key, Message] = {}
        self._changed = threading.Condition()
        self._epoch = self._interrupted = -1
        # When each device last sent anything, and whose connections are broken, and how.
        self._heard: dict[str, float] = {}
        self._broken: dict[str, str] = {}
        self.damaged = self.sent_bytes = 0

    def begin(self, epoch: int) -> None:
        """Another interval begins: nobody will ask for what was sent before, and earlier epochs are over."""
        with self._changed:
            self._epoch = epoch
            self._sent.clear()
            self._arrived = {key: message for key, message in self._arrived.items() if key.epoch >= epoch}

    def forget(self, before: int) -> None:
        """Nobody will ask for what was sent in steps before this one."""
        with self._changed:
            self._sent = {key: message for key, message in self._sent.items() if key.step >= before}

    def interrupt(self, epoch: int) -> None:
        """Let whoever waits give up, in this epoch and all before, also if its interval has not begun yet."""
        with self._changed:
            self._interrupted = max(self._interrupted, epoch)
            self._changed.notify_all()

    def cut(self, sender: str, reason: str) -> None:
        """Nothing more will come from a device: waiting for it fails at once."""
        with self._changed:
            self._broken[sender] = reason
            self._changed.notify_all()

    def check(self) -> None:
        """Raise `Interrupted` if the interval is given up."""
        if self._epoch <= self._interrupted:
            raise Interrupted

    def send(self, receivers: list[str], key: Key, tensors: Tensors) -> None:
        """Send a message to some devices."""
        if not receivers:
            return
        message = Message.of(key, tensors)
        with self._changed:
            self._sent[key] = message
        for receiver in receivers:
            self.sent_bytes += sum(tensor.nbytes for tensor in tensors.values())
            self._transport(receiver, message)

    def deliver(self, envelope: Envelope) -> None:
        """Take in what has come; called by transports, in threads of theirs."""
        if isinstance(envelope, Again):
            with self._changed:
                message = self._sent.get(envelope.key)
            if message is not None:
                self._transport(envelope.receiver, message)
            return
        with self._changed:
            self._heard[envelope.key.sender] = time.monotonic()
            if envelope.key.epoch >= self._epoch:
                self._arrived[envelope.key] = envelope
                self._changed.notify_all()

    def take(self, key: Key) -> dict[str, torch.Tensor]:
        """Wait for a message and use it up.

        Raises
        ------
        Interrupted
            The interval is given up.
        ExchangeError
            It does not come, comes damaged again and again, or is something else.
        """
        for attempt in range(ATTEMPTS + 1):
            message = self._wait(key)
            if not message.damaged:
                try:
                    return message.tensors()
                except FileRefusedError as error:
                    raise ExchangeError(f"{key.sender} sent {key}, which {error.reason}", key.sender) from error
            self.damaged += 1
            if attempt < ATTEMPTS:
                self._transport(key.sender, Again(key, self.name))
        raise ExchangeError(
            f"{self.name} got {key} damaged {ATTEMPTS + 1} times; check the link from {key.sender}", key.sender
        )

    def _wait(self, key: Key) -> Message:
        began = time.monotonic()
        with self._changed:
            while key not in self._arrived:
                self.check()
                if key.sender in self._broken:
                    raise ExchangeError(f"{key.sender} {self._broken[key.sender]}", key.sender)
                # Whoever sends other things meanwhile is slow, but at work.
                left = max(began, self._heard.get(key.sender, began)) + self.patience_s - time.monotonic()
                if left <= 0:
                    raise ExchangeError(
                        f"{self.name} waited {self.patience_s:g} s for {key}; {key.sender} hangs or is very slow: "
                        "raise patience_s if it is only slow",
                        key.sender,
                    )
                self._changed.wait(left)
            return self._arrived.pop(key)
