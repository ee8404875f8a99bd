"""silero-VAD's network for a batch of frames, of the weights that its package ships.

The package's own networks take twice as long for each frame of a large batch: their convolutions
compute what padding multiplies by zero, and are no product of the whole batch. Here each layer is.
"""

from typing import TypeAlias

import numpy as np
import silero_vad
import torch
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]

# A frame and the samples before it, and the Fourier transform's steps within 64 + 512 + 64.
_FRAME, _CONTEXT = 512, 64
_FFT, _HOP, _STEPS = 256, 128, 4
_BINS = _FFT // 2 + 1


class SpeechNetwork:
    """Holds no state of a stream. Results differ from the package's by rounding, below 1e-4."""

    def __init__(self) -> None:
        """Takes a tenth of a second. Raises KeyError when the package has another network."""
        # The scripted one: what the package calls its safetensors is of another version.
        threads = torch.get_num_threads()
        weights = silero_vad.load_silero_vad()._model.state_dict()
        # The package sets one thread for the whole process when it is imported.
        torch.set_num_threads(threads)

        def layer(number: int, first: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
            name = f"encoder.{number}.reparam_conv"
            taps = weights[f"{name}.weight"][:, :, first:stop]
            return taps.permute(2, 1, 0).flatten(0, 1).contiguous(), weights[f"{name}.bias"]

        # The cosine of frequency 0 is the window alone.
        self._window = weights["stft.forward_basis_buffer"][0, 0].clone()
        self._conv1, self._conv2 = layer(0, 0, 3), layer(1, 0, 3)
        # Of a sequence of two, the first of three taps sees padding alone; of one, so do two.
        self._conv3, self._conv4 = layer(2, 1, 3), layer(3, 1, 2)
        both = [weights[f"decoder.rnn.weight_{name}"] for name in ("ih", "hh")]
        self._lstm = torch.cat(both, dim=1).T.contiguous()
        self._lstm_bias = weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"]
        self._final = weights["decoder.decoder.2.weight"][0], weights["decoder.decoder.2.bias"]

    @torch.inference_mode()
    def __call__(self, sound: Samples, states: Samples) -> tuple[Samples, Samples]:
        """Probabilities [n, k] and new states [2, n, 128] of n streams, all float32.

        Sound is [n, 64 + 512 * k]: k frames of each, behind the end of the one before them.
        """
        streams = len(sound)
        # What does not depend on the frame before is computed for all of them at once.
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
        """What the memory hears, [n, 128], of frames [n, 64 + 512]."""
        count = len(frames)
        sound = torch.nn.functional.pad(frames, (0, _CONTEXT), mode="reflect")
        steps = sound.unfold(1, _FFT, _HOP) * self._window
        # The package multiplies by a matrix, whose weights are most of all that is read.
        spectrum = torch.view_as_real(torch.fft.rfft(steps)).square_()
        # Room for the zero before and behind the four steps.
        padded = spectrum.new_zeros(count, _STEPS + 2, _BINS)
        padded[:, 1:-1] = (spectrum[..., 0] + spectrum[..., 1]).sqrt_()
        heard = _product(padded.unfold(1, 3, 1).transpose(2, 3), self._conv1)
        padded = heard.new_zeros(count, _STEPS + 1, heard.shape[-1])
        padded[:, 1:] = heard.view(count, _STEPS, -1)
        heard = _product(padded.unfold(1, 3, 2).transpose(2, 3), self._conv2)
        heard = _product(heard.view(count, 1, 2, -1), self._conv3)
        return _product(heard.view(count, 1, 1, -1), self._conv4)


def _product(places: torch.Tensor, layer: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """A convolution and ReLU, [n * places, out], of inputs [n, places, taps, in]."""
    weight, bias = layer
    return torch.addmm(bias, places.reshape(-1, len(weight)), weight).relu_()
