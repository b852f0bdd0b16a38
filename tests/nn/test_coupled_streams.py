"""Two streams over the same frames: what may depend on what."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from talkjax.nn.coupled_streams import COUPLINGS, CoupledStreams, StreamClassifier
from tests.micro import random_params

SIZES = {'width': 32, 'blocks': 2, 'heads': 2, 'windows': (1, 3)}


def inputs(frames: int = 7):
  generator = np.random.default_rng(0)
  motion, sound = (jnp.asarray(generator.standard_normal((2, frames, c), np.float32)) for c in (5, 6))
  return motion, sound, jnp.array([3.0, 600.0])


def made(coupling: str = 'time', captions: int = 2):
  net = CoupledStreams(5, 6, **SIZES, coupling=coupling, num_captions=captions)
  shifts = net.draw_shifts(jax.random.key(1), 7)
  labels = (jnp.array([0, captions]),) if captions else ()
  params = random_params(jax.eval_shape(net.init, jax.random.key(0), *inputs(), shifts, *labels)['params'])
  return lambda motion, sound, t, *more: net.apply({'params': params}, motion, sound, t, shifts, *(more or labels))


@pytest.mark.parametrize('coupling', COUPLINGS)
def test_both_modalities_see_each_other_and_the_timestep_and_the_caption(coupling):
  apply, (motion, sound, t) = made(coupling), inputs()
  out = apply(motion, sound, t)
  assert [x.shape for x in out] == [motion.shape, sound.shape] and {x.dtype for x in out} == {jnp.dtype('float32')}
  moved = apply(motion.at[:, 3].add(1.0), sound, t), apply(motion, sound.at[:, 3].add(1.0), t)
  assert all(np.abs(a - b).max() > 1e-3 for other in moved for a, b in zip(out, other))
  for other in (apply(motion, sound, t + 50), apply(motion, sound, t, jnp.array([1, 2]))):
    assert all(np.abs(a[0] - b[0]).max() > 1e-3 for a, b in zip(out, other))


def test_time_couples_neighbouring_frames_alone():
  """Of a single block without attention to itself, a frame sees the other stream no further than its convolutions."""
  net = CoupledStreams(5, 6, width=16, blocks=1, heads=2)
  motion, sound, t = inputs(15)
  shifts = net.draw_shifts(jax.random.key(1), 15)
  params = random_params(jax.eval_shape(net.init, jax.random.key(0), motion, sound, t, shifts)['params'])
  for stream in ('motion', 'sound'):
    params[f'{stream}_blocks_0']['attn']['to_out_0'] = jax.tree.map(
      jnp.zeros_like, params[f'{stream}_blocks_0']['attn']['to_out_0']
    )
  apply = lambda sound: net.apply({'params': params}, motion, sound, t, shifts)[0]
  changed = np.abs(apply(sound) - apply(sound.at[:, 7].add(1.0))).max((0, 2)) > 1e-6
  # Three convolutions of three frames on the way, and one to the other stream.
  assert changed.tolist() == [abs(i - 7) <= 4 for i in range(15)]


def test_fresh_streams_do_not_see_each_other():
  """What a stream gets from the other begins at zero, as in MM-Diffusion's blocks."""
  net = CoupledStreams(5, 6, **SIZES)
  motion, sound, t = inputs()
  shifts = net.draw_shifts(jax.random.key(1), 7)
  params = net.init(jax.random.key(0), motion, sound, t, shifts)['params']
  params['motion_out']['kernel'] = jnp.ones_like(params['motion_out']['kernel'])
  apply = lambda sound: net.apply({'params': params}, motion, sound, t, shifts)[0]
  np.testing.assert_array_equal(apply(sound), apply(sound + 1))
  assert not np.asarray(net.apply({'params': params}, motion, sound, t, shifts)[1]).any()  # zero-initialised


def test_captions_are_needed_exactly_where_there_are_any():
  motion, sound, t = inputs()
  for captions, labels in ((2, ()), (0, (jnp.zeros(2, int),))):
    net = CoupledStreams(5, 6, **SIZES, num_captions=captions)
    with pytest.raises(ValueError, match='^captions are (missing|given, and the network takes none)'):
      net.init(jax.random.key(0), motion, sound, t, jnp.zeros(2, int), *labels)
  with pytest.raises(ValueError, match='^ends are missing'):
    CoupledStreams(5, 6, **SIZES, ends=True).init(jax.random.key(0), motion, sound, t, jnp.zeros(2, int))
  with pytest.raises(ValueError, match="^coupling 'no' is not one of time, windows, attention"):
    CoupledStreams(5, 6, **SIZES, coupling='no').init(jax.random.key(0), motion, sound, t, jnp.zeros(2, int))


def test_both_streams_see_how_far_the_ends_of_the_video_are():
  net = CoupledStreams(5, 6, **SIZES, ends=True)
  motion, sound, t = inputs()
  shifts, ends = net.draw_shifts(jax.random.key(1), 7), jnp.stack([jnp.arange(7.0), 6 - jnp.arange(7.0)], -1)
  ends = jnp.stack([ends, ends])
  params = jax.eval_shape(functools.partial(net.init, ends=ends), jax.random.key(0), motion, sound, t, shifts)['params']
  params = random_params(params)
  apply = lambda ends: net.apply({'params': params}, motion, sound, t, shifts, ends=ends)
  for side in (0, 1):
    for a, b in zip(apply(ends), apply(ends.at[0, :, side].add(5.0))):
      assert np.abs(a[0] - b[0]).max() > 1e-3
      np.testing.assert_array_equal(a[1], b[1])
  # Far from both ends, a window does not know where it is.
  for a, b in zip(apply(ends + 1000), apply(ends + 2000)):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_the_classifier_sees_both_modalities():
  net = StreamClassifier(CoupledStreams(5, 6, **SIZES, predict=False), 3)
  motion, sound, t = inputs()
  shifts = jnp.zeros(2, jnp.int32)
  params = random_params(jax.eval_shape(net.init, jax.random.key(0), motion, sound, t, shifts)['params'])
  logits = lambda motion, sound: net.apply({'params': params}, motion, sound, t, shifts)
  assert logits(motion, sound).shape == (2, 3)
  gradients = jax.grad(lambda pair: logits(*pair)[0, 1])((motion, sound))
  assert all(np.abs(g[0]).max() > 0 and not np.abs(g[1]).max() for g in gradients)
