"""The spaces of joint samples: what sound and picture are while they are generated.

A sample is a tree of `video` [b, f, ...] and `audio` [b, f, n, c], n rows of sound for each frame. There are two kinds
with one interface: `pixels`, images and waveforms as in the paper (section V), and `motion`, coefficients of a
morphable model and a log-mel spectrogram (ours), which another system's renderer draws and a vocoder makes audible.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.errors import UserError
from talkjax.media import vocoder
from talkjax.media.picture import to_float, to_uint8
from talkjax.media.segments import AUDIO_RATE
from talkjax.nn.conv import depth_to_space, space_to_depth
from talkjax.nn.coupled_streams import CoupledStreams, StreamClassifier
from talkjax.nn.coupled_unet import CoupledUNet, JointClassifier
from talkjax.systems import coefficients

CORPUS = 'corpus'  # branch of what was measured on the training split
THUMBNAIL = 16  # pixels of the pictures that tell people apart
Sample = Mapping[str, Any]


def make(config) -> 'PixelSpace | MotionSpace':
  """The space of `config.space`.

  Raises:
    UserError: there is no such kind, or its numbers do not go together.
  """
  kinds = {'pixels': PixelSpace, 'motion': MotionSpace}
  if config.space.kind not in kinds:
    raise UserError(f'config.space.kind={config.space.kind!r} is not one of {", ".join(kinds)}')
  return kinds[config.space.kind](config)


class PixelSpace:
  """Images in [-1, 1] and waveforms, optionally folded: video [b, f, h, w, c], audio [b, f, n, c].

  Waveforms are in [-1, 1] times `config.space.sound_scale`: speech is so quiet that noise covers it at most levels.
  """

  portrait_everywhere = False  # a portrait is known in the first frame alone

  def __init__(self, config):
    own = config.space
    self.config, self.frames, self.fps = config, own.frames, own.fps
    if own.ends:
      raise UserError('config.space.ends=True is only for config.space.kind=motion: set it to False')
    samples = round(own.frames * AUDIO_RATE / own.fps)
    if samples % (own.frames * own.fold_samples) or own.size % own.fold_pixels:
      raise UserError(
        f'config.space: {own.frames} frames at {own.fps:g} frames/s have {samples} samples and sides of {own.size} '
        f'pixels: expected multiples of frames x fold_samples = {own.frames * own.fold_samples} and of fold_pixels = '
        f'{own.fold_pixels}'
      )
    self.samples = samples // own.frames  # of a frame
    self.sound_scale = own.get('sound_scale', 1.0)  # earlier workdirs lack it
    side = own.size // own.fold_pixels
    self.shapes = {  # of a frame of each modality
      'video': (side, side, 3 * own.fold_pixels**2),
      'audio': (self.samples // own.fold_samples, own.fold_samples),
    }

  def network(self, captions: int) -> CoupledUNet:
    """The coupled U-Net; `captions` known captions, 0 for an unconditional one."""
    return CoupledUNet(**self._settings(), num_captions=captions)

  def classifier(self, captions: int) -> nn.Module:
    """The joint noisy classifier (section IV.C)."""
    return JointClassifier(CoupledUNet(**self._settings(), decoder=False), captions)

  def _settings(self) -> dict[str, Any]:
    config = self.config
    return {
      **config.model,
      'video_channels': self.shapes['video'][-1],
      'audio_channels': self.shapes['audio'][-1],
      'dtype': jnp.dtype(config.dtype),
      'remat': config.remat,
    }

  def fresh(self) -> dict[str, Any]:
    """The frozen branches of fresh parameters."""
    return {}

  def sample_of(self, params, batch: Mapping[str, jax.Array]) -> Sample:
    """Training examples as samples: `image` [b, f, h, w, 3] uint8 and `waveform` [b, s] int16."""
    del params
    image = space_to_depth_of_frames(to_float(batch['image']), self.config.space.fold_pixels)
    waveform = batch['waveform'].astype(jnp.float32) * (self.sound_scale / 32768)
    return {'video': image, 'audio': waveform.reshape(*image.shape[:2], *self.shapes['audio'])}

  def ends(self, first, length) -> dict[str, Any]:
    """What tells the network where its frames are in a video: nothing here."""
    return {}

  def weights(self, params) -> Sample | None:
    """Weights of the loss over the numbers of a frame, or None."""
    del params
    return None

  def known_sound(self, params, waveform: np.ndarray, frames: int) -> np.ndarray:
    """A sound [s] of 16 kHz as rows of audio for so many frames, each [n, c]: float32 [frames, n, c]."""
    del params
    length = frames * self.samples
    padded = np.pad(waveform[:length].astype(np.float32), (0, max(0, length - len(waveform))))
    return self.sound_scale * padded.reshape(frames, *self.shapes['audio'])

  def known_portrait(self, params, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values, mask) of a frame of video that a portrait uint8 [h, w, 3] determines; 0 in the mask where it does.

    The picture is that of the first frame (section VII, limitation 2, calls it the image condition).
    """
    from talkjax.media.picture import fit_square

    del params
    folded = space_to_depth(to_float(fit_square(image, self.config.space.size))[None], self.config.space.fold_pixels)[0]
    return np.asarray(folded, np.float32), np.zeros(self.shapes['video'], np.float32)

  def keep_person(self, video: np.ndarray, mask: np.ndarray, frames: int) -> None:
    """Makes known who is shown after the first window [b, frames] of a video: nothing here, the frames show it."""

  def sound(self, params, rows: np.ndarray) -> np.ndarray:
    """Audio rows [frames, n, c] of a whole video as a waveform [s] float32 in [-1, 1]."""
    del params
    return np.clip(rows.reshape(-1) / self.sound_scale, -1, 1).astype(np.float32)

  def pictures(self, video: np.ndarray) -> np.ndarray:
    """Video [b, f, ...] as uint8 [b, f, h, w, 3]."""
    return to_uint8(np.asarray(depth_to_space_of_frames(jnp.asarray(video), self.config.space.fold_pixels)))


def space_to_depth_of_frames(x: jax.Array, patch: int) -> jax.Array:
  """[b, f, h, w, c] -> [b, f, h / patch, w / patch, patch^2 c]."""
  y = space_to_depth(x.reshape(-1, *x.shape[2:]), patch)
  return y.reshape(*x.shape[:2], *y.shape[1:])


def depth_to_space_of_frames(x: jax.Array, patch: int) -> jax.Array:
  """The inverse of `space_to_depth_of_frames`."""
  y = depth_to_space(x.reshape(-1, *x.shape[2:]), patch)
  return y.reshape(*x.shape[:2], *y.shape[1:])


@dataclasses.dataclass(frozen=True)
class People:
  """The people of the training split, as pictures.

  Attributes:
    portraits: [n, h, w, 3] uint8.
    codes: [n, d] float32, see `MotionSpace`.
  """

  portraits: np.ndarray
  codes: np.ndarray


class MotionSpace:
  """Coefficients of a morphable model and a log-mel spectrogram, normalised: video [b, f, d], audio
  [b, f, 1, c].

  A frame of video is [code | expression | angles and translation]. The code says who is shown, the same in every frame
  of a clip: the leading principal components of small pictures of the faces of the training split. A generated code
  chooses the person of the training split, of those whom the caption describes, that is nearest, and the renderer moves
  that person's portrait; a portrait that is given determines the code, and with it the voice.
  """

  portrait_everywhere = True

  def __init__(self, config):
    own = config.space
    self.config, self.frames, self.fps = config, own.frames, own.fps
    self.motion = config.morphable.expression + 6
    self.shapes = {'video': (own.code + self.motion,), 'audio': (1, vocoder.BANDS * vocoder.columns_per_frame(own.fps))}

  def network(self, captions: int) -> CoupledStreams:
    """The coupled streams; `captions` known captions, 0 for an unconditional one."""
    return CoupledStreams(**self._settings(), num_captions=captions)

  def classifier(self, captions: int) -> nn.Module:
    """The joint noisy classifier (section IV.C), of the same streams."""
    return StreamClassifier(CoupledStreams(**self._settings(), predict=False), captions)

  def _settings(self) -> dict[str, Any]:
    config = self.config
    video, audio = self.shapes['video'][-1], self.shapes['audio'][-1]
    return {
      **config.model,
      'motion_channels': video,
      'sound_channels': audio,
      'ends': config.space.ends,
      'dtype': jnp.dtype(config.dtype),
    }

  def fresh(self) -> dict[str, Any]:
    """The frozen branches of fresh parameters, which training fills."""
    own = self.config.space
    pixels = THUMBNAIL**2 * 3
    return {
      coefficients.BRANCH: coefficients.blank(self.config),
      CORPUS: {
        'portraits': jnp.zeros((own.people, own.size, own.size, 3), jnp.uint8),
        'codes': jnp.zeros((own.people, own.code)),
        'captions': jnp.zeros(own.people, jnp.int32),
        'picture_mean': jnp.zeros(pixels),
        'picture_basis': jnp.zeros((pixels, own.code)),
        'sound_mean': jnp.zeros(vocoder.BANDS),
        'sound_std': jnp.ones(vocoder.BANDS),
      },
    }

  def sample_of(self, params, batch: Mapping[str, jax.Array]) -> Sample:
    """Training examples as samples: `thumbnail`, `coefficients` [b, f, k] and `sound` [b, f, c], see `data.read`."""
    model = coefficients.model_of(params, self.config)
    motion = model.normalise(batch['coefficients'].astype(jnp.float32))[..., self.config.morphable.identity :]
    code = self.codes(params, batch['thumbnail'])[:, None]
    video = jnp.concatenate([jnp.broadcast_to(code, (*motion.shape[:2], code.shape[-1])), motion], axis=-1)
    return {'video': video, 'audio': self.normalise_sound(params, batch['sound'].astype(jnp.float32))[:, :, None]}

  def ends(self, first, length) -> dict[str, Any]:
    """What tells the network where its frames are in a video, by argument.

    Args:
      first: number of the first of the frames: int [b] or [].
      length: frames of the whole video: int [b]. A frame after its last one counts as that.
    """
    if not self.config.space.ends:
      return {}
    since = jnp.reshape(first, (-1, 1)) + jnp.arange(self.frames)
    until = jnp.maximum(jnp.reshape(length, (-1, 1)) - 1 - since, 0)
    return {'ends': jnp.stack(jnp.broadcast_arrays(since, until), axis=-1).astype(jnp.float32)}

  def codes(self, params, thumbnails):
    """Who is shown in pictures uint8 [b, 16, 16, 3]: [b, d]."""
    own = params[CORPUS]
    flat = jnp.asarray(thumbnails, jnp.float32).reshape(len(thumbnails), -1) / 255
    return (flat - own['picture_mean']) @ own['picture_basis']

  def normalise_sound(self, params, sound):
    """A spectrogram [..., columns * bands] with mean 0 and variance 1 in each band."""
    own = params[CORPUS]
    repeat = sound.shape[-1] // vocoder.BANDS
    return (sound - jnp.tile(own['sound_mean'], repeat)) / jnp.tile(own['sound_std'], repeat)

  def weights(self, params) -> Sample | None:
    """Weights of the loss: coefficients count as much as they move the face, the parts of a frame as configured."""
    model, own = coefficients.model_of(params, self.config), self.config.loss
    expression = own.expression * coefficients.energies(model)
    video = jnp.concatenate([jnp.full(self.config.space.code, own.code), expression, jnp.full(6, own.pose)])
    return {'video': video, 'audio': jnp.ones(self.shapes['audio'][-1])}

  def known_sound(self, params, waveform: np.ndarray, frames: int) -> np.ndarray:
    """A sound [s] of 16 kHz as rows of audio for so many frames: float32 [frames, 1, c]."""
    rows = vocoder.spectrogram_of_frames(waveform, frames, self.fps)
    return np.asarray(self.normalise_sound(params, rows))[:, None]

  def known_portrait(self, params, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(values, mask) of a frame of video that a portrait uint8 [h, w, 3], cropped to its face, determines: the code."""
    from talkjax.systems.joint import data

    code = np.asarray(self.codes(params, data.thumbnail(image)[None]))[0]
    mask = np.ones(self.shapes['video'], np.float32)
    mask[: len(code)] = 0
    return np.pad(code, (0, self.motion)).astype(np.float32), mask

  def keep_person(self, video: np.ndarray, mask: np.ndarray, frames: int) -> None:
    """Makes known who is shown after the first window of a video: the mean code of its frames."""
    code = slice(0, self.config.space.code)
    video[..., code] = video[:, :frames, code].mean(1, keepdims=True)
    mask[..., code] = 0

  def sound(self, params, rows: np.ndarray) -> np.ndarray:
    """Audio rows [frames, 1, c] of a whole video as a waveform [s] float32 in [-1, 1], by the vocoder."""
    own = params[CORPUS]
    columns = rows.reshape(-1, vocoder.BANDS) * np.asarray(own['sound_std']) + np.asarray(own['sound_mean'])
    return vocoder.waveform(columns)

  def motions(self, params, video: np.ndarray) -> np.ndarray:
    """Motion of samples [b, f, d]: coefficients [b, f, k_e + 6] as `System.renderer` takes them."""
    model = coefficients.numpy_model_of(params, self.config)
    first = self.config.morphable.identity
    mean, deviation = np.array(model.row_mean[first:]), np.array(model.row_std[first:])
    mean[-3:] = 0  # translations are from the portrait's own
    return video[..., self.config.space.code :] * deviation + mean

  def who(self, params, video: np.ndarray, captions: Sequence[int]) -> np.ndarray:
    """The number of the person of the training split that each sample [b, f, d] shows: int [b].

    It is the nearest of those whom the caption (a label [b]) describes, or of all without one.
    """
    own, codes = params[CORPUS], video[..., : self.config.space.code].mean(1)
    distances = np.square(np.asarray(own['codes']) - codes[:, None]).sum(-1)
    described = np.asarray(own['captions']) == np.asarray(captions)[:, None]
    described |= ~described.any(1, keepdims=True)
    return np.where(described, distances, np.inf).argmin(-1)
