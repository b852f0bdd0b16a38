"""Generation with fd2talk: the motion of the whole video first, then its frames, each by itself (section 3.3)."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import samplers, targets
from talkjax.diffusion.noise import keyed_normal
from talkjax.media.picture import to_uint8
from talkjax.systems import Chunk, coefficients
from talkjax.systems.audio import AudioFeatures
from talkjax.systems.fd2talk import frame_networks, motion_generation
from talkjax.systems.fd2talk.conditions import Conditions, face_of
from talkjax.systems.fd2talk.frame_networks import Networks, Portrait
from talkjax.systems.fd2talk.motion_files import Motion, of_rows
from talkjax.systems.portrait import conditions as portrait_conditions
from talkjax.training import sharding


class Sampler:
  """The compiled functions of stage 3: their shapes depend on the batch and the images, never on a length."""

  def __init__(self, nets: Networks, config, motion: motion_generation.Sampler, audio: AudioFeatures, table):
    """`motion` and `audio` are those of stage 1, `table` the steps of the frames' sampler."""
    self.nets, self.config, self.motion, self.audio, self.table = nets, config, motion, audio, table
    self.prepare, self.draw = jax.jit(self._prepare), jax.jit(self._draw)

  def _prepare(self, params, images, rows) -> Portrait:
    """What is computed once for the portraits [b, h, w, 3] uint8 of faces with coefficients [b, k]."""
    portrait = frame_networks.portrait(params, {'reference': images}, rows, self.nets)
    return frame_networks.precompute(params, portrait, self.nets)

  def _draw(self, params, portraits: Portrait, video, rows, seeds, numbers):
    """Images [n, h, w, 3] of frames.

    Args:
      params: from training.
      portraits: from `prepare`, [b, ...].
      video: [n] the number of each frame's portrait.
      rows: [n, k] the coefficients of each frame.
      seeds: [n] of each frame's video.
      numbers: [n] of each frame in its video.
    """
    config, nets = self.config, self.nets
    own = jax.tree.map(lambda x: x[video], portraits)
    given = frame_networks.condition(params, own, rows, coefficients.model_of(params, config), nets, config)
    keys = numbers if config.sampler.noise == 'frame' else jnp.zeros_like(numbers)
    noise = lambda index: keyed_normal(seeds, keys, index, own.latents.shape[1:])
    x = samplers.sample(
      lambda x, level: frame_networks.predict(params, x, level, given, nets),
      noise(len(self.table)),
      self.table,
      noise,
      target=targets.X0,
      clip=config.sampler.clip or None,
    )
    return frame_networks.decode(params, x, own.latents, nets)


def generate(
  params,
  conditions: Conditions,
  seeds: np.ndarray,
  progress: Callable[[float], None] | None = None,
  *,
  sampler: Sampler,
) -> Iterator[Chunk]:
  """Videos of a batch, a few frames at a time; a shorter video holds its last frame. Arguments as of `images`."""
  for made in images(params, conditions, seeds, sampler):
    yield Chunk(to_uint8(made), fps=sampler.config.fps)


def images(params, conditions: Conditions, seeds: np.ndarray, sampler: Sampler) -> Iterator[np.ndarray]:
  """Frames of a batch of videos, [b, f, h, w, 3] in [-1, 1], f at a time.

  Args:
    params: from training; frames are split over the devices where they are.
    conditions: see `Conditions`.
    seeds: [b] uint32, one per video; a sweep over seeds has its own.
    sampler: compiled once per shape, never per length.
  """
  config, settings = sampler.config, conditions.portraits.settings
  seeds = np.asarray(settings.get('seed', seeds)).astype(np.uint32)
  model = coefficients.numpy_model_of(params, config)
  portraits = np.stack([face.rows(model)[0] for face in conditions.faces])
  rows = rows_of_videos(params, conditions, portraits, model, seeds, sampler)
  if conditions.deliver:
    for i, (own, portrait) in enumerate(zip(rows, portraits)):
      conditions.deliver(i, own, of_rows(own, portrait, config.morphable.expression, config.fps))

  prepared = sampler.prepare(params, conditions.portraits.reference, portraits)
  yield from drawn(params, prepared, rows, seeds, sampler)


def drawn(
  params, prepared: Portrait, rows: Sequence[np.ndarray], seeds: np.ndarray, sampler: Sampler
) -> Iterator[np.ndarray]:
  """Frames of videos with coefficients [f, k] each: [b, f, h, w, 3] in [-1, 1], f at a time, the last frame held."""
  config = sampler.config
  place, b, longest = sharding.batch_placement(params), len(rows), max(map(len, rows))
  devices = sharding.num_devices(params)
  chunk = -(-max(1, config.frames_at_once * devices // b) // devices) * devices
  for first in range(0, longest, chunk):
    numbers = np.arange(first, first + chunk)
    wanted = np.concatenate([r[np.minimum(numbers, len(r) - 1)] for r in rows])
    held = np.concatenate([np.minimum(numbers, len(r) - 1) for r in rows])
    video = np.repeat(np.arange(b), chunk)
    made = np.asarray(sampler.draw(params, prepared, *map(place, (video, wanted, seeds[video], held))))
    yield made.reshape(b, chunk, *made.shape[1:])[:, : longest - first]


def renderer(params, portraits: Sequence[np.ndarray], *, sampler: Sampler) -> Callable[..., np.ndarray]:
  """Draws motion that another system made, see `System.renderer`.

  Args:
    params: from training.
    portraits: uint8 [h, w, 3] each, cropped to the largest square around the face.
    sampler: compiled once per number of portraits.

  Raises:
    UserError: a portrait has no face.
  """
  config, model = sampler.config, coefficients.numpy_model_of(params, sampler.config)
  crop = lambda p, i: portrait_conditions.crop_portrait(p, config.size, f'portrait {i}', config.framing)
  found = [crop(portrait, i) for i, portrait in enumerate(portraits)]
  own = np.stack([face_of(portrait, config).rows(model)[0] for portrait in found])
  prepared = sampler.prepare(params, np.stack([portrait.image for portrait in found]), own)

  def draw(motion: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    first = motion.shape[-1] - 6
    moves = [Motion(m[:, :first], m[:, first : first + 3], m[:, -3:], config.fps) for m in motion]
    rows = [move.rows(portrait) for move, portrait in zip(moves, own)]
    return to_uint8(np.concatenate(list(drawn(params, prepared, rows, np.asarray(seeds, np.uint32), sampler)), axis=1))

  return draw


def rows_of_videos(
  params, conditions: Conditions, portraits: np.ndarray, model, seeds: np.ndarray, sampler: Sampler
) -> list[np.ndarray]:
  """The coefficients [f, k] of each video: given motion, or an expression from speech and a pose.

  A generated pose has the angles that were generated. It does not know how large the portrait's face is, and where:
  its translation is centred on the portrait's.

  Args:
    params: from training.
    conditions: see `Conditions`.
    portraits: [b, k], the coefficients of the portraits.
    model: the morphable model.
    seeds: [b].
    sampler: of stage 3.
  """
  spoken = [i for i, motion in enumerate(conditions.motion) if motion is None]
  expressions, poses = {}, {}
  for predicted in (True, False):
    own = [i for i in spoken if (conditions.pose[i] is None) == predicted]
    if own:
      features = [sampler.audio.of_sound(params, conditions.sound[i]) for i in own]
      made = motion_generation.generate_motion(params, features, seeds[own], sampler=sampler.motion, pose=predicted)
      made = dict(zip(own, (motion_generation.physical(model, x) for x in made)))
      expressions |= {i: x[:, : sampler.config.morphable.expression] for i, x in made.items()}
      poses |= {i: x[:, -6:] for i, x in made.items()} if predicted else {}
  rows = []
  for i, (portrait, sound) in enumerate(zip(portraits, conditions.sound)):
    own = conditions.motion[i]
    if own is None:
      pose = poses[i] if i in poses else conditions.pose[i](model, portrait, sound.num_frames)
      own = Motion(expressions[i], pose[:, :3], pose[:, 3:] - pose[:, 3:].mean(0), sampler.config.fps)
    rows.append(own.rows(portrait)[: sound.num_frames])
  return rows
