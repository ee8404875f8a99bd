"""The embedded model as tests load it: on the CPU, in float32."""

from voxtral_worker.settings import EMBEDDED_MODEL, Settings

EMBEDDED = Settings(model_id=str(EMBEDDED_MODEL), device="cpu", dtype="float32")
