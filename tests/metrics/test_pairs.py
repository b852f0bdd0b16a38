"""Scores of two videos, with faces that are given and networks that are simple functions of their input."""

import dataclasses

import numpy as np
import pytest

from talkjax.faces import align
from talkjax.metrics import footage, frechet, identity, pairs, pose, stability, sync
from talkjax.metrics.suites import Context, SuiteRun
from talkjax.weights.scoring import Network
from tests.faces_given import face_track, landmarks, with_face

FRAMES = 30
ALL = tuple(pairs.SUITES.values())


def film(seed, size=96, count=FRAMES, sound=True, faces=True, noise=0.0):
  """A textured video whose head turns from side to side."""
  r = np.random.default_rng(7)
  still = r.integers(40, 200, (size, size, 3))
  own = np.random.default_rng(seed)
  frames = [np.clip(still + noise * own.normal(size=still.shape), 0, 255).astype(np.uint8) for _ in range(count)]
  turns = 10 * np.sin(np.pi * np.arange(count) / 10)
  points = landmarks(count) + (turns / 10)[:, None, None] * [1, 0] + 0.05 * own.normal(size=(count, 68, 2))
  track = face_track(points, np.stack([turns, turns / 2, 0 * turns], -1).astype(np.float32))
  voice = own.normal(size=count * 640).astype(np.float32) * 0.1 if sound else None
  return with_face(footage.from_frames(f'film{seed}', frames, 25.0, voice), track if faces else None)


def pair(seed, **how):
  return footage.Pair(f'p{seed}', f'person{seed % 2}', film(seed, **how), film(seed + 100))


def embed_lips(video):
  sound = video.sound()
  if video.faces is None or sound is None or len(sound) < 5 * 640:
    return {}
  loud = np.abs(sound.reshape(-1, 640)[:-4])
  return {'lip': loud[:, :30], 'speech': loud[:, :30]}


NETWORKS = {
  'inception': Network('i', {'features': lambda x: x.reshape(len(x), -1)[:, :40:8].astype(np.float32)}),
  'i3d': Network('v', {'logits': lambda x: x.mean((1, 2, 3)).astype(np.float32)}),
  'lpips': Network('l', {'distance': lambda a, b: np.abs(a.astype(float) - b).mean((1, 2, 3))}),
  'syncnet': Network(
    's', {'lip': lambda x: x.mean((2, 3)).reshape(len(x), -1)[:, :12], 'speech': lambda x: x[:, :12].mean(2)}
  ),
  'hopenet': Network('h', {'angles': lambda x: x.mean((1, 2))}),
  'deep3d': Network('d', {'expression': lambda x: x[:, ::32, ::64].reshape(len(x), -1)[:, :9].astype(float)}),
  'lip_expert': Network('x', {'embed': embed_lips}),
  'face_embedding': Network('e', {'embed': lambda x: x[:, ::16, ::16].reshape(len(x), -1).astype(np.float32)}, 64),
}


def scores_of(all_pairs, networks, suites=ALL):
  run = SuiteRun(suites, Context(networks=networks))
  return [run.score(p) for p in all_pairs], run.total()


def test_every_score():
  made = [pair(i, noise=3.0) for i in range(3)]
  rows, total = scores_of(made, NETWORKS)
  printed = {name for suite in ALL for name in suite.scores}
  assert printed <= rows[0].keys() | total.keys()
  assert all(v is None or isinstance(v, (float, int)) for v in (*rows[0].values(), *total.values()))
  features = lambda kind: np.concatenate(
    [NETWORKS['inception']('features', np.stack(list(getattr(p, kind).frames()))) for p in made]
  )
  assert total['fid'] == pytest.approx(frechet.distance(features('generated'), features('reference')))
  assert rows[0]['sharpness_face'] > 1  # noise has gradients
  assert rows[0]['flicker'] is None and rows[0]['flicker_pixels'] > 1 and rows[0]['flicker_pixels_truth'] == 0
  assert 0 <= rows[0]['beat_align'] <= 1
  both = [np.stack(list(f.frames())).astype(float) for f in (made[0].generated, made[0].reference)]
  assert rows[0]['lpips'] == pytest.approx(np.abs(both[0] - both[1]).mean())
  assert rows[0]['expert_in_sync'] == pytest.approx(1) and rows[0]['expert_offset'] == 0
  assert 0 < rows[0]['expert_confidence'] < 1
  gap = np.mean([r['f_sim'] for r in rows]) - np.mean([r['f_sim_truth'] for r in rows])
  assert total['delta_face_sim'] == pytest.approx(100 * abs(gap))
  assert 0.9 < rows[0]['f_sim_truth'] <= 1 and rows[0]['f_sim'] <= 1


def test_the_truth_scores_as_the_truth():
  same = film(1)
  rows, total = scores_of([footage.Pair('p', '', same, same)] * 2, NETWORKS)
  assert total['fid'] == pytest.approx(0, abs=1e-6) and total['fvd'] == pytest.approx(0, abs=1e-6)
  for name in ('sharpness_face', 'sharpness_mouth', 'jitter'):
    assert rows[0][name] == 1
  for name in ('diversity', 'beat_align', 'lse_c', 'lse_d', 'f_sim'):
    assert rows[0][name] == rows[0][f'{name}_truth']
  assert total['delta_face_sim'] == 0 and total['e_fid'] == pytest.approx(0, abs=1e-6)


def test_scores_without_their_network_are_left_out():
  rows, total = scores_of([pair(0)], {})
  needed = {name for suite in ALL for name in suite.networks}
  assert not needed & total.keys() and not needed & rows[0].keys()
  assert {'sharpness_face', 'jitter', 'diversity', 'beat_align'} <= rows[0].keys()
  # The pose is then that of the landmarks.
  turns = 10 * np.sin(np.pi * np.arange(FRAMES) / 10)
  assert rows[0]['diversity'] == pytest.approx((turns.std() + turns.std() / 2) / 3)


@pytest.mark.parametrize('how', [{'faces': False}, {'sound': False}, {'count': 4}, {'count': 1}])
def test_videos_that_lack_something(how):
  rows, total = scores_of([pair(0, **how)], NETWORKS)
  for name in ('lse_c', 'expert_in_sync', 'expert_confidence', 'expert_offset'):
    assert rows[0][name] is None and rows[0][f'{name}_truth'] is not None
  assert rows[0].get('beat_align') is None or how == {'count': 4}
  if not how.get('faces', True):
    assert rows[0]['sharpness_face'] is None and 'jitter' not in rows[0] and 'f_sim' not in rows[0]
  if 'count' in how:
    assert total['fvd'] is None
  has_sound, has_face = how.get('sound', True), how.get('faces', True)
  assert (rows[0]['loudness_mouth'] is None) == (how == {'count': 1} or not (has_sound and has_face))
  assert rows[0]['face_found'] == has_face and rows[0]['face_found_truth'] == 1


@pytest.mark.parametrize('suite', ALL, ids=lambda s: s.name)
def test_each_suite_alone(suite):
  rows, total = scores_of([pair(0), pair(1)], NETWORKS, [suite])
  assert set(suite.scores) <= rows[0].keys() | total.keys()


def test_crops_of_syncnet_are_the_published_ones():
  video = film(3, count=20)
  track = dataclasses.replace(video.faces, box=video.faces.box + np.arange(20)[:, None].astype(np.float32))
  made = list(sync.face_crops(video.frames(), track, 25.0))
  size = sync.scipy.signal.medfilt((track.box[:, 2:] - track.box[:, :2]).max(1).astype(float) / 2, 13)
  x, y = (sync.scipy.signal.medfilt((track.box[:, i] + track.box[:, i + 2]).astype(float) / 2, 13) for i in (0, 1))
  for i in (0, 7, 19):
    edge = int(size[i] * 1.8)
    padded = np.pad(list(video.frames())[i][..., ::-1], ((edge, edge), (edge, edge), (0, 0)), constant_values=110)
    my, mx = y[i] + edge, x[i] + edge
    face = padded[int(my - size[i]) : int(my + size[i] * 1.8), int(mx - size[i] * 1.4) : int(mx + size[i] * 1.4)]
    np.testing.assert_array_equal(made[i], sync.cv2.resize(face, (224, 224)))


def test_windows_of_syncnet():
  seen = {}

  def keep(name):
    return lambda x: seen.setdefault(name, np.array(x)).reshape(len(x), -1)[:, :4].astype(float)

  video = film(0, count=12)
  made = sync.embed(video, Network('k', {'lip': keep('lip'), 'speech': keep('speech')}))
  assert len(made['lip']) == len(made['speech']) == 12 - 5
  crops = list(sync.face_crops(video.frames(), video.faces, 25.0))
  np.testing.assert_array_equal(seen['lip'][3], np.stack(crops[3:8]))
  samples = np.round(video.sound() * 32768).astype(np.int16)
  np.testing.assert_allclose(seen['speech'][3], sync.mfcc.mfcc(samples)[:, 12:32], rtol=1e-6)


def test_a_face_where_the_template_has_it_is_cropped_as_it_is():
  points = landmarks(1)
  five = identity.five_points(points)[0]
  back = align.similarity(five[None], identity.TEMPLATE)
  assert np.abs(align.transform_points(five, back[0]) - identity.TEMPLATE).max() < 12  # a drawn face is no mean face
  np.testing.assert_allclose(five[2], points[0, 30])
  assert identity.similarity(np.eye(3)[:2], np.eye(3)[0]) == 0.5


def test_diversity_and_crops_of_hopenet():
  assert pose.diversity(np.array([[0, 0, 0], [6, 0, 0]])) == pytest.approx(1)
  crops = list(pose.face_crops(film(0, count=2).frames(), face_track(landmarks(2, middle=(2.0, 2.0)))))
  assert [c.shape for c in crops] == [(224, 224, 3)] * 2
  assert stability.bounds(np.array([[0, 0], [2, 4]]), 0.5).tolist() == [-1, -2, 3, 6]
