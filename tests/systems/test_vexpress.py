"""V-Express on drawn puppets: examples, dependencies, conditional dropout, what trains, wrong configs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import portrait
from configs import vexpress as config_file
from talkjax import systems
from talkjax.corpora import footage
from talkjax.diffusion import losses
from talkjax.errors import UserError
from talkjax.faces import keypoints
from talkjax.nn.latent_unet import Conditioning, precompute_kv
from talkjax.systems.portrait import framing, networks
from talkjax.systems.portrait.networks import PortraitConditioning
from talkjax.systems.portrait.overlay import TURN, Overlay, pixel_centres
from talkjax.systems.portrait.reading import face_points
from talkjax.systems.vexpress import model
from talkjax.training import state
from talkjax.training.sharding import path_name
from tests.micro import vexpress_config as micro


def test_an_example_has_the_keypoints_of_its_frames_and_the_audio_around_them(puppets, vexpress):
  config, record = micro(2, puppets), vexpress.records[0]
  example = systems.build(config).read(record, np.random.default_rng(1))
  assert example['target'].shape == (1, 4, 32, 32, 3) and example['audio'].shape == (1, 8, 160)
  window = framing.of_record(record, config.framing)
  frames = np.stack([window.picture(record.frame(i), 32) for i in range(len(record.frames))])
  start = next(i for i, f in enumerate(frames) if np.array_equal(f, example['target'][0, 0]))
  points = face_points(record, config)[start : start + 4]
  np.testing.assert_array_equal(example['kps'][0], keypoints.draw_all(points, 32, config.kps_canvas))
  assert example['weight'].shape == (1, 4, 8, 8, 1) and set(np.unique(example['weight'])) == {1, 20}
  np.testing.assert_array_equal(example['points'][0] * 32, points)
  reference = next(i for i, f in enumerate(frames) if np.array_equal(f, example['reference'][0]))
  np.testing.assert_array_equal(example['reference_points'][0] * 32, face_points(record, config)[reference])


def test_a_mirrored_example_is_mirrored_whole_and_its_eyes_change_colours(puppets, vexpress):
  plain, mirrored = (
    systems.build(micro(2, puppets, **{'augment.flip': flip})).read(vexpress.records[0], np.random.default_rng(1))
    for flip in (0.0, 1.0)
  )
  for key in ('target', 'reference', 'weight'):
    np.testing.assert_array_equal(mirrored[key], plain[key][..., ::-1, :])
  np.testing.assert_array_equal(mirrored['audio'], plain['audio'])
  pixels = plain['kps'][..., ::-1, :].astype(int)
  difference = lambda other: np.abs(mirrored['kps'] - other).mean()
  assert difference(pixels[..., [1, 0, 2]]) < 0.4 * difference(pixels)


def test_silent_records_train_the_first_stage_only(puppets, vexpress):
  silent = dataclasses.replace(vexpress.records[0], audio=np.zeros(0, np.int16))
  systems.build(micro(1, puppets, **{'audio.kind': 'none'})).read(silent, np.random.default_rng(0))
  with pytest.raises(UserError, match='has no sound'):
    systems.build(micro(2, puppets)).read(silent, np.random.default_rng(0))


def test_the_loss_depends_on_every_condition(vexpress):
  batch = vexpress.batch
  given = {k: batch[k].astype(np.float32) for k in ('reference', 'audio')}
  loss = lambda given, kps: vexpress.system.loss(
    vexpress.params, {**batch, **given, 'kps': kps}, jax.random.key(1), False
  )[0]
  run = jax.jit(jax.value_and_grad(loss))
  value, gradient = run(given, batch['kps'])
  assert all(float(jnp.abs(x).max()) > 0 for x in gradient.values())
  assert abs(float(value - run(given, np.zeros_like(batch['kps']))[0])) > 1e-6


def test_dropped_conditions_are_zero_and_dropped_by_frame(vexpress):
  config, params = vexpress.config, vexpress.params
  nets = model.make_networks(config)
  portrait = networks.encode(params, vexpress.batch, 'reference', nets)
  features, _ = jax.jit(lambda p, x: networks.reference_features(p, x, None, nets))(params, portrait)
  contexts = {'reference': features, 'audio': jnp.ones((8, 2, 64))}
  guide = jnp.ones((8, 8, 8, 32))
  kv = precompute_kv(params['backbone'], {'reference': features})['reference']

  laid = 2 * jnp.ones((*portrait.shape[:1], 4, *portrait.shape[1:]))
  unet = Conditioning(contexts, guide_features=guide, modulation=jnp.ones((8, 5 + TURN)))
  points = jnp.full((2, 4, 32, 32, 2), 0.25)
  given = PortraitConditioning(unet, portrait, Overlay(laid, points), laid)

  def drop(seed=0, **shares):
    shares = type(config.drop)({'all': 0.0, 'kps': 0.0, 'reference': 0.0, **shares})
    return model.drop(params, given, 4, shares, jax.random.key(seed), nets)

  def parts(made):
    return made.unet.contexts, made.unet.guide_features, made.portrait

  kept, _, portraits = parts(drop())
  for path, pair in kept['reference'].items():
    for a, b in zip(pair, kv[path]):
      np.testing.assert_array_equal(a, jnp.repeat(b, 4, 0))
  np.testing.assert_array_equal(portraits, jnp.repeat(portrait[:, None], 4, 1))
  # Zero features have zero keys and values.
  zero = precompute_kv(params['backbone'], {'reference': jax.tree.map(jnp.zeros_like, features)})['reference']
  assert not any(np.any(x) for x in jax.tree.leaves(zero))
  nothing = drop(all=1.0)
  given_network = dataclasses.replace(nothing, base=None, overlay=(nothing.overlay.latents, nothing.overlay.shown))
  assert not any(np.any(x) for x in jax.tree.leaves(given_network))
  shares = []
  for seed in range(30):
    made = drop(seed, kps=0.5, reference=0.2)
    some, rest, portraits = parts(made)
    frames = [np.any(np.asarray(x), axis=(1, 2)) for x in jax.tree.leaves(some['reference'])]
    assert all(np.array_equal(f, frames[0]) for f in frames)  # the same frames in every block
    np.testing.assert_array_equal(np.any(np.asarray(portraits), axis=(2, 3, 4)).reshape(-1), frames[0])
    assert np.all(some['audio'] == 1)
    # How the face has turned goes with the keypoints, the sound does not.
    np.testing.assert_array_equal(made.unet.modulation[:, :5], 1)
    turned = np.broadcast_to(np.asarray(rest)[:, :1, 0, 0], (8, TURN))
    np.testing.assert_array_equal(made.unet.modulation[:, 5:], turned)
    # The overlay tells where the keypoints are: where these are dropped it is the portrait as it is.
    has_kps = np.asarray(rest)[:, 0, 0, 0].reshape(laid.shape[:2])[..., None, None, None] > 0
    shown = np.broadcast_to(np.any(np.asarray(portraits), axis=(2, 3, 4), keepdims=True), portraits.shape)
    np.testing.assert_array_equal(made.overlay.latents, np.where(has_kps, laid, portrait[:, None]) * shown)
    moved = np.where(has_kps, points, pixel_centres(32).reshape(32, 32, 2))
    np.testing.assert_array_equal(made.overlay.points, moved)
    np.testing.assert_array_equal(made.overlay.shown, shown[..., 0, 0, 0])
    np.testing.assert_array_equal(made.base, np.where(has_kps, laid, portrait[:, None]))
    shares.append([frames[0].mean(), np.asarray(rest)[:, 0, 0, 0].mean()])
  np.testing.assert_allclose(np.mean(shares, 0), [0.8, 0.5], atol=0.1)


def test_min_snr_weights_of_a_zero_terminal_snr_schedule():
  """The released formula: min(snr + 1, gamma) / (snr + 1) on velocities, which learns levels without signal too."""
  ratio = np.array([0.0, 0.5, 4.0, 50.0])
  expected = np.minimum(ratio + 1, 5.0) / (ratio + 1)
  np.testing.assert_allclose(losses.min_snr_weight(ratio, 'velocity', 5.0, 1.0), expected, rtol=1e-6)


def test_what_trains_in_each_stage(vexpress):
  for stage in (2, 3):
    mask = state.trainable_mask(vexpress.params, micro(stage).train)
    names = {path_name(p) for p, m in jax.tree_util.tree_leaves_with_path(mask) if m}
    assert any(n.startswith('audio/') for n in names) and any('motion_modules' in n for n in names)
    assert any('attn1_5' in n for n in names) == (stage == 3)


def test_stages_of_the_paper():
  """Nothing is initialised again between the last two: only what the first stage lacks may be new."""
  paper = [config_file.get_config(f'paper,stage={s}') for s in (1, 2, 3)]
  assert paper[2].init_new == () and paper[0].frames == 1 and paper[1].frames == paper[2].frames == 12
  assert (paper[1].drop.kps, paper[1].drop.reference, paper[0].drop.kps) == (0.5, 0.2, 0.0)
  assert paper[1].mouth_weight == 100 and (paper[1].windows.frames, paper[1].windows.overlap) == (12, 4)


@pytest.mark.parametrize('size', portrait.SIZES)
def test_videos_have_the_frame_rate_of_the_corpora_that_weights_are_trained_on(size):
  assert {config_file.get_config(f'{size},stage={stage}').fps for stage in (1, 2, 3)} == {footage.FPS}


@pytest.mark.parametrize(
  ('key', 'value', 'sentence'),
  [
    ('windows.overlap', 4, 'must be at least 0 and less than config.windows.frames=4'),
    ('windows.batch_size', 0, 'expected 1 window or more'),
    ('windows.frames', 64, 'more than the 32 frames'),
    ('compat', 'exact', 'is not one of paper, published'),
    ('sampler.name', 'dpm++', "sampler 'dpm\\+\\+' is not one of ddim, ddpm"),
  ],
)
def test_configs_that_cannot_be_built(key, value, sentence):
  config = micro(3)
  config.update_from_flattened_dict({'sampler.steps': 5, key: value})
  with pytest.raises(UserError, match=sentence):
    systems.build(config)
