"""silero-VAD's network for a batch of frames, with the weights that its package ships.

The package's own networks take twice as long for each frame of a large batch: their convolutions
also compute what padding multiplies by zero, and do not multiply the whole batch at once. Here
each layer is one product of the whole batch.
"""

from typing import TypeAlias

import numpy as np
import silero_vad
import torch
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]

# Samples of a frame and of the context before it. The Fourier transform makes its steps within 64 +
# 512 + 64 samples.
_FRAME, _CONTEXT = 512, 64
_FFT, _HOP, _STEPS = 256, 128, 4
_BINS = _FFT // 2 + 1


class SpeechNetwork:
    """Holds weights, and no state of a stream.

    Results differ from the package's by rounding, below 1e-4.
    """

    def __init__(self) -> None:
        """Load the weights, in a tenth of a second. KeyError: the package has another network."""
        # The scripted model, because the package's safetensors file is of another version.
        threads = torch.get_num_threads()
        weights = silero_vad.load_silero_vad()._model.state_dict()
        # The package sets one thread for the whole process when it is imported.
        torch.set_num_threads(threads)

        def layer(number: int, first: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
            name = f"encoder.{number}.reparam_conv"
            taps = weights[f"{name}.weight"][:, :, first:stop]
            return taps.permute(2, 1, 0).flatten(0, 1).contiguous(), weights[f"{name}.bias"]

        # The window of the Fourier transform: the cosine of frequency 0 is 1 everywhere.
        self._window = weights["stft.forward_basis_buffer"][0, 0].clone()
        self._conv1, self._conv2 = layer(0, 0, 3), layer(1, 0, 3)
        # The convolutions, as weights and bias. In a sequence of two steps the first of three taps
        # sees only padding, and in a sequence of one the first and the last: those are left out.
        self._conv3, self._conv4 = layer(2, 1, 3), layer(3, 1, 2)
        # The recurrent layer: its weights for the input, and below them those for its last output.
        both = [weights[f"decoder.rnn.weight_{name}"] for name in ("ih", "hh")]
        self._lstm = torch.cat(both, dim=1).T.contiguous()
        self._lstm_bias = weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"]
        # The last layer: weight and bias of the probability.
        self._final = weights["decoder.decoder.2.weight"][0], weights["decoder.decoder.2.bias"]

    @torch.inference_mode()
    def __call__(self, sound: Samples, states: Samples) -> tuple[Samples, Samples]:
        """Probabilities [n, k] and new states [2, n, 128] of n streams, all float32.

        `sound` is [n, 64 + 512 * k]: k frames of each stream, after the end of the frame before.
        """
        streams = len(sound)
        # All layers before the recurrent one compute all frames at once.
        frames = torch.from_numpy(sound).unfold(1, _CONTEXT + _FRAME, _FRAME)
        heard = self._encode(frames.flatten(0, 1)).view(streams, frames.shape[1], -1)
        hidden, cell = torch.from_numpy(states)
        shown = []
        for each in heard.unbind(1):
            gates = torch.addmm(self._lstm_bias, torch.cat([each, hidden], dim=1), self._lstm)
            take, keep, new, show = gates.chunk(4, dim=1)
            cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
            hidden = show.sigmoid() * cell.tanh()
            shown.append(hidden)
        weight, bias = self._final
        probabilities = (torch.stack(shown, dim=1).relu_() @ weight[:, 0]).add_(bias).sigmoid_()
        return probabilities.numpy(), torch.stack([hidden, cell]).numpy()

    def _encode(self, frames: torch.Tensor) -> torch.Tensor:
        """The input of the recurrent layer, [n, 128], for frames [n, 64 + 512]."""
        count = len(frames)
        sound = torch.nn.functional.pad(frames, (0, _CONTEXT), mode="reflect")
        steps = sound.unfold(1, _FFT, _HOP) * self._window
        # The package multiplies by a matrix instead, which is most of what it reads from memory.
        spectrum = torch.view_as_real(torch.fft.rfft(steps)).square_()
        # With a zero before and after the four steps.
        padded = spectrum.new_zeros(count, _STEPS + 2, _BINS)
        padded[:, 1:-1] = (spectrum[..., 0] + spectrum[..., 1]).sqrt_()
        heard = _product(padded.unfold(1, 3, 1).transpose(2, 3), self._conv1)
        padded = heard.new_zeros(count, _STEPS + 1, heard.shape[-1])
        padded[:, 1:] = heard.view(count, _STEPS, -1)
        heard = _product(padded.unfold(1, 3, 2).transpose(2, 3), self._conv2)
        heard = _product(heard.view(count, 1, 2, -1), self._conv3)
        return _product(heard.view(count, 1, 1, -1), self._conv4)


def _product(places: torch.Tensor, layer: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """A convolution with ReLU, [n * places, out], of inputs [n, places, taps, in]."""
    weight, bias = layer
    return torch.addmm(bias, places.reshape(-1, len(weight)), weight).relu_()
