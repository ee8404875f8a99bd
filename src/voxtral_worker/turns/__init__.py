"""The listening floor: finds speech in a stream, and decides when a turn ends."""

from voxtral_worker.settings import opt_out_of_telemetry

# Before another module of this folder imports ONNX Runtime.
opt_out_of_telemetry()
