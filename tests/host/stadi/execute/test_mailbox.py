"""What devices send each other, and sockets that carry it."""

from __future__ import annotations

import math
import pickle
import resource
import socket
import struct
import threading
import time
import zlib

import pytest
import safetensors.torch
import torch

from brownout.host.errors import ExchangeError, FleetError
from brownout.host.stadi.execute import wire as wire_module
from brownout.host.stadi.execute.executor import Done, Failed
from brownout.host.stadi.execute.mailbox import ATTEMPTS, Again, Interrupted, Key, Mailbox, Message
from brownout.host.stadi.execute.wire import (
    _HEADER,
    _MAGIC,
    FRAME_BYTES,
    FrameLimitError,
    HomeWire,
    PeerWire,
    TornError,
)
from brownout.host.stadi.execute.worker_configs import pack_worker_config, unpack_worker_config
from brownout.host.storage.packing import to_bytes


class Office:
    """Posts of devices that are connected; what goes wrong on the way is `spoil`."""

    def __init__(self, *names, patience_s=20.0):
        self.carried = []
        self.spoil = lambda envelope: envelope
        self.posts = {name: Mailbox(name, self.carry, patience_s) for name in names}
        for mailbox in self.posts.values():
            mailbox.begin(0)

    def carry(self, receiver, envelope):
        self.carried.append((receiver, envelope))
        envelope = self.spoil(envelope)
        if envelope is not None:
            self.posts[receiver].deliver(envelope)


def tensors(value):
    return {"key": torch.full((2, 3), value, dtype=torch.int8)}


def flipped(envelope):
    if isinstance(envelope, Again):
        return envelope
    data = bytearray(envelope.data)
    data[-1] ^= 4
    return Message(envelope.key, bytes(data), envelope.checksum)


def later(action, seconds=0.05):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def test_messages_are_found_by_name_in_whatever_order_they_come():
    office = Office("a", "b")
    a, b = office.posts.values()
    for step in (2, 0, 1):
        a.send(["b"], Key(0, "a", step, "site"), tensors(step))
    for step in range(3):
        assert b.take(Key(0, "a", step, "site"))["key"].eq(step).all()
    assert (a.sent_bytes, b.damaged) == (6 * len(office.carried), 0)


def test_a_message_can_be_taken_once():
    office = Office("a", "b", patience_s=0.05)
    office.posts["a"].send(["b"], Key(0, "a", 0, "x"), tensors(1))
    office.posts["b"].take(Key(0, "a", 0, "x"))
    with pytest.raises(ExchangeError, match=r"^b waited 0\.05 s for x of a at step 0; a hangs or is very slow: "):
        office.posts["b"].take(Key(0, "a", 0, "x"))


def test_a_message_of_the_next_epoch_may_come_early_and_one_of_the_last_epoch_is_not_mistaken_for_it():
    office = Office("a", "b", patience_s=0.05)
    a, b = office.posts.values()
    a.send(["b"], Key(0, "a", 0, "x"), tensors(1))
    a.send(["b"], Key(1, "a", 0, "x"), tensors(2))
    b.begin(1)
    assert b.take(Key(1, "a", 0, "x"))["key"].eq(2).all()
    a.send(["b"], Key(0, "a", 0, "y"), tensors(3))
    b.begin(0)
    with pytest.raises(ExchangeError):
        b.take(Key(0, "a", 0, "y"))


@pytest.mark.parametrize("spoilt", [1, ATTEMPTS])
def test_a_damaged_message_is_asked_for_again(spoilt):
    office = Office("a", "b")
    left = [flipped] * spoilt
    office.spoil = lambda envelope: left.pop()(envelope) if left and isinstance(envelope, Message) else envelope
    a, b = office.posts.values()
    a.send(["b"], Key(0, "a", 0, "x"), tensors(5))
    assert b.take(Key(0, "a", 0, "x"))["key"].eq(5).all()
    assert b.damaged == spoilt
    assert [type(envelope) for _, envelope in office.carried] == [Message, *[Again, Message] * spoilt]
    assert a.sent_bytes == 6


def test_a_message_that_always_comes_damaged_is_an_error_that_names_the_sender():
    office = Office("a", "b")
    office.spoil = flipped
    office.posts["a"].send(["b"], Key(0, "a", 3, "x"), tensors(5))
    with pytest.raises(
        ExchangeError, match=r"^b got x of a at step 3 damaged 4 times; check the link from a$"
    ) as error:
        office.posts["b"].take(Key(0, "a", 3, "x"))
    assert error.value.sender == "a"


def test_what_nobody_will_ask_for_is_forgotten():
    office = Office("a", "b")
    a = office.posts["a"]
    for step in range(3):
        a.send(["b"], Key(0, "a", step, "x"), tensors(step))
    a.forget(before=2)
    office.carried.clear()
    for step in range(3):
        a.deliver(Again(Key(0, "a", step, "x"), "b"))
    assert [envelope.key.step for _, envelope in office.carried] == [2]
    a.begin(0)
    a.deliver(Again(Key(0, "a", 2, "x"), "b"))
    assert len(office.carried) == 1


def test_an_interruption_ends_waiting_also_if_it_comes_before_the_interval_begins():
    office = Office("b")
    b = office.posts["b"]
    timer = later(lambda: b.interrupt(0))
    with pytest.raises(Interrupted):
        b.take(Key(0, "a", 0, "x"))
    timer.join()
    b.interrupt(1)
    b.begin(1)
    with pytest.raises(Interrupted):
        b.check()
    b.begin(2)
    b.check()


def test_a_sender_that_is_slow_is_waited_for_while_it_sends_other_things():
    office = Office("a", "b", patience_s=0.5)
    a, b = office.posts.values()

    def work():
        for step in range(5):
            time.sleep(0.2)
            a.send(["b"], Key(0, "a", step, "x"), tensors(step))

    thread = threading.Thread(target=work)
    thread.start()
    assert b.take(Key(0, "a", 4, "x"))["key"].eq(4).all()
    thread.join()


def test_who_waits_for_a_device_whose_connection_breaks_is_told_at_once_and_what_came_before_counts():
    office = Office("a", "b")
    a, b = office.posts.values()
    a.send(["b"], Key(0, "a", 0, "x"), tensors(1))
    timer = later(lambda: b.cut("a", "closed its connection"))
    with pytest.raises(ExchangeError, match=r"^a closed its connection$"):
        b.take(Key(0, "a", 1, "x"))
    timer.join()
    assert b.take(Key(0, "a", 0, "x"))["key"].eq(1).all()


@pytest.fixture
def pair():
    """A wire to device a, and the socket at a's end."""
    here, there = socket.socketpair()
    wire = PeerWire(here, "a")
    yield wire, there
    there.close()
    wire.close()


@pytest.fixture
def homes():
    ends = [HomeWire(end, "test") for end in socket.socketpair()]
    yield ends
    for wire in ends:
        wire.close()


def test_wires_carry_envelopes_in_order():
    a, b = (PeerWire(end, name) for end, name in zip(socket.socketpair(), ("b", "gerät"), strict=True))
    mine = Message.of(Key(7, "gerät", 3, "blocks.0"), {"big": torch.zeros(1 << 20)})
    theirs = Message.of(Key(7, "b", 3, "blocks.0"), tensors(2))
    a.send(mine)
    a.send(Again(theirs.key, "gerät"))
    b.send(theirs)
    # Each end is called after the device at the other one.
    assert [b.receive(), b.receive(), a.receive()] == [mine, Again(theirs.key, "gerät"), theirs]
    a.close()
    b.close()


def test_home_wires_carry_commands_and_answers_as_data(homes):
    sent = [(1, None), (2, Done({"x": (torch.arange(3), 1.5, None, math.inf)})), (3, Failed("why", culprit="b"))]
    for item in sent:
        homes[0].send(item)
    got = [homes[1].receive() for _ in sent]
    assert got[0] == sent[0]
    assert got[2] == sent[2]
    found = got[1][1].value["x"]
    assert torch.equal(found[0], torch.arange(3))
    assert found[1:] == (1.5, None, math.inf)
    with pytest.raises(TypeError, match="cannot hold a set"):
        homes[0].send((4, {1}))


def test_a_worker_config_comes_whole_with_tensors_apart():
    layer = torch.nn.Linear(64, 64).requires_grad_(False)
    layer.tied = layer.weight
    layer.register_buffer("numbers", torch.arange(3).half())
    skeleton, weights = pack_worker_config(layer)
    assert len(skeleton) < 2000
    # Weights, once, biases and halves.
    assert len(safetensors.torch.load(weights)) == 3
    got = unpack_worker_config((skeleton, weights))
    assert got.tied is got.weight
    assert isinstance(got.weight, torch.nn.Parameter)
    assert not got.weight.requires_grad
    assert torch.equal(got.weight, layer.weight)
    assert torch.equal(got.numbers, layer.numbers)


def bytes_of(send):
    """What a wire writes when `send` uses it."""
    here, there = socket.socketpair()
    wire = send(here)
    wire._outgoing.put(None)
    wire._writer.join()
    there.setblocking(False)
    data = there.recv(1 << 16)
    there.close()
    wire.close()
    return data


MESSAGE = Message.of(Key(0, "a", 0, "x"), tensors(2))


def message(end):
    wire = PeerWire(end, "test")
    wire.send(MESSAGE)
    return wire


def command(end):
    wire = HomeWire(end, "test")
    wire.send((3, Done("well")))
    return wire


@pytest.mark.parametrize("send", [message, command])
def test_every_flipped_byte_is_noticed(send):
    data = bytes_of(send)
    for place in range(len(data)):
        here, there = socket.socketpair()
        wire = PeerWire(here, "a") if send is message else HomeWire(here, "a")
        there.sendall(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        there.close()
        try:
            got = wire.receive()
        except TornError:
            continue
        finally:
            wire.close()
        # Only what devices exchange is handed on, to be asked for again.
        assert isinstance(got, Message)
        assert got.key == MESSAGE.key
        assert got.damaged


def frame(kind, label, content, *, count=None):
    """A frame whose sums are right, whatever is in it."""
    fields = (_MAGIC, kind, len(label), len(content) if count is None else count, zlib.crc32(label))
    start = _HEADER.pack(*fields, zlib.crc32(content), 0)[:-4]
    return start + struct.pack("<I", zlib.crc32(start)) + label + content


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code of the peer ran in this process",))


@pytest.mark.parametrize("kind", [0, 3, 4, 5, 255])
def test_devices_cannot_send_each_other_anything_but_envelopes(kind, pair):
    """Neither commands nor worker configurations, whose skeleton is a pickle; it is refused before it is read."""
    wire, there = pair
    there.sendall(frame(kind, b"", pickle.dumps(Evil())))
    with pytest.raises(TornError, match=rf"^sent a frame of kind {kind}, which is not read here$"):
        wire.receive()


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4])
def test_coordinators_unpickle_nothing(kind, homes):
    evil = pickle.dumps(Evil())
    homes[0]._end.sendall(frame(kind, b"[]", evil))
    with pytest.raises(TornError, match=r"is not read here|sent what makes no sense"):
        homes[1].receive()


@pytest.mark.parametrize("item", [[1, Done(None)], (1,), ("1", Done(None)), Done(None)])
def test_answers_have_numbers(item, homes):
    homes[0]._end.sendall(frame(0, b"", to_bytes(item)))
    with pytest.raises(TornError, match=r"^sent neither a command nor an answer$"):
        homes[1].receive()


@pytest.mark.parametrize("count", [FRAME_BYTES + 1, 1 << 44, (1 << 64) - 1])
def test_frames_have_a_limit_that_is_checked_before_memory_is_taken(count, pair):
    wire, there = pair
    there.sendall(frame(1, b"", b"", count=count))
    with pytest.raises(FrameLimitError, match=rf"^announced a frame of {count} bytes; at most {FRAME_BYTES} are read$"):
        wire.receive()


def test_a_header_alone_asks_for_little_memory(pair):
    wire, there = pair
    there.sendall(frame(1, b"", b"few", count=FRAME_BYTES))
    there.close()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConnectionError, match=r"^closed its connection$"):
        wire.receive()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 18


def test_what_is_too_long_is_not_sent(pair, monkeypatch):
    monkeypatch.setattr(wire_module._Wire._put, "__defaults__", (64,))
    with pytest.raises(FleetError, match=r"^a message to a has \d+ bytes and a name of \d+; at most 64 and 4096 are"):
        pair[0].send(MESSAGE)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (b"[0, 'a', 0, 'x', '']", "without a name"),
        (b'[0, "a", 0, "x"]', "without a name"),
        (b'["0", "a", 0, "x", ""]', "without a name"),
        (b'[true, "a", 0, "x", ""]', "without a name"),
        (b"[" * 1000, "without a name"),
        (b"\xff", "without a name"),
        (b'[0, "c", 0, "x", ""]', "in the name of 'c'"),
        (b'[0, "c", 0, "x", "a"]', "in the name of 'c'"),
    ],
)
def test_envelopes_have_names_of_their_sender(label, reason, pair):
    wire, there = pair
    there.sendall(frame(1, label, b""))
    with pytest.raises(TornError, match=rf"^sent a letter {reason}"):
        wire.receive()


def test_requests_come_from_who_asks(pair):
    wire, there = pair
    there.sendall(frame(2, b'[0, "me", 0, "x", "c"]', b""))
    with pytest.raises(TornError, match=r"^sent a letter in the name of 'c'$"):
        wire.receive()


@pytest.mark.parametrize("data", [b"", b"x" * 9, b"\xff" * 8, b"\x02" + b"\0" * 7 + b"{}x"])
def test_a_envelope_without_tensors_is_its_senders_fault(data):
    office = Office("a", "b")
    office.posts["b"].deliver(Message(Key(0, "a", 0, "x"), data, zlib.crc32(data)))
    with pytest.raises(ExchangeError, match=r"^a sent x of a at step 0, which has no tensors") as error:
        office.posts["b"].take(Key(0, "a", 0, "x"))
    assert error.value.sender == "a"


def test_garbage_and_ends_are_told_apart(pair):
    wire, there = pair
    there.sendall(b"x" * 100)
    with pytest.raises(TornError, match=r"^sent bytes that are no message$"):
        wire.receive()


@pytest.mark.parametrize("count", [0, 5, 40])
def test_a_envelope_that_is_cut_off_is_an_end(pair, count):
    wire, there = pair
    there.sendall(bytes_of(message)[:count])
    there.close()
    with pytest.raises(ConnectionError, match=r"^closed its connection$") as error:
        wire.receive()
    assert not isinstance(error.value, TornError)


def test_nobody_waits_for_a_receiver_that_does_not_read(pair):
    wire, there = pair
    began = time.monotonic()
    for _ in range(20):
        wire.send(Message.of(Key(0, "a", 0, "x"), {"big": torch.zeros(1 << 18)}))
    wire.close()
    assert time.monotonic() - began < 30
    assert there.fileno() >= 0
