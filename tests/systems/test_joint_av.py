"""joint_av on drawn puppets: examples, loss, what is known while sampling, and windows."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import caption_classifier, joint_av
from talkjax.errors import UserError
from talkjax.media import picture, vocoder
from talkjax.systems.joint import data, spaces
from talkjax.systems.joint_av import generation
from talkjax.systems.joint_av.conditions import Conditions
from talkjax.training import checkpoint
from tests import micro, renderer
from tests.joint import make, make_pixels, make_with_renderer


@pytest.fixture(scope='module')
def drawn(puppets):
  return renderer.make(puppets)


@pytest.fixture(scope='module')
def made(drawn, tmp_path_factory):
  return make_with_renderer(drawn, tmp_path_factory.mktemp('renderer'))


@pytest.fixture(scope='module')
def pixels(puppets):
  return make_pixels(puppets)


def sampler_of(made, **changes) -> generation.Sampler:
  config = made.config.copy_and_resolve_references()
  config.update_from_flattened_dict(changes)
  space = spaces.make(config)
  return generation.Sampler(space, space.network(len(config.captions)), config)


def conditions(n: int = 1, **changes) -> Conditions:
  return Conditions(
    **{'captions': (0,) * n, 'sound': [None] * n, 'portraits': [None] * n, 'lengths': (8,) * n, **changes}
  )


def sample(made, given: Conditions, seeds=(0,), **changes):
  return generation.sample(made.params, given, np.array(seeds, np.uint32), sampler_of(made, **changes))[0]


# Training.


def test_an_example_has_sound_and_motion_of_the_same_frames(made):
  record = made.records[0]
  example = made.system.read(record, np.random.default_rng(0))
  assert example['coefficients'].shape == (2, 8, 12) and example['sound'].shape == (2, 8, 160)
  assert example['caption'].tolist() == [joint_av.CAPTIONS.index(record.caption)] * 2
  centred = np.array(record.features['coefficients'], np.float32)
  centred[:, -3:] -= centred[:, -3:].mean(0)
  sound = vocoder.spectrogram_of_frames(record.audio.astype(np.float32) / 32768, 9, 25.0)
  starts = [int(np.square(sound[:2] - x[0]).sum(1).argmin()) for x in example['sound']]
  for start, rows, heard in zip(starts, example['coefficients'], example['sound']):
    np.testing.assert_allclose(rows, centred[start : start + 8], atol=2e-3)
    np.testing.assert_allclose(heard, sound[start : start + 8], atol=4e-3)
  sample = spaces.make(made.config).sample_of(made.params, example)
  assert sample['video'].shape == (2, 8, 2 + 10) and sample['audio'].shape == (2, 8, 1, 160)
  # Who is shown is the same in every frame, and told apart from the other person.
  assert not np.ptp(np.asarray(sample['video'][..., :2]), axis=1).any()
  other = spaces.make(made.config).sample_of(made.params, made.system.read(made.records[1], np.random.default_rng(0)))
  assert np.abs(sample['video'][0, 0, :2] - other['video'][0, 0, :2]).max() > 0.5


def test_a_segment_of_pixels_holds_a_digit_and_the_word_before_it(pixels):
  record = next(r for r in pixels.records if any(w.text in data.DIGITS for w in r.words))
  config = pixels.config.copy_and_resolve_references()
  config.data.segments = 'digit'
  index, digit = next((i, w) for i, w in enumerate(record.words) if w.text in data.DIGITS)
  starts = [data._start(record, 1.0, np.random.default_rng(i), 'digit') for i in range(20)]
  low, high = digit.end - 1, record.words[index - 1].start
  low, high = (low, high) if low <= high else ((low + high) / 2,) * 2
  assert all(max(low, 0) - 0.05 <= start <= high + 0.05 for start in starts) and np.ptp(starts) > 0
  example = data.read(record, np.random.default_rng(0), config=config)
  assert example['image'].shape == (2, 4, 12, 12, 3) and example['waveform'].shape == (2, 4000)
  bare = dataclasses.replace(record, words=())
  with pytest.raises(UserError, match='has no digit with a word before it, which config.data.segments=digit needs'):
    data.read(bare, np.random.default_rng(0), config=config)


def test_waveforms_are_scaled_in_and_out(pixels):
  space = spaces.make(pixels.config)
  assert space.sound_scale == 10
  waveform = (np.random.default_rng(0).uniform(-0.5, 0.5, 4 * space.samples)).astype(np.float32)
  rows = space.known_sound(None, waveform, 4)
  np.testing.assert_allclose(rows.reshape(-1), 10 * waveform, rtol=1e-6)
  np.testing.assert_allclose(space.sound(None, rows), waveform, rtol=1e-6)
  images = np.zeros((1, 4, space.config.space.size, space.config.space.size, 3), np.uint8)
  batch = {'image': images, 'waveform': np.round(waveform * 32768).astype(np.int16)[None]}
  np.testing.assert_allclose(space.sample_of(None, batch)['audio'][0], rows, atol=1e-3)


@pytest.mark.parametrize('kind', ['made', 'pixels'])
def test_the_loss_depends_on_both_modalities_and_the_caption(kind, request):
  made = request.getfixturevalue(kind)
  batch = {k: np.asarray(v) for k, v in made.batch.items()}
  loss = jax.jit(lambda batch, key: made.system.loss(made.params, batch, key, False))
  key = jax.random.key(0)
  first, terms = loss(batch, key)
  np.testing.assert_allclose(first, sum(terms.values()), rtol=1e-5)
  sound = 'sound' if 'sound' in batch else 'waveform'
  _, moved = loss({**batch, sound: batch[sound] // 2}, key)
  assert all(abs(moved[k] - terms[k]) > 1e-6 for k in terms)  # the picture's loss too: it sees the sound
  _, moved = loss({**batch, 'caption': 1 - batch['caption']}, key)
  assert all(abs(moved[k] - terms[k]) > 1e-6 for k in terms)


def test_clips_that_cannot_be_learned_from(made):
  record, generator = made.records[0], np.random.default_rng(0)
  for changes, sentence in (
    ({'caption': 'A dog barks'}, "the caption 'A dog barks' is not known .* one of 'A man is talking', 'A woman"),
    ({'audio': np.zeros(0, np.int16)}, 'has no sound, which this system learns'),
    ({'fps': 30.0}, 'has 30 frames/s, and config.space.fps is 25'),
    ({'features': {}}, 'has no coefficients of a morphable model'),
  ):
    with pytest.raises(UserError, match=sentence):
      made.system.read(dataclasses.replace(record, **changes), generator)
  short = micro.cut(record, 5)
  with pytest.raises(UserError, match=r'lasts 0.20 s, less than the 0.32 s of an example'):
    made.system.read(short, generator)


def test_what_is_measured_on_the_training_split(made):
  own = made.params[spaces.CORPUS]
  assert own['portraits'].shape == (3, 40, 40, 3) and own['portraits'].dtype == np.uint8
  space = spaces.make(made.config)
  codes = [space.known_portrait(made.params, r.frame(0))[0][:2] for r in made.records]
  order = sorted(range(2), key=lambda i: made.records[i].speaker)
  video = np.repeat(np.pad(np.stack([codes[i] for i in order]), [(0, 0), (0, 10)])[:, None], 8, 1)
  chosen = own['portraits'][space.who(made.params, video, (2, 2))]
  # A caption leaves those whom it describes; where there is none, all.
  labels = [joint_av.CAPTIONS.index(made.records[i].caption) for i in order]
  other = video[::-1]
  described = space.who(made.params, other, labels)
  expected = labels if labels[0] != labels[1] else own['captions'][space.who(made.params, other, (2, 2))].tolist()
  assert own['captions'][described].tolist() == expected
  for i, k in enumerate(order):
    true = picture.fit_square(made.records[k].frame(0), 40)
    assert np.abs(chosen[i].astype(int) - true).mean() < 12


# Sampling.


def test_a_sample_depends_on_its_seed_and_caption_and_not_on_its_batch(made):
  both = sample(made, conditions(2, captions=(0, 1)), (3, 4))
  alone = sample(made, conditions(captions=(1,)), (4,))
  for name, x in both.items():
    np.testing.assert_allclose(x[1], alone[name][0], atol=1e-4)
    assert np.abs(x[0] - x[1]).max() > 0.1
  other = sample(made, conditions(captions=(0,)), (4,))
  assert np.abs(other['video'] - alone['video']).max() > 1e-3


@pytest.mark.parametrize('kind', ['made', pytest.param('pixels', marks=pytest.mark.slow)])
def test_speech_is_kept_and_changes_the_video(kind, request):
  made = request.getfixturevalue(kind)
  speech = made.records[0].audio.astype(np.float32)[:4000] / 32768
  free, given = conditions(lengths=(4,)), conditions(lengths=(4,), sound=[speech])
  space = spaces.make(made.config)
  videos = [sample(made, free)['video']]
  for how in ('replacement', 'gradient'):
    x = sample(made, given, **{'guidance.speech': how})
    np.testing.assert_allclose(x['audio'][0], space.known_sound(made.params, speech, x['audio'].shape[1]), atol=1e-6)
    videos.append(x['video'])
  assert min(np.abs(videos[i] - videos[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-4
  np.testing.assert_array_equal(sample(made, given, **{'guidance.speech': 'none'})['video'], videos[0])


def test_the_gradient_moves_the_video_so_that_the_sound_is_predicted_better(made):
  """Eq. 11 at one step: the error of the sound that is predicted from the guided sample is smaller."""
  from talkjax.diffusion import guidance, targets

  sampler = sampler_of(made)
  space, level = sampler.space, jax.tree.map(np.asarray, sampler.table.rows(1))
  generator = np.random.default_rng(0)
  x = {k: generator.standard_normal((1, 8, *shape), np.float32) for k, shape in space.shapes.items()}
  known = jax.tree.map(lambda a: generator.standard_normal(a.shape).astype(np.float32), x)
  mask = {'video': np.ones_like(x['video']), 'audio': np.zeros_like(x['audio'])}
  denoise = sampler._denoiser(made.params, None, np.zeros(1, np.int32), space.ends(0, np.array([8])), None)
  target = made.config.diffusion.target
  x0 = lambda f, x: targets.to_x0(target, f(x, level), x, level)
  error = lambda video: float(np.square(x0(denoise, {**x, 'video': video})['audio'] - known['audio']).sum())
  plain, guided = x0(denoise, x), x0(guidance.correction(denoise, known, mask, 1e-3, target=target), x)
  np.testing.assert_allclose(plain['audio'], guided['audio'], atol=1e-5)
  moved = x['video'] + (guided['video'] - plain['video'])
  assert error(moved) < error(x['video'])


def test_a_window_knows_how_far_the_ends_of_its_video_are(made):
  sampler, seeds = sampler_of(made), np.zeros(1, np.uint32)
  ends = sampler.space.ends(6, np.array([10, 30]))['ends']
  assert ends[0].tolist() == [[6, 3], [7, 2], [8, 1], [9, 0], [10, 0], [11, 0], [12, 0], [13, 0]]
  assert ends[1, :, 1].tolist() == [23, 22, 21, 20, 19, 18, 17, 16]
  window = lambda first, length: sampler.window(
    made.params, None, None, np.zeros(1, np.int32), seeds, np.uint32(first), np.array([length], np.int32)
  )
  assert np.abs(window(0, 8)['audio'] - window(0, 40)['audio']).max() > 1e-3
  record = made.records[0]
  example = made.system.read(record, np.random.default_rng(0))
  assert (example['length'] == len(record.frames)).all() and (example['first'] <= len(record.frames) - 8).all()


def test_windows_continue_each_other(made):
  given = conditions(lengths=(19,))
  sampler, seeds = sampler_of(made), np.zeros(1, np.uint32)
  samples, seams = generation.sample(made.params, given, seeds, sampler)
  assert samples['video'].shape[1] == 20 and seams == (8, 14)
  captions, lengths = np.array(given.captions, np.int32), np.array(given.lengths, np.int32)
  first = sampler.window(made.params, None, None, captions, seeds, np.uint32(0), lengths)
  # The two frames that windows share pass from one to the next.
  np.testing.assert_allclose(samples['audio'][:, :7], first['audio'][:, :7], atol=1e-5)
  np.testing.assert_allclose(samples['video'][:, :7, 2:], first['video'][:, :7, 2:], atol=1e-5)
  assert np.abs(samples['audio'][:, 7] - first['audio'][:, 7]).max() > 1e-3
  assert generation._ramp(8).tolist() == pytest.approx([0, 0, 0, 0, 1 / 9, 3 / 9, 5 / 9, 7 / 9])
  assert np.ptp(samples['video'][:, 8:, :2], axis=1).max() < 1e-5  # the same person to the end


def test_compiled_once_for_every_length(made):
  sampler = sampler_of(made)
  for length in (3, 8, 30):
    generation.sample(made.params, conditions(lengths=(length,)), np.zeros(1, np.uint32), sampler)
  assert sampler.window._cache_size() == 2  # with and without anything known


def test_a_classifier_guides_captions(made, drawn, tmp_path):
  other = make(drawn, caption_classifier)
  checkpoint.save_params(tmp_path / 'captions', other.config, other.params, 1)
  by = {'guidance.caption_by': 'classifier', 'guidance.classifier': 30.0}
  with pytest.raises(UserError, match='by a classifier .* give --caption_classifier=WORKDIR'):
    sample(made, conditions(), **by)
  by['others.caption_classifier'] = str(tmp_path / 'captions')
  man, woman, nobody = (sample(made, conditions(captions=(label,)), **by) for label in (0, 1, 2))
  np.testing.assert_allclose(nobody['audio'], sample(made, conditions(captions=(2,)))['audio'], atol=1e-4)
  timesteps = np.zeros(1)
  logit = lambda x: np.diff(np.asarray(other.system.classify(other.params, x, timesteps)))[0, 0]
  assert logit(woman) > logit(nobody) > logit(man)


def test_true_frames_are_framed_as_generated_ones(made):
  given = made.system.from_records(made.records[:1], num_frames=3)
  chunk = next(iter(made.system.generate(made.params, given.conditions, np.zeros(1, np.uint32))))
  assert {f.shape for f in given.truth[0].frames} == {chunk.frames.shape[2:]} == {(32, 32, 3)}
