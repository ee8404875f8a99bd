"""The documented dialect over a session alone: nobody is connected, and all is held."""

from types import SimpleNamespace

from voxtral_worker.server.channels import Channels
from voxtral_worker.server.native.dialect import NativeDialect
from voxtral_worker.sessions.session import Session


def native(session: Session) -> NativeDialect:
    driver = SimpleNamespace(session=session, channels=Channels())
    return NativeDialect(driver)  # type: ignore[arg-type]
