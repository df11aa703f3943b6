"""A broker that delivers messages twice, late or not at all, to workers that are killed."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

import time_machine
from celery.signals import before_task_publish

from accession.core.clock import utc_now
from tests.chaos.unreliable_vendor import WorkerKilled
from tests.fixtures.broker import Broker, Message

# How long a prefetched response is cached.
_CACHED = timedelta(minutes=1)


@dataclass
class UnreliableBroker:
    """Delivers the messages of the broker, one after another.

    Attributes:
        kill: probability that the worker is killed when it publishes a message.
        repeat: probability that a message is delivered again; the same for one of the last messages.
        loss: probability that the broker loses everything after a message, and the worker connects again.
    """

    broker: Broker
    random: Random
    clock: time_machine.Traveller
    kill: float = 0
    repeat: float = 0
    loss: float = 0
    _delivered: list[Message] = field(default_factory=list)
    _is_working: bool = False

    def recover(self) -> None:
        """End all faults."""
        self.kill = self.repeat = self.loss = 0

    def move_clock(self, moment: datetime) -> None:
        """Move the clock forward to `moment`; prefetched responses expire."""
        if moment - utc_now() >= _CACHED:
            for key in self.broker.redis.scan_iter("vendor:prefetch:*"):
                self.broker.redis.delete(key)
        self.clock.move_to(max(moment, utc_now()))

    def deliveries(self) -> Iterator[Message]:
        """Deliver messages as long as there are any, and yield each afterwards."""
        before_task_publish.connect(self._kill_before_publishing)
        try:
            while self.broker.raw_messages():
                message = self.broker.pop()
                if message.eta is not None:
                    self.move_clock(message.eta)
                self._deliver(message)
                yield message
                self._disturb(message)
        finally:
            before_task_publish.disconnect(self._kill_before_publishing)

    def _deliver(self, message: Message, *, redelivered: bool = False) -> None:
        """Deliver a message, and again as long as the worker is killed meanwhile."""
        self._delivered.append(message)
        self._is_working = True
        while self._is_working:
            try:
                self.broker.deliver(message, redelivered=redelivered)
                self._is_working = False
            except WorkerKilled:
                redelivered = True

    def _kill_before_publishing(self, **_: Any) -> None:
        if self._is_working and self.random.random() < self.kill:
            raise WorkerKilled

    def _disturb(self, message: Message) -> None:
        if self.random.random() < self.repeat:
            self._deliver(message, redelivered=self.random.random() < 1 / 2)
        if self.random.random() < self.repeat:
            self._deliver(self.random.choice(self._delivered[-100:]))
        if self.random.random() < self.loss:
            from accession.tasks.recovery import resume_lost_work

            self.broker.clear()
            resume_lost_work()
