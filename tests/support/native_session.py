"""The documented dialect over a session alone: no client is connected, and all is held."""

from types import SimpleNamespace

from voxtral_worker.server.channels import Channels
from voxtral_worker.server.native.dialect import NativeDialect
from voxtral_worker.server.native.messages import Message, message_of
from voxtral_worker.sessions import events
from voxtral_worker.sessions.session import Session


def native(session: Session) -> NativeDialect:
    driver = SimpleNamespace(session=session, channels=Channels())
    return NativeDialect(driver)  # type: ignore[arg-type]


def written(event: events.Event) -> Message:
    """The message of an event that has one."""
    message = message_of(event)
    assert message is not None, event
    return message
