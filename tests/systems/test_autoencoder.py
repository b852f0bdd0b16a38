"""Autoencoders as systems: what they read, learn, keep and are scored by."""

import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import autoencoder as config_file
from talkjax import systems
from talkjax.errors import UsageError
from talkjax.media import picture, video
from talkjax.nn.patch_discriminator import PatchDiscriminator
from talkjax.systems import reconstruction, scoring
from talkjax.systems.autoencoder import model
from talkjax.training import input_pipeline
from tests import micro

KL = {'size': 16, 'batch_size': 2, 'latents.widths': (8, 8), 'data.corpus': 'puppets/tiny'}
VQ = {
  **KL,
  'latents.codebook': 6,
  'latents.latent_channels': 3,
  'loss.kl': 0.0,
  'loss.deviation': 0.0,
  'loss.codebook': 0.25,
  'loss.commitment': 1.0,
}


def config(puppets, changes):
  made = config_file.get_config('tiny')
  made.update_from_flattened_dict(changes)
  made.data.dir = str(puppets)
  return made


@pytest.fixture(scope='module')
def kl(puppets):
  return micro.setup(config(puppets, KL))


@pytest.fixture(scope='module')
def vq(puppets):
  return micro.setup(config(puppets, VQ))


@pytest.fixture(scope='module')
def record(kl):
  return kl.records[0]


def test_squares_are_of_the_frame_and_as_asked(record):
  augment = config_file.get_config('tiny').augment
  generator = np.random.default_rng(0)
  draw = lambda **changes: [
    reconstruction.random_square(
      record.box[0], record.size, generator, ml_collections.ConfigDict({**augment, **changes})
    )
    for _ in range(200)
  ]
  sides = []
  for top, left, side in draw(whole=0.0, face=0.0):
    assert top >= 0 and left >= 0 and top + side <= record.size[0] and left + side <= record.size[1]
    sides.append(side / min(record.size))
  assert np.isclose(min(sides), 0.375, atol=0.05) and np.isclose(max(sides), 1.0, atol=0.05)
  assert set(draw(whole=1.0)) == {(0, 0, min(record.size))}
  x0, y0, x1, y1 = record.box[0]
  for top, left, side in draw(whole=0.0, face=1.0, scale=(0.375, 0.375)):
    row, column = top + side / 2, left + side / 2
    near_edge = top == 0 or left == 0 or top + side == record.size[0] or left + side == record.size[1]
    assert near_edge or (y0 - 1 <= row <= y1 + 1 and x0 - 1 <= column <= x1 + 1)


def test_a_square_at_its_own_size_is_the_frame(record):
  frame = record.frame(0)
  np.testing.assert_array_equal(reconstruction.cut(frame, (3, 5, 16), 16), frame[3:19, 5:21])
  np.testing.assert_array_equal(reconstruction.cut(frame, (3, 5, 16), 16, mirrored=True), frame[3:19, 5:21][:, ::-1])


def test_terms():
  r = np.random.default_rng(0)
  true, made = (jnp.asarray(r.normal(size=(2, 4, 5, 3)), jnp.float32) for _ in range(2))
  terms = reconstruction.pixel_terms(true, made, {'l1': 1.0, 'l2': 1.0, 'gradient': 1.0})
  d = np.asarray(made) - np.asarray(true)
  gradient = np.abs(d[:, 1:] - d[:, :-1]).mean() + np.abs(d[:, :, 1:] - d[:, :, :-1]).mean()
  for name, value in {'l1': np.abs(d).mean(), 'l2': np.square(d).mean(), 'gradient': gradient}.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-5)
  assert reconstruction.pixel_terms(true, made, {'l1': 0.0, 'l2': 0.0, 'gradient': 0.0}) == {}
  mean, logvar = jnp.asarray([0.0, 2.0]), jnp.asarray([0.0, np.log(0.25)])
  np.testing.assert_allclose(reconstruction.kl(mean, logvar), (0 + 0.5 * (4 + 0.25 - 1 - np.log(0.25))) / 2, rtol=1e-6)
  latents = jnp.asarray(r.normal(size=(50, 20, 20, 2)), jnp.float32)
  narrow = jnp.full_like(latents, -30)
  np.testing.assert_allclose(reconstruction.deviation(latents, narrow), 0, atol=1e-3)
  np.testing.assert_allclose(reconstruction.deviation(2 * latents + 1, narrow), 1 + np.log(4) ** 2, rtol=0.05)


def test_codes_and_latents_move_towards_each_other():
  latents, codes = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 0.0]])
  gradient = lambda name: jax.grad(lambda z, e: reconstruction.codebook_terms(z, e)[name], argnums=(0, 1))
  moved = {name: gradient(name)(latents, codes) for name in ('commitment', 'codebook')}
  np.testing.assert_array_equal(moved['commitment'], [[[1.0, 0.0]], [[0.0, 0.0]]])
  np.testing.assert_array_equal(moved['codebook'], [[[0.0, 0.0]], [[-1.0, 0.0]]])


def test_each_player_trains_by_its_own_term():
  """And the adversarial gradient at the last layer is as long as that of the reconstruction."""
  net = PatchDiscriminator(4, 1)
  r = np.random.default_rng(0)
  true, hidden = (jnp.asarray(r.normal(size=(2, 16, 16, 3)), jnp.float32) for _ in range(2))
  kernel = jnp.asarray(r.normal(size=(3, 3)), jnp.float32)
  params = micro.random_params(jax.eval_shape(net.init, jax.random.key(0), true)['params'])
  make = lambda kernel: jnp.tanh(hidden @ kernel)
  difference = lambda made: jnp.mean(jnp.square(made - true))

  def terms(kernel, params):
    return reconstruction.adversarial_terms(net, params, true, make(kernel), make, kernel, difference)

  gradient = lambda name: jax.jit(jax.grad(lambda k, p: terms(k, p)[name], argnums=(0, 1)))(kernel, params)
  at_kernel, at_params = gradient('adversarial')
  np.testing.assert_allclose(
    jnp.linalg.norm(at_kernel), jnp.linalg.norm(jax.grad(lambda k: difference(make(k)))(kernel)), rtol=1e-2
  )
  assert all(not leaf.any() for leaf in jax.tree.leaves(at_params))
  at_kernel, at_params = gradient('discriminator')
  assert not at_kernel.any() and all(leaf.any() for leaf in jax.tree.leaves(at_params))


@pytest.mark.parametrize('kind', ['kl', 'vq'])
def test_training_lowers_the_loss(kind, request):
  made = request.getfixturevalue(kind)
  params = jax.jit(made.system.init)(jax.random.key(0), made.batch)

  @jax.jit
  def step(params, key):
    value, gradient = jax.value_and_grad(lambda p: made.system.loss(p, made.batch, key, True)[0])(params)
    descend = lambda p, g: p - 0.05 * g / (1e-3 + jnp.sqrt(jnp.mean(g**2))) * 0.1
    return value, gradient, jax.tree.map(descend, params, gradient)

  first = None
  for number in range(30):
    value, gradient, params = step(params, jax.random.key(number))
    first = first or value
  assert value < 0.8 * first
  if kind == 'vq':
    codes = gradient['autoencoder']['quantize_embedding']['embedding']
    assert codes.any() and gradient['autoencoder']['encoder']['conv_in']['kernel'].any()


def test_every_term_at_once(puppets):
  """LPIPS is frozen; the adversarial term comes with a discriminator."""
  changes = {**VQ, 'size': 32, 'loss.lpips': 1.0, 'loss.adversarial': 0.5, 'lpips': 'alex', 'discriminator.width': 4}
  made = micro.setup(config(puppets, {**changes, 'discriminator.layers': 1}))
  assert set(made.params) == {'autoencoder', 'lpips', 'discriminator'} and made.system.frozen == ('lpips',)
  value, terms = jax.jit(functools.partial(made.system.loss, train=True))(made.params, made.batch, jax.random.key(0))
  assert set(terms) == {'l1', 'gradient', 'lpips', 'codebook', 'commitment', 'adversarial', 'discriminator'}
  weights = {**made.config.loss, 'discriminator': 1.0}
  np.testing.assert_allclose(value, sum(weights[k] * v for k, v in terms.items()), rtol=1e-5)


def test_a_record_is_kept_frame_by_frame(kl):
  record = micro.cut(kl.records[0], 11)
  truths, kept = kl.system.predict(kl.params, [record])
  batch = kl.system.from_records([record])
  np.testing.assert_array_equal(truths[0].frames, batch.truth[0].frames)
  generated = micro.generate(kl.system, kl.params, batch.conditions, [0])[0]
  assert generated.shape == (11, 16, 16, 3)
  np.testing.assert_allclose(generated, np.stack(kept[0].frames), atol=1)
  net = model.make_parts(kl.config).autoencoder
  one = net.apply({'params': kl.params['autoencoder']}, picture.to_float(truths[0].frames[10])[None])
  np.testing.assert_allclose(picture.to_uint8(one[0]).astype(int), generated[10], atol=1)


def test_scores(vq):
  records = [micro.cut(record, 3) for record in vq.records]
  scores = scoring.score_workdir(vq.system, vq.config, vq.params, records, scoring.Settings(batch_size=2))
  assert {'psnr', 'ssim', 'sharpness_face', 'sharpness_mouth', 'latent_deviation', 'codes_used'} <= set(scores.means)
  codes = vq.system.predict(vq.params, records[:1])[1][0].curves['codes']
  row = scores.rows[0]
  used = len(np.unique(codes))
  assert codes.shape == (3, 16) and np.isclose(row['codes_used'], used / 6) and 1 <= row['code_perplexity'] <= used


def test_pictures_and_videos(kl, record, tmp_path):
  frame = picture.fit_square(record.frame(0), 16)
  picture.write(tmp_path / 'p.png', frame)
  output = tmp_path / 'kept.png'
  assert micro.render(kl, output, image=(str(tmp_path / 'p.png'),)) == {str(output): 1}
  kept = kl.system.predict(kl.params, [micro.cut(record, 1)])[1][0].frames[0]
  np.testing.assert_allclose(picture.read(output).astype(int), kept, atol=1)
  with video.VideoWriter(tmp_path / 'v.mp4', 10, (16, 16)) as writer:
    for i in range(9):
      writer.write(record.frame(i)[:16, :16])
  assert micro.render(kl, tmp_path / 'kept.mp4', video=str(tmp_path / 'v.mp4')) == {str(tmp_path / 'kept.mp4'): 9}
  assert video.probe(tmp_path / 'kept.mp4').num_frames == 9


@pytest.mark.parametrize(
  ('inputs', 'output', 'sentence'),
  [
    ({}, 'a.png', 'either --image or --video'),
    ({'image': ('a.png',), 'video': 'b.mp4'}, 'a.png', 'either --image or --video'),
    ({'image': ('a.png', 'b.png')}, 'c.png', 'one at a time'),
    ({'image': ('a.png',)}, 'c.mp4', 'expected a .png for --image'),
    ({'video': 'a.mp4'}, 'c.png', 'expected an .mp4 for --video'),
  ],
)
def test_requests_that_cannot_be_met(kl, inputs, output, sentence):
  with pytest.raises(UsageError, match=sentence):
    kl.system.from_files(kl.params, systems.Request(output, inputs))


def test_a_corpus_is_read_in_squares(kl):
  batch = kl.batch['image']
  assert batch.shape == (2, 16, 16, 3) and batch.dtype == np.uint8 and batch.std() > 0
  one = next(input_pipeline.eval_records(kl.config.data, 'train', 1))
  read = lambda seed: kl.system.read(one, np.random.default_rng(seed))['image']
  np.testing.assert_array_equal(read(0), read(0))
  assert not np.array_equal(read(0), read(1))
