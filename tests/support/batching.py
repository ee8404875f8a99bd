"""An encoder with what it needs to encode whole pieces of audio."""

from voxtral_worker.engine.embeddings import Embeddings
from voxtral_worker.engine.encoder import Encoder
from voxtral_worker.engine.encoder_batcher import EncoderBatcher
from voxtral_worker.engine.layout import EXACT
from voxtral_worker.engine.model import LoadedModel


def batcher_of(
    encoder: Encoder, loaded: LoadedModel, window_tail: str = EXACT
) -> tuple[Embeddings, EncoderBatcher]:
    """A store of embeddings, and a batcher that fills it."""
    embeddings = Embeddings(loaded.device, 0)
    return embeddings, EncoderBatcher(loaded, encoder, embeddings, window_tail)
