"""The listening floor: where speech is, when a turn ends."""

from voxtral_worker.settings import opt_out_of_telemetry

# Before `vad.py` brings ONNX Runtime in.
opt_out_of_telemetry()
