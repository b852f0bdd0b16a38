"""What systems around a backbone over latents share: from pictures to latents and back, and what the backbone is told.

Networks (`nets`) are a system's own dataclass. Here it has `backbone`, `reference` (LatentUNets), `latents`
(Autoencoder or Folding), `text` (channels of the ReferenceNet's one empty token) and, for small sizes: `change` (where
not 0, the backbone sees the portrait and learns the change from its latents, times this; see `outputs`), `modulated`
(residual blocks hear sound too) and `prior` (see `predict`).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from talkjax.diffusion import samplers, schedules
from talkjax.errors import UserError
from talkjax.nn.autoencoder import Autoencoder, Folding
from talkjax.systems import named_table


def init_latents(rng: jax.Array, nets) -> dict[str, Any]:
  """Fresh parameters of the autoencoder, {'autoencoder': ...}; none where pictures are folded."""
  if isinstance(nets.latents, Folding):
    return {}
  side = 2 ** (len(nets.latents.widths) - 1)
  return {'autoencoder': nets.latents.init(rng, jnp.zeros((1, side, side, 3)))['params']}


def encode(params, pictures: jax.Array, nets, rng: jax.Array | None = None) -> jax.Array:
  """Latents of pictures [..., h, w, 3], or of their moments [..., h', w', 2c] (mean and log variance of the
  autoencoder, as `portraits.frames_of` reads them); the autoencoder is never trained here.
  """
  flat = pictures.reshape(-1, *pictures.shape[-3:])
  if isinstance(nets.latents, Folding):
    latents = nets.latents.encode(flat)
  elif flat.shape[-1] == 2 * nets.latents.latent_channels:
    latents = nets.latents.draw(*jnp.split(flat.astype(jnp.float32), 2, axis=-1), rng)
  else:
    latents = nets.latents.apply({'params': params['autoencoder']}, flat, rng, method='encode')
    latents = jax.lax.stop_gradient(latents).astype(jnp.float32)
  return latents.reshape(*pictures.shape[:-3], *latents.shape[1:])


def decode(params, latents: jax.Array, nets) -> jax.Array:
  """Pictures [b, h, w, 3] of latents."""
  if isinstance(nets.latents, Folding):
    return nets.latents.decode(latents)
  return nets.latents.apply({'params': params['autoencoder']}, latents, method='decode')


def reference_features(params, reference: jax.Array, motion: jax.Array | None, nets):
  """One call of the ReferenceNet for the portrait and the motion frames (EMO section 3.2).

  Args:
    params: from `init`.
    reference: [b, h, w, c] latents.
    motion: [b, n, h, w, c] latents, or None.

  Returns:
    (features for the backbone's reference attention by path, features [b, n, ...] for its temporal layers by path).
  """
  b = reference.shape[0]
  n = 0 if motion is None else motion.shape[1]
  x = reference[:, None] if motion is None else jnp.concatenate([reference[:, None], motion], axis=1)
  x = x.reshape(b * (n + 1), *x.shape[2:])
  text = jnp.zeros((1, 1, nets.text))  # the prompt is not used
  _, features = nets.reference.apply({'params': params['reference']}, x, jnp.zeros(x.shape[0]), {'text': text})
  features = {k: v.reshape(b, n + 1, *v.shape[1:]) for k, v in features.items()}
  attended = {k: v[:, 0] for k, v in features.items() if '_attentions_' in k}
  return attended, {k: v[:, 1:] for k, v in features.items() if '_layers_' in k} if n else {}


@dataclasses.dataclass(frozen=True)
class Condition:
  """What the backbone is told, but for the noise: one tree, made once per clip.

  Attributes:
    contexts: for the backbone, features or their keys and values.
    before: motion features by path.
    modulation: [b * f, d], sound for the residual blocks, or None.
    added: [b * f, h, w, c], of the face region or the keypoints.
    speed: [b, f, c] tokens, or None.
    portrait: [b, h, w, c] latents (or [b, f, h, w, c]), which the backbone sees beside the noisy ones where it learns
      the change from them.
    weights: by context, how much it counts, [b] each; as trained (1) where absent.
    silence: like `modulation`, of no sound: what its weight starts from; None where there are no weights.
  """

  contexts: Any
  before: Any
  modulation: Any
  added: Any
  speed: Any
  portrait: Any
  weights: Any = dataclasses.field(default_factory=dict)
  silence: Any = None


jax.tree_util.register_dataclass(
  Condition, ['contexts', 'before', 'modulation', 'added', 'speed', 'portrait', 'weights', 'silence'], []
)


def weights_of(config, settings: Mapping[str, jax.Array], count: int) -> dict[str, jax.Array]:
  """`Condition.weights` of so many videos: the config's but for `settings`, [count] each (see `portraits.SETTINGS`)."""
  reference = settings.get('reference_weight', config.weights.reference)
  sound = settings.get('audio_weight', config.weights.audio)
  weights = {'reference': reference, 'audio': sound, 'modulation': sound}
  return {k: jnp.broadcast_to(jnp.asarray(v, jnp.float32), (count,)) for k, v in weights.items()}


def modulation(contexts: dict[str, jax.Array], nets) -> jax.Array | None:
  """What the residual blocks are told of the sound: its tokens in a row, [b * f, tokens * d]."""
  if not nets.modulated or 'audio' not in contexts:
    return None
  return contexts['audio'].reshape(contexts['audio'].shape[0], -1)


def predict(params, x: jax.Array, level: schedules.Level, condition: Condition, *, nets) -> jax.Array:
  """The prediction for noisy latents x [b, f, h, w, c] at levels [b], or one for all.

  With `nets.change` the backbone says two numbers of each: what is added, and the share of the portrait's own latents.
  With `nets.prior` it is x0: the backbone adds to the mean of x0 given x, were x0 Gaussian with that variance, so that
  a narrow network need not pass all of x through.
  """
  b, f = x.shape[:2]
  seen = beside(x, condition.portrait) if nets.change else x
  y, _ = nets.backbone.apply(
    {'params': params['backbone']},
    seen.reshape(b * f, *seen.shape[2:]),
    jnp.broadcast_to(level.timestep, (b,)),
    condition.contexts,
    frames=f,
    before=condition.before,
    speed=condition.speed,
    added=condition.added,
    modulation=condition.modulation,
    silence=condition.silence,
    weights={k: jnp.repeat(v, f) for k, v in condition.weights.items()},
  )
  y = y.reshape(*x.shape[:-1], -1)
  if nets.change:
    y, share = jnp.split(y, 2, axis=-1)
    y += share * per_frame(condition.portrait, x.ndim)
  if nets.prior:
    s, n = level.signal_scale, level.noise_scale
    y += x * jnp.reshape(s * nets.prior / (s**2 * nets.prior + n**2), (-1, 1, 1, 1, 1))
  return y


def outputs(channels: int, change: float) -> int:
  """Channels that the backbone says of latents with `channels`.

  Twice as many where it learns the change from a portrait: what is added, and how much of the portrait's own is. The
  inside of a mouth is of one colour, so that from pale skin more has to be taken away than from dark.
  """
  return 2 * channels if change else channels


def beside(x: jax.Array, portrait: jax.Array) -> jax.Array:
  """Latents [b, f, h, w, c] with the portrait's, [b, h, w, c] (or for each frame, like x), behind their channels."""
  return jnp.concatenate([x, jnp.broadcast_to(per_frame(portrait, x.ndim), x.shape)], axis=-1)


def per_frame(portrait: jax.Array, ndim: int) -> jax.Array:
  """A portrait's latents [b, h, w, c], or those of every frame, with as many dimensions as theirs."""
  return portrait if portrait.ndim == ndim else portrait[:, None]


def to_change(latents: jax.Array, portrait: jax.Array, nets) -> jax.Array:
  """What is diffused of latents [b, f, h, w, c]: themselves, or how they differ from the portrait's [b, h, w, c]."""
  return (latents - portrait[:, None]) * nets.change if nets.change else latents


def from_change(change: jax.Array, portrait: jax.Array, nets) -> jax.Array:
  """The inverse of `to_change`."""
  return change / nets.change + portrait[:, None] if nets.change else change


def hide_mouths(x: jax.Array, noise: jax.Array, level, mouth: jax.Array, share: float, rng: jax.Array) -> jax.Array:
  """Noisy latents x [b, f, h, w, c] whose mouths are nothing but noise in that share of the noisier examples.

  Where a mouth can be seen in the noise, or guessed from the frames before, nothing is learned of sound; and seen it is
  at most levels.
  """
  hidden = jax.random.bernoulli(rng, share, x.shape[:1]) & (level.noise_scale > 0.7)
  return jnp.where(hidden.reshape(-1, 1, 1, 1, 1) & mouth, noise, x)


def scale_examples(tree, scale: jax.Array):
  """Every leaf [b, ...] times scale [b]."""
  return jax.tree.map(lambda x: x * scale.reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype), tree)


def check(config) -> None:
  """Raises UserError for settings that do not go together."""
  if config.audio.kind == 'wav2vec2' and not config.audio.context:
    raise UserError(
      'config.audio.kind=wav2vec2 comes with other settings: give it as an argument of the config, '
      f'--config=configs/{config.system}.py:paper,stage=2,audio.kind=wav2vec2'
    )
  if config.augment.hidden_mouth and config.mouth_weight == 1:
    raise UserError(
      'config.augment.hidden_mouth hides what config.mouth_weight weighs, and that is 1: set it to more, or hide none'
    )
  if config.diffusion.prior and config.diffusion.target != 'x0':
    raise UserError(
      f'config.diffusion.prior={config.diffusion.prior} is for a network that predicts x0, and config.diffusion.target '
      f'is {config.diffusion.target!r}: set the one to 0 or the other to x0'
    )


def make_schedule(diffusion) -> schedules.Schedule:
  """The noise schedule of a config."""
  return schedules.make(
    diffusion.schedule, diffusion.steps, diffusion.start, diffusion.end, zero_snr=diffusion.zero_snr
  )


def make_table(config, previous: str = 'next') -> samplers.Table:
  """The sampler's coefficients; `sampler.name`: ddim, ddpm or dpm++. Raises UserError, see `named_table`.

  Args:
    config: of a system.
    previous: where a step of DDIM leads, see `samplers.ddim`.
  """
  schedule = make_schedule(config.diffusion)
  settings = config.sampler
  tables = {
    'ddim': lambda: samplers.ddim(
      schedule, settings.steps, eta=settings.eta, spacing=settings.spacing, previous=previous
    ),
    'ddpm': lambda: samplers.ddpm(schedule, settings.steps, spacing=settings.spacing),
    'dpm++': lambda: samplers.dpm_solver_pp_2m(schedule, settings.steps, spacing='trailing'),
  }
  return named_table(tables, settings)


def make_latents(config) -> tuple[Autoencoder | Folding, int]:
  """What makes latents of pictures, and how many channels they have."""
  if config.latents.kind == 'fold':
    return Folding(config.latents.patch), 3 * config.latents.patch**2
  net = Autoencoder(tuple(config.latents.widths), scaling=config.latents.scaling, dtype=jnp.dtype(config.dtype))
  return net, net.latent_channels


def unet_fields(config) -> dict[str, Any]:
  """Fields that the backbone has in common with its ReferenceNet."""
  m = config.model
  return dict(
    widths=tuple(m.widths),
    attention=tuple(m.attention),
    layers=m.layers,
    heads=m.heads,
    groups=m.groups,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
  )
