"""Speech Driven Video Editing via an Audio-Conditioned Diffusion Model (Bigioi et al., 2023).

A masked U-Net repaints the mouth and jaw of one frame from the sound around it, the frame before and an identity frame.
Training reads single frames (sections 3.1 and 3.2); generation goes frame by frame, each from the one generated before.

Where paper and published code (DanBigioi/DiffusionVideoEditing) differ, the configs train with the paper's numbers and
the network has the published layout: 9 input channels (the paper's table says 10, its text and the code 9).
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from talkjax.cli import UserError
from talkjax.diffusion import losses, samplers, schedules, targets
from talkjax.faces import align, mask
from talkjax.media import audio
from talkjax.nn.unet import UNet
from talkjax.records import AUDIO_RATE, Record
from talkjax.systems import System


@dataclasses.dataclass(frozen=True)
class Inputs:
  """What generation reads, batched over videos.

  Attributes:
    identity: [b, h, w, 3] float32 in [-1, 1], the frame that says who speaks.
    frames: one dict per frame of `clean` [b, h, w, 3], `mask` [b, h, w, 1] and `audio` [b, d]; it may be endless.
    truth: per video its aligned frames, uint8; empty when there is nothing to compare with.
    landmarks: per video [f, 68, 2] in pixels of the aligned frames.
  """

  identity: np.ndarray
  frames: Iterable[dict[str, np.ndarray]]
  truth: Sequence[Sequence[np.ndarray]] = ()
  landmarks: Sequence[np.ndarray] = ()


def build(config) -> System:
  """The system of a config with `model`, `diffusion`, `sampler`, `augment`, `data` and `size` (see configs/speech_edit.py)."""
  net = UNet(
      width=config.model.width,
      multipliers=tuple(config.model.multipliers),
      attention_downsamples=tuple(config.model.attention_downsamples),
      num_res_blocks=config.model.num_res_blocks,
      head_channels=config.model.head_channels,
      dropout=config.model.dropout,
      patch_size=config.model.patch_size,
      noise_embedding=config.model.noise_embedding,
      dtype=jnp.dtype(config.dtype),
      remat=config.remat,
  )
  schedule = make_schedule(config.diffusion, config.diffusion.steps)
  return System(
      read=functools.partial(read, config=config),
      init=functools.partial(init, net=net),
      loss=functools.partial(loss, net=net, schedule=schedule, target=config.diffusion.target),
      inputs=functools.partial(record_inputs, config=config),
      generate=functools.partial(generate, step=make_frame_step(net, config)),
  )


def make_schedule(diffusion, steps: int) -> schedules.Schedule:
  """The noise schedule with `steps` steps; Palette's way to fewer steps is a fresh, shorter schedule."""
  if diffusion.schedule == 'linear':
    return schedules.linear(steps, diffusion.linear_start, diffusion.linear_end)
  if diffusion.schedule == 'cosine':
    return schedules.cosine(steps)
  raise UserError(f'config.diffusion.schedule={diffusion.schedule!r} is not one of linear, cosine')


# Reading.


def read(record: Record, generator: np.random.Generator, *, config) -> dict[str, np.ndarray]:
  """Random frames of a record as training examples, `data.examples_per_record` along axis 0.

  Returns:
    target, previous, identity [k, h, w, 3] float32 in [-1, 1]; mask [k, h, w, 1] float32; audio [k, d]; id [k].
  """
  k, size = config.data.examples_per_record, config.size
  numbers = generator.integers(0, len(record.frames), k)
  transforms = frame_transforms(record, config)
  picture = functools.cache(lambda i: align.crop(record.frame(i), transforms[i], size))
  masks = [jaw_mask(record, transforms, i, config) for i in numbers]
  # Frame 0 has no frame before it: as published it is its own.
  previous = [augment(picture(max(i - 1, 0)), generator, config.augment) for i in numbers]
  return {
      'target': to_float(np.stack([picture(i) for i in numbers])),
      'previous': np.stack(previous),
      'identity': np.repeat(to_float(picture(0))[None], k, 0),
      'mask': np.stack(masks),
      'audio': audio_features(record_mel(record), numbers, record.fps, config.audio),
      'id': np.full(k, record.id),
  }


def frame_transforms(record: Record, config) -> np.ndarray:
  """[f, 2, 3] from pixels of the record's frames to pixels of the network's picture (section 3.3.3)."""
  if config.data.align:
    return align.canonical_transforms(record.landmarks, config.size)
  scale = np.array([[config.size / record.size[1], 0, 0], [0, config.size / record.size[0], 0]], np.float32)
  scale[:, 2] = (np.diag(scale) - 1) / 2  # pixel centres, not corners, are what scales
  return np.repeat(scale[None], len(record.frames), 0)


def jaw_mask(record: Record, transforms: np.ndarray, number: int, config) -> np.ndarray:
  """[h, w, 1] float32, 1 where frame `number` is repainted."""
  points = align.transform_points(record.landmarks[number], transforms[number])
  return mask.jaw_mask(points, config.size, kind=config.mask)


def record_mel(record: Record) -> np.ndarray:
  """The mel spectrogram of a record's sound, [256, t]."""
  waveform = record.audio.astype(np.float32) / 32768
  if not waveform.size:
    raise UserError(f'clip {record.id} has no sound: speech_edit trains on talking clips, rebuild the corpus without silent ones')
  return audio.log_mel(waveform, mel_frames(len(waveform)))


def mel_frames(samples: int) -> int:
  """25 fps frames that `samples` of 16 kHz sound last."""
  return max(1, -(-samples * 25 // AUDIO_RATE))


def audio_features(mel: np.ndarray, numbers: np.ndarray, fps: float, settings) -> np.ndarray:
  """[k, 1024], what frames `numbers` of a video hear: 120 ms around each (section 3.2), by time where fps is not 25.

  The dB values are shifted and scaled as the config says (published: neither).
  """
  windows = audio.frame_windows(mel, np.asarray(numbers) * (25 / fps))
  return ((windows + settings.offset) * settings.scale).astype(np.float32)


def augment(picture: np.ndarray, generator: np.random.Generator, settings) -> np.ndarray:
  """The previous frame as training sees it: warped and noised, so that the network learns to trust the identity frame.

  It is the paper's answer (section 4.4) to errors that pile up while frames are made from frames.

  Args:
    picture: uint8 [h, w, 3].
    generator: of this example.
    settings: `warp`, largest displacement as a share of the width, of a smooth 4 x 4 field; `noise`, largest standard
      deviation of Gaussian noise in units of [-1, 1]; both amplitudes are drawn uniformly from 0 up.

  Returns:
    float32 [h, w, 3] in [-1, 1].
  """
  h, w, _ = picture.shape
  if settings.warp:
    field = generator.uniform(-1, 1, (4, 4, 2)) * settings.warp * w * generator.uniform()
    field = cv2.resize(field.astype(np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    grid = np.stack(np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32)), -1)
    picture = cv2.remap(picture, grid + field, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
  x = to_float(picture)
  if settings.noise:
    x = x + generator.normal(size=x.shape).astype(np.float32) * (settings.noise * generator.uniform())
  return np.clip(x, -1, 1).astype(np.float32)


def to_float(picture: np.ndarray) -> np.ndarray:
  return picture.astype(np.float32) / 127.5 - 1


def to_uint8(picture: np.ndarray) -> np.ndarray:
  return np.clip(np.round((np.asarray(picture) + 1) * 127.5), 0, 255).astype(np.uint8)


# Learning.


def init(rng: jax.Array, batch: dict[str, jax.Array], *, net: UNet) -> Any:
  """Fresh parameters."""
  x = jnp.concatenate([batch['target'], batch['previous'], batch['identity']], -1)[:1]
  return {'unet': net.init(rng, x, jnp.ones(1), batch['audio'][:1])['params']}


def loss(params, batch, rng: jax.Array, train: bool, *, net: UNet, schedule: schedules.Schedule, target: str):
  """Eq. 5 on the masked region: the squared error of the predicted noise (or x0, or velocity) there.

  Args:
    params: from `init`.
    batch: from `read`.
    rng: of the noise, its level and the dropout.
    train: dropout on.
    net: the network.
    schedule: of the noise; its level is continuous, gamma uniform in (gamma_t, gamma_{t-1}), as in Palette.
    target: what the network predicts.

  Returns:
    (loss, metrics).
  """
  level_rng, noise_rng, dropout_rng = jax.random.split(rng, 3)
  y_0, region = batch['target'], batch['mask']
  gamma = schedules.continuous_gamma(schedule, level_rng, (y_0.shape[0],))
  noise = jax.random.normal(noise_rng, y_0.shape)
  # y_t = sqrt(gamma) y_0 + sqrt(1 - gamma) epsilon inside the mask (eq. 4), clean outside.
  alpha_bar = gamma[:, None, None, None]
  y_t = paste(targets.add_noise(y_0, noise, alpha_bar), y_0, region)
  x = jnp.concatenate([y_t, batch['previous'], batch['identity']], -1)  # [b, h, w, 9]
  prediction = net.apply({'params': params['unet']}, x, gamma, batch['audio'], train, rngs={'dropout': dropout_rng})
  wanted = targets.target(target, y_0, noise, alpha_bar)
  return losses.masked_mse(prediction, wanted, region), {}


def paste(inside: jax.Array, outside: jax.Array, region: jax.Array) -> jax.Array:
  """`inside` where `region` is 1, `outside` elsewhere."""
  return region * inside + (1 - region) * outside


# Generating.


def make_table(config):
  """The sampler's coefficients: `sampler.name` of ddpm (Palette's, the published), ddim, dpm++."""
  name, steps = config.sampler.name, config.sampler.steps
  train_schedule = make_schedule(config.diffusion, config.diffusion.steps)
  if name == 'palette':
    return samplers.palette(make_schedule(config.diffusion, steps))
  if name == 'ddpm':
    return samplers.ddpm(train_schedule, steps, spacing='trailing')
  if name == 'ddim':
    return samplers.ddim(train_schedule, steps, eta=config.sampler.eta, spacing='trailing')
  if name == 'dpm++':
    return samplers.dpm_solver_pp_2m(train_schedule, steps, spacing='trailing')
  raise UserError(f'sampler {name!r} is not one of palette, ddpm, ddim, dpm++')


def make_frame_step(net: UNet, config):
  """The compiled function that makes the next frame of every video of a batch."""
  table = make_table(config)
  num_steps = config.sampler.steps

  @jax.jit
  def step(params, frame, previous, identity, seeds, number):
    clean, region = frame['clean'], frame['mask']

    def noise(index):
      """Keyed by (seed, frame, step): a video does not depend on its batch."""
      def one(seed):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), index)
        return jax.random.normal(key, clean.shape[1:])

      return jax.vmap(one)(seeds)

    def denoise(y_t, level):
      x = jnp.concatenate([y_t, previous, identity], -1)
      gamma = jnp.full(y_t.shape[:1], level.alpha_bar)
      return net.apply({'params': params['unet']}, x, gamma, frame['audio'])

    return samplers.sample(
        denoise, noise(num_steps), table, noise, target=config.diffusion.target, clip=1.0,
        constrain=lambda y: paste(y, clean, region),  # clean pixels outside the mask at every step
    )

  return step


def generate(params, inputs: Inputs, seeds: np.ndarray, *, step) -> Iterator[np.ndarray]:
  """Frames of all videos of a batch, one after the other, as uint8 [b, h, w, 3].

  Args:
    params: from training.
    inputs: see `Inputs`.
    seeds: [b] uint32, one per video.
    step: from `make_frame_step`; compiled once per batch and picture size, never per length.
  """
  previous = None
  for number, frame in enumerate(inputs.frames):
    # As in training, the first frame's previous one is itself as it was filmed.
    previous = jnp.asarray(frame['clean']) if previous is None else previous
    previous = step(params, frame, previous, inputs.identity, np.asarray(seeds, np.uint32), number)
    yield to_uint8(previous)


def record_inputs(
    clips: Sequence[Record], *, config, speech: Sequence[Record] | None = None, num_frames: int | None = None
) -> Inputs:
  """Corpus records as inputs: each video re-voiced with its own sound, or with that of another record.

  Args:
    clips: the videos.
    config: the system's.
    speech: as many records whose sound is spoken instead; cut or silent after its end.
    num_frames: make only so many frames of each; shorter clips hold their last frame.
  """
  count = num_frames or max(len(r.frames) for r in clips)
  videos = []
  for clip, voice in zip(clips, speech or clips, strict=True):
    number = np.minimum(np.arange(count), len(clip.frames) - 1)
    transforms = frame_transforms(clip, config)
    last = min(count, len(clip.frames))
    pictures = [align.crop(clip.frame(i), transforms[i], config.size) for i in range(last)]
    regions = [jaw_mask(clip, transforms, i, config) for i in range(last)]
    features = audio_features(record_mel(voice), np.arange(count), clip.fps, config.audio)
    points = np.stack([align.transform_points(clip.landmarks[i], transforms[i]) for i in range(last)])
    videos.append((number, pictures, regions, features, points))

  def frames():
    for f in range(count):
      yield {
          'clean': to_float(np.stack([pictures[number[f]] for number, pictures, *_ in videos])),
          'mask': np.stack([regions[number[f]] for number, _, regions, *_ in videos]),
          'audio': np.stack([features[f] for *_, features, _ in videos]),
      }

  return Inputs(
      identity=to_float(np.stack([pictures[0] for _, pictures, *_ in videos])),
      frames=frames(),
      truth=[pictures for _, pictures, *_ in videos],
      landmarks=[points for *_, points in videos],
  )
