"""Generates sound and picture together, in windows that continue each other (sections IV.B to IV.E).

All windows of a video are sampled first, then its sound is made, then its frames are drawn a few at a time. A window
begins with the last frames of the one before, which condition it by replacement, as speech and portraits do.
"""

import itertools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from talkjax.diffusion import guidance, samplers
from talkjax.diffusion.noise import keyed_normal
from talkjax.errors import UserError
from talkjax.media.segments import AUDIO_RATE
from talkjax.systems import Chunk, joined
from talkjax.systems.joint.loss import apply
from talkjax.systems.joint_av.conditions import Conditions

LEAST_SIGNAL = 0.1  # sqrt(alpha_bar) below which the classifier does not guide
FRAMES_AT_ONCE = 32  # of a video, drawn and delivered together


class Sampler:
  """The compiled functions of a config: their shapes depend on the batch, never on a length."""

  def __init__(self, space, net, config):
    from talkjax.systems.sampling import make_table

    self.space, self.net, self.config = space, net, config
    self.table = make_table(config)
    self.window = jax.jit(self._window, static_argnames='classify')

  def _window(self, params, classifier, given, captions, seeds, first, lengths, *, classify=None):
    """A window of samples.

    Args:
      params: from training.
      classifier: parameters of the caption classifier, or None.
      given: (known, mask): samples [b, f, ...] of what is known, zeros elsewhere, and the same with 1 where it is
        generated; None: nothing is known.
      captions: int32 [b].
      seeds: uint32 [b].
      first: number of the window's first frame.
      lengths: int32 [b], frames of each video.
      classify: `System.classify` of the caption classifier; None: captions condition the network.

    Returns:
      samples {'video': [b, f, ...], 'audio': [b, f, n, c]}.
    """
    config, target = self.config, self.config.diffusion.target
    numbers = first + jnp.arange(self.space.frames, dtype=jnp.uint32)

    def noise(index):
      draw = lambda i, name: keyed_normal(seeds[:, None], numbers, 2 * index + i, self.space.shapes[name])
      return {name: draw(i, name) for i, name in enumerate(('video', 'audio'))}

    start = noise(len(self.table))
    denoise = self._denoiser(params, classifier, captions, self.space.ends(first, lengths), classify)
    if given:
      known, mask = given
      if config.guidance.speech == 'gradient':
        denoise = guidance.correction(denoise, known, mask, config.guidance.scale, target=target)
      # Known parts keep the noise that they began with, as the path of a deterministic sampler does.
      denoise = guidance.replacement(denoise, known, mask, lambda level: start)
    x = samplers.sample(denoise, start, self.table, noise, target=target, clip=config.sampler.clip or None)
    if given:
      x = jax.tree.map(lambda m, made, k: m * made + (1 - m) * k, mask, x, known)
    return x

  def _denoiser(self, params, classifier, captions, ends, classify) -> samplers.Denoise:
    """(x, level) -> the network's output, guided by the captions [b]; ends as of `space.ends`."""
    config, none = self.config, len(self.config.captions)

    def denoise(x, level, labels):
      # Windows are shifted at random in sampling too, the same for every video.
      key = jax.random.fold_in(jax.random.key(0), level.timestep.astype(jnp.int32))
      shifts = self.net.draw_shifts(key, self.space.frames)
      # Guidance by captions doubles the batch.
      own = {k: jnp.tile(v, (len(labels) // len(v), 1, 1)) for k, v in ends.items()}
      return apply(self.net, params, x, level.timestep, shifts, *((labels,) if none else ()), **own)

    nothing = jnp.full_like(captions, none)
    if classify is None:
      return guidance.classifier_free_batched(denoise, captions, nothing, config.guidance.caption)

    def gradient(x, level):
      def log_likelihood(x):
        timesteps = jnp.broadcast_to(level.timestep, captions.shape)
        logits = jax.nn.log_softmax(classify(classifier, x, timesteps))
        chosen = jnp.take_along_axis(logits, jnp.minimum(captions, none - 1)[:, None], axis=1)[:, 0]
        return jnp.sum(jnp.where(captions < none, chosen, 0.0))

      # At nearly no signal the shift of x0, n^2 / s times the gradient, has no bound, and nothing is there to classify.
      scale = config.guidance.classifier * (level.signal_scale > LEAST_SIGNAL)
      return jax.tree.map(lambda g: scale * g, jax.grad(log_likelihood)(x))

    guided = guidance.classifier_mean if config.sampler.name == 'ddpm' else guidance.classifier_score
    return guided(lambda x, level: denoise(x, level, nothing), gradient, target=config.diffusion.target)


def output_frame(config) -> tuple[int, float]:
  """Side of the frames that `generate` makes, and the `crop` around the face that they show, see `portrait.framing`.

  Raises:
    UserError: there is no renderer, or another workdir does not do what it is given for.
  """
  opened = lambda name: joined.config_of(name, config, joined.FIELDS[name], config.others[name])
  own = {name: opened(name) for name in joined.FIELDS}
  larger = own['super_resolution']
  if config.space.kind == 'pixels':
    return (larger or config.space).size, 0.0
  if own['renderer'] is None:
    raise UserError(
      'this workdir was trained without a renderer, which draws its motion: give --renderer=WORKDIR, a workdir of the '
      'third stage of fd2talk, or train with --config.renderer=WORKDIR'
    )
  return (larger or own['renderer']).size, own['renderer'].framing


def generate(
  params,
  conditions: Conditions,
  seeds: np.ndarray,
  progress: Callable[[float], None] | None = None,
  *,
  sampler: Sampler,
) -> Iterator[Chunk]:
  """Videos of a batch with their sound, a few frames at a time; a shorter video holds its last frame.

  Args:
    params: from training.
    conditions: see `Conditions`.
    seeds: [b] uint32, one per video.
    progress: called with the fraction of the sampling that is done.
    sampler: compiled once per batch size.

  Raises:
    UserError: there is no renderer, or another workdir cannot be opened.
  """
  space, config = sampler.space, sampler.config
  output_frame(config)  # there is all that is needed
  others = {
    name: joined.open_joined(name, params, config, field, config.others[name])
    for name, field in joined.FIELDS.items()
    if name != 'caption_classifier'
  }
  samples, seams = sample(params, conditions, seeds, sampler, progress)
  longest = max(conditions.lengths)
  sounds = []
  for i, own in enumerate(conditions.sound):
    sound = space.sound(params, samples['audio'][i]) if own is None else own
    length = round(longest / space.fps * AUDIO_RATE)
    sounds.append(np.pad(sound[:length], (0, max(0, length - len(sound)))).astype(np.float32))
  streams = [
    _frames(params, {k: v[i] for k, v in samples.items()}, conditions, i, sounds[i], seeds[i], sampler, others)
    for i in range(len(sounds))
  ]
  for first in range(0, longest, FRAMES_AT_ONCE):
    last = min(first + FRAMES_AT_ONCE, longest)
    frames = np.stack([np.stack(list(itertools.islice(stream, last - first))) for stream in streams])
    begin, end = (round(t / space.fps * AUDIO_RATE) for t in (first, last))
    within = tuple(tuple(s - first for s in seams if first <= s < last) for _ in streams)
    yield Chunk(frames, np.stack([s[begin:end] for s in sounds]), fps=space.fps, sound_rate=AUDIO_RATE, seams=within)


def sample(params, conditions: Conditions, seeds, sampler: Sampler, progress=None) -> tuple[dict, tuple[int, ...]]:
  """(samples [b, n, ...] of at least as many frames as the longest video, the frames at which windows join)."""
  space, config = sampler.space, sampler.config
  overlap, size, b = config.guidance.overlap, space.frames, len(seeds)
  count = max(1, -(-(max(conditions.lengths) - overlap) // (size - overlap)))
  total = size + (count - 1) * (size - overlap)
  known = {name: np.zeros((b, total, *space.shapes[name]), np.float32) for name in ('video', 'audio')}
  mask = {name: np.ones_like(x) for name, x in known.items()}
  for i, sound in enumerate(conditions.sound):
    if sound is not None and config.guidance.speech != 'none':
      known['audio'][i], mask['audio'][i] = space.known_sound(params, sound, total), 0
  for i, portrait in enumerate(conditions.portraits):
    if portrait is not None:
      value, generated = space.known_portrait(params, portrait)
      frames = slice(None) if space.portrait_everywhere else slice(0, 1)
      known['video'][i, frames], mask['video'][i, frames] = value, generated
  classifier = None
  if config.guidance.caption_by == 'classifier':
    name = 'caption_classifier'
    classifier = joined.open_joined(name, params, config, joined.FIELDS[name], config.others[name])
    if classifier is None:
      raise UserError(
        'captions guide this model by a classifier (config.guidance.caption_by), and it has none: give '
        '--caption_classifier=WORKDIR, or --caption_by=condition'
      )
  captions, seeds = np.asarray(conditions.captions, np.int32), np.asarray(seeds, np.uint32)
  lengths = np.asarray(conditions.lengths, np.int32)
  for number in range(count):
    first = number * (size - overlap)
    part = lambda x, first=first: {k: v[:, first : first + size] for k, v in x.items()}
    made = sampler.window(
      params,
      classifier and classifier.params,
      (part(known), part(mask)) if any((m == 0).any() for m in part(mask).values()) else None,
      captions,
      seeds,
      np.uint32(first),
      lengths,
      classify=classifier and classifier.system.classify,
    )
    for name, x in made.items():
      known[name][:, first : first + size] = x
      # The next window takes over gradually within what both share.
      last = mask[name][:, first + size - overlap : first + size]
      last *= _ramp(overlap).reshape(1, -1, *[1] * (last.ndim - 2))
    if number == 0:
      space.keep_person(known['video'], mask['video'], size)
    if progress:
      progress((number + 1) / count)
  return known, tuple(first for first in range(size, total, size - overlap))


def _ramp(overlap: int) -> np.ndarray:
  """How much of each shared frame the next window generates anew: 0 in the first half, then rising to 1: [overlap]."""
  return np.clip(2 * (np.arange(overlap) + 1) / (overlap + 1) - 1, 0, 1).astype(np.float32)


def _frames(params, own, conditions: Conditions, i: int, sound, seed, sampler: Sampler, others) -> Iterator[np.ndarray]:
  """Frames uint8 [h, w, 3] of one video, the last one held for ever."""
  space, length = sampler.space, conditions.lengths[i]
  portrait = conditions.portraits[i]
  if portrait is None and others['renderer'] is not None:
    person = space.who(params, own['video'][None, :length], conditions.captions[i : i + 1])[0]
    portrait = np.asarray(params['corpus']['portraits'])[person]
  frames = _drawn(params, own['video'][:length], portrait, seed, sampler, others)
  if (lips := others['wav2lip']) is not None and not sampler.config.others.no_wav2lip:
    speech = sound[: round(length / space.fps * AUDIO_RATE)]
    frames = lips.system.lip_sync(lips.params, frames, speech, space.fps)
  if (larger := others['super_resolution']) is not None:
    frames = _enlarged(frames, larger, int(seed))
  last = None
  for last in frames:
    yield last
  while True:
    yield last


def _drawn(params, video, portrait, seed, sampler: Sampler, others) -> Iterator[np.ndarray]:
  """The frames of one video [n, ...], as they are sampled or as the renderer draws them."""
  space = sampler.space
  if sampler.config.space.kind == 'pixels':
    for first in range(0, len(video), FRAMES_AT_ONCE):
      yield from space.pictures(video[None, first : first + FRAMES_AT_ONCE])[0]
    return
  renderer = others['renderer']
  draw = renderer.system.renderer(renderer.params, [portrait])
  motion = space.motions(params, video)
  for first in range(0, len(motion), FRAMES_AT_ONCE):
    yield from draw(motion[None, first : first + FRAMES_AT_ONCE], np.array([seed], np.uint32))[0]


def _enlarged(frames: Iterator[np.ndarray], larger: joined.Joined, seed: int) -> Iterator[np.ndarray]:
  for piece in iter(lambda: list(itertools.islice(frames, FRAMES_AT_ONCE)), []):
    yield from larger.system.upscale(larger.params, np.stack(piece), seed)
