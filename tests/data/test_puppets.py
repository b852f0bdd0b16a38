import pathlib
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data.puppets import articulation, canvas, drawing, geometry, identities, sentences
from data.puppets import puppets_dataset_builder as puppets
from talkjax import build
from talkjax.corpora import building, records
from talkjax.faces.puppets import MOUTH_INSIDE, mouth_inside
from talkjax.media.segments import AUDIO_RATE, Segment

ROOT = pathlib.Path(__file__).resolve().parents[2]
FULL, TINY = (puppets.Builder.builder_configs[name] for name in ('full', 'tiny'))
PEOPLE = range(0, identities.COUNT, 4)


@pytest.fixture(scope='module')
def item():
  return next(iter(puppets.items(TINY)['test'].values()))


@pytest.fixture(scope='module')
def record(item):
  return puppets.make_record(item)


def still(frames=1, jaw=0.0, angles=(0, 0, 0), **channels):
  """A motion in which nothing moves; `jaw` may be a row of numbers."""
  mouth = np.zeros((frames, 6), np.float32)
  mouth[:, 0] = jaw
  for name, value in channels.items():
    mouth[:, geometry.CHANNELS.index(name)] = value
  zero = np.zeros(frames)
  pose = geometry.Pose(np.tile(np.array(angles, float), (frames, 1)), np.full((frames, 2), (64.0, 68.0)), zero + 1)
  return articulation.Motion(mouth, zero, zero, np.zeros((frames, 2)), pose)


def marks_of(who, motion):
  return geometry.landmarks(who.anchors, motion.pose, motion.mouth, motion.brow, motion.blink)


def polygon_mask(points):
  mask = np.zeros((128, 128), np.uint8)
  cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
  return mask.astype(bool)


# --- who says what ---


def test_people_and_sentences_of_the_test_split_are_in_no_other():
  splits = puppets.items(FULL)
  people = {split: {i.number for i in clips.values()} for split, clips in splits.items()}
  said = {split: {i.transcript for i in clips.values()} for split, clips in splits.items()}
  assert [len(splits[s]) for s in ('train', 'validation', 'test')] == [432, 32, 64]
  assert [len(people[s]) for s in ('train', 'validation', 'test')] == [36, 4, 8]
  for texts in (people, said):
    for a, b in (('train', 'test'), ('train', 'validation'), ('validation', 'test')):
      assert not texts[a] & texts[b]
  for clips in splits.values():
    genders = [identities.identity(i.number).gender for i in clips.values()]
    assert abs(genders.count('male') / len(genders) - 0.5) < 0.1
    grid = [i.transcript.split()[0] in sentences.COMMANDS and len(i.transcript.split()) == 6 for i in clips.values()]
    assert 0.5 < np.mean(grid) < 0.7
    assert len({i.motion for i in clips.values()}) == len(clips)
    assert set(clips) == {i.id for i in clips.values()}


def test_the_same_config_gives_the_same_clips_and_another_seed_others():
  assert puppets.items(TINY) == puppets.items(TINY)
  other = puppets.PuppetsConfig(name='other', train=8, validation=2, test=4, brief=True, seed=1)
  assert {i.transcript for i in puppets.items(other)['train'].values()} != {
    i.transcript for i in puppets.items(TINY)['train'].values()
  }


def test_people_differ():
  people = [identities.identity(n) for n in range(identities.COUNT)]
  assert len({(p.hair_style, p.skin, p.hair, p.wall_pattern, p.garment, p.glasses, p.beard) for p in people}) >= 46
  assert {p.hair_style for p in people} == {*identities.MEN_HAIR, *identities.WOMEN_HAIR}
  assert {p.skin for p in people} == set(identities.SKINS)
  assert len({p.voice for p in people}) >= 10
  assert identities.identity(5, seed=1) != people[5]


def test_letters_are_named():
  assert sentences.spoken('lay red at b two now') == 'lay red at B two now'
  assert sentences.spoken('lay red at a two now') == 'lay red at eigh two now'  # not the article
  assert sentences.spoken('a good joke needs a pause') == 'a good joke needs a pause'


# --- a record ---


def test_a_record_is_whole(item, record):
  frames = len(record.frames)
  assert frames >= 25 and record.fps == 25
  assert len(record.audio) == frames * AUDIO_RATE // 25 and record.audio.dtype == np.int16
  assert record.landmarks.shape == (frames, 68, 2) and record.pose.shape == (frames, 3)
  assert record.coefficients.shape == (frames, len(articulation.COEFFICIENTS))
  assert record.frame(0).shape == (128, 128, 3) and record.size == (128, 128)
  assert (record.landmarks > 0).all() and (record.landmarks < 128).all()
  assert (record.box[:, :2] == record.landmarks.min(1)).all() and (record.box[:, 2:] == record.landmarks.max(1)).all()
  assert record.caption == {'male': 'A man is talking', 'female': 'A woman is talking'}[record.gender]
  assert ' '.join(w.text for w in record.words) == record.transcript == item.transcript
  assert record.words[0].start >= item.lead - 1e-9
  assert record.phonemes[-1].end <= frames / 25 + 1e-6
  silent = record.audio[: int((item.lead - 0.002) * AUDIO_RATE)]
  assert not silent.any() and np.abs(record.audio).max() > 3000


DIGEST = """
def digest(record):
  import dataclasses, hashlib, numpy
  values = [getattr(record, f.name) for f in dataclasses.fields(record)]
  values = [v.tobytes() if isinstance(v, numpy.ndarray) else v for v in values]
  return hashlib.sha256(repr(values).encode()).hexdigest()
"""


def test_a_record_is_the_same_bytes_again_and_in_a_fresh_process(item, record):
  exec(DIGEST, scope := {})
  digest = scope['digest']
  other = next(iter(puppets.items(TINY)['train'].values()))
  assert digest(puppets.make_record(other)) != digest(record)
  assert digest(puppets.make_record(item)) == digest(record)
  code = f"""{DIGEST}
import pickle
from data.puppets import puppets_dataset_builder as builder
print(digest(builder.make_record(pickle.loads({pickle.dumps(item)!r}))))"""
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
  assert done.stdout.split()[-1] == digest(record)


def test_tiny_builds_and_reads_back(tmp_path, monkeypatch):
  builder_class = build.load(ROOT / 'data/puppets')
  module = sys.modules[builder_class.__module__]
  small = module.PuppetsConfig(name='two', train=2, validation=1, test=1, brief=True)
  made = builder_class(data_dir=tmp_path, config=small, file_format='array_record')
  with building.options(workers=0):
    made.download_and_prepare()
  assert str(building.finish(made)).count('\n') == 3
  back = records.from_example(made.as_data_source(split='test')[0])
  truth = puppets.make_record(puppets.items(small)['test'][back.id])
  assert back.frames == truth.frames and (back.audio == truth.audio).all()
  assert np.allclose(back.coefficients, truth.coefficients)


# --- mouths ---


def test_lips_meet_in_p_b_m_and_open_in_vowels():
  sounds = [Segment(s, 0.3 + 0.1 * i, 0.4 + 0.1 * i) for i, s in enumerate(('ˈɑː', 'p', 'ˈɑː', 'm', 'iː', 'b', 'ˈæ'))]
  loud = np.full(AUDIO_RATE * 13 // 10, 0.2, np.float32)
  mouth = articulation.articulate(tuple(sounds), loud, AUDIO_RATE, 32, 25)
  gap = geometry.opening(mouth)
  at = lambda i: int((0.35 + 0.1 * i) * 25)  # noqa: E731
  assert gap[at(1)] == gap[at(3)] == gap[at(5)] == 0
  assert gap[at(0)] > 6 and gap[at(2)] > 4 and gap[at(6)] > 4
  assert gap[at(4)] < gap[at(2)]
  assert (gap[:4] == 0).all() and (gap[-3:] == 0).all()


@pytest.mark.parametrize(
  ('sound', 'channel'),
  [('uː', 'round'), ('iː', 'wide'), ('f', 'teeth'), ('l', 'tongue'), ('m', 'closed'), ('ɑ', 'jaw')],
)
def test_every_channel_answers_to_its_sound(sound, channel):
  sounds = (Segment('ə', 0.2, 0.4), Segment(sound, 0.4, 0.6), Segment('ə', 0.6, 0.8))
  mouth = articulation.articulate(sounds, np.full(AUDIO_RATE, 0.2, np.float32), AUDIO_RATE, 25, 25)
  values = mouth[:, geometry.CHANNELS.index(channel)]
  assert 9 <= values.argmax() <= 15 and values.max() > 0.6
  assert values.max() > values[6] + 0.3


def test_neighbours_colour_a_sound():
  def middle(before, after):
    sounds = (Segment(before, 0.3, 0.4), Segment('s', 0.4, 0.46), Segment(after, 0.46, 0.56))
    mouth = articulation.articulate(sounds, np.full(AUDIO_RATE, 0.2, np.float32), AUDIO_RATE, 25, 25)
    return mouth[10, geometry.CHANNELS.index('round')]

  assert middle('uː', 'uː') > middle('iː', 'iː') + 0.1


@pytest.mark.parametrize('number', PEOPLE)
def test_the_inside_of_the_mouth_is_the_only_such_colour_in_a_face(number):
  who = drawing.make_puppet(identities.identity(number))
  motion = still(3, jaw=[0.0, 0.5, 1.0])
  marks = marks_of(who, motion)
  seen = [records.decode_picture(records.encode_picture(f, puppets.QUALITY)) for f in drawing.draw(who, motion)]
  inside = [mouth_inside(f) * polygon_mask(m[[1, 4, 6, 8, 10, 12, 15]]) for f, m in zip(seen, marks)]
  assert inside[0].max() < 0.1
  for picture, points in zip(inside[1:], marks[1:]):
    at = np.argwhere(picture > 0.5)[:, ::-1] + 0.5
    assert len(at) > 12
    assert polygon_mask(points[60:68])[tuple((at - 0.5).astype(int).T[::-1])].mean() > 0.75
  assert inside[2].sum() > 1.5 * inside[1].sum()
  assert mouth_inside(np.array(MOUTH_INSIDE)) == 1


def test_rows_of_the_inside_follow_the_opening():
  who = drawing.make_puppet(identities.identity(1))
  motion = still(12, jaw=np.linspace(0, 1, 12))
  rows = [mouth_inside(f)[:, 62:67].mean(1).sum() for f in drawing.draw(who, motion)]
  assert np.corrcoef(rows, geometry.opening(motion.mouth))[0, 1] > 0.98


# --- heads ---


def test_a_turned_head_shows_it():
  who = drawing.make_puppet(identities.identity(1))
  shift = lambda m: m[0, 30] - (m[0, 36:48].mean(0))  # noqa: E731
  front, right, up = (shift(marks_of(who, still(angles=a))) for a in ((0, 0, 0), (15, 0, 0), (0, 10, 0)))
  assert right[0] - front[0] > 3 and up[1] - front[1] < -2
  tilted = marks_of(who, still(angles=(0, 0, 10)))[0]
  left, right = tilted[36:42].mean(0), tilted[42:48].mean(0)
  assert np.degrees(np.arctan2(*(right - left)[::-1])) == pytest.approx(10, abs=0.5)


def test_the_warp_inverts_what_landmarks_do():
  made = geometry.face(identities.identity(3).shape)
  rng = np.random.default_rng(0)
  motion = still(4, jaw=[0, 0.4, 0.8, 1.0], angles=(12, -6, 5), wide=0.5)
  points = rng.uniform((-24, -40), (24, 36), (50, 2))
  moved = np.stack(
    geometry.deform(made, *np.repeat(points[None], 4, 0).transpose(2, 0, 1), motion.mouth, motion.brow), axis=-1
  )
  pixels = geometry.project(geometry.on_face(made, moved), motion.pose)
  for i in range(4):
    one = still(1, jaw=motion.mouth[i, 0], angles=(12, -6, 5), wide=0.5)
    back = geometry.inverse_grid(made, one.pose, one.mouth, one.brow, pixels[i])[0]
    assert np.abs(back - points).max() < 0.3


def test_eyes_close_where_the_landmarks_say():
  who = drawing.make_puppet(identities.identity(9))
  motion = still(2)
  motion = articulation.Motion(motion.mouth, motion.brow, np.array([0.0, 1.0]), motion.gaze, motion.pose)
  marks = marks_of(who, motion)
  height = marks[:, 41, 1] - marks[:, 37, 1]
  assert height[0] > 3 and height[1] < 1
  x, y = np.round(marks[0, 36:42].mean(0)).astype(int)
  bright = [f[y - 2 : y + 2, x - 5 : x + 6].max() for f in drawing.draw(who, motion)]
  assert bright[0] > bright[1]  # the white of the eye is gone


def test_splines_pass_through_their_points():
  points = np.array([(0, 0), (3, 1), (5, 5), (1, 4)], float)
  curve = canvas.spline(points, True, 8)
  assert np.abs(curve[::8] - points).max() < 1e-9 and len(curve) == 32
