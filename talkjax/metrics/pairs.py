"""Suites of scores of any two videos: `evaluate --suites=image,sync,motion,identity,joint`.

docs/scores.md defines each score. The suites take a `Pair`, so they score what a system generates from a corpus as well
as two folders. Networks come from the context; scores whose network is missing are left out.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from talkjax.metrics.footage import RATE, Footage, Pair, chunks
from talkjax.metrics.suites import Context, Suite

CLIP = 16  # frames that FVD sees at once
BLOCK = 32  # frames that are read at once


def _start_image(context: Context):
  from talkjax.metrics import stability

  networks = context.networks

  def inception(footage: Footage) -> np.ndarray:
    compute = lambda: {'x': _by_blocks(networks['inception'], 'features', footage.frames(), BLOCK)}
    return footage.features('inception', networks['inception'].key, compute)['x']

  i3d = functools.partial(_i3d, networks.get('i3d'))

  def sharp(footage: Footage) -> Mapping[str, float]:
    faces = footage.faces
    return stability.sharpness(footage.frames(), faces) if faces else {'face': math.nan, 'mouth': math.nan}

  def score(pair: Pair) -> dict[str, float | np.ndarray]:
    made, true = (sharp(f) for f in (pair.generated, pair.reference))
    scores = {f'sharpness_{part}': stability.ratio(made[part], true[part]) for part in made}
    if 'lpips' in networks:
      scores['lpips'] = _distance(networks['lpips'], pair)
    for name, features in (('inception', inception), ('i3d', i3d)):
      if name in networks:
        scores |= {f'{name}_generated': features(pair.generated), f'{name}_reference': features(pair.reference)}
    return scores

  return score


def _by_blocks(network, name: str, frames: Iterable[np.ndarray], size: int) -> np.ndarray:
  return np.concatenate([network(name, block) for block in chunks(frames, size)])


def _i3d(network, footage: Footage) -> np.ndarray:
  return footage.features('i3d', network.key, lambda: {'x': _clip_logits(network, footage)})['x']


def _clip_logits(network, footage: Footage) -> np.ndarray:
  """Logits [k, 400] of the consecutive clips of CLIP frames; the rest of a video is left out."""
  whole = [network('logits', block[None]) for block in chunks(footage.frames(), CLIP) if len(block) == CLIP]
  return np.concatenate(whole) if whole else np.zeros((0, 400), np.float32)


def _distance(network, pair: Pair) -> float:
  """Mean LPIPS of frames that belong together."""
  both = zip(chunks(pair.generated.frames(), BLOCK), chunks(pair.reference.frames(), BLOCK))
  return float(np.concatenate([network('distance', *_cut(a, b)) for a, b in both]).mean())


def _cut(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  count = min(len(a), len(b))
  return a[:count], b[:count]


def _frechet(score: str, kind: str, features: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float]:
  """The Fréchet distance of the features of all clips; {} without them, nan for fewer than two."""
  from talkjax.metrics import frechet

  sets = [features.get(f'{kind}_{which}') for which in ('generated', 'reference')]
  if not all(sets):
    return {}
  generated, reference = map(np.concatenate, sets)
  if min(len(generated), len(reference)) < 2:
    return {score: math.nan}
  return {score: frechet.distance(generated, reference)}


def _total_image(features: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float]:
  return _frechet('fid', 'inception', features) | _frechet('fvd', 'i3d', features)


def _start_sync(context: Context):
  from talkjax.metrics import sync

  network, expert = (context.networks.get(name) for name in ('syncnet', 'lip_expert'))

  def score(pair: Pair) -> dict[str, float | None]:
    scores = {}
    for footage, suffix in ((pair.generated, ''), (pair.reference, '_truth')):
      if network:
        made = sync.of_footage(footage, network)
        names = (f'lse_c{suffix}', f'lse_d{suffix}', f'lse_offset{suffix}')
        values = (made.confidence, made.distance, made.offset) if made else (None,) * 3
        scores |= dict(zip(names, values))
      if expert:
        scores |= sync.by_expert(footage, expert, suffix)
    return scores

  return score


def _start_motion(context: Context):
  from talkjax.metrics import beats, pose, stability

  hopenet = context.networks.get('hopenet')

  def moves(footage: Footage, suffix: str) -> dict[str, float]:
    angles = pose.angles(footage, hopenet)
    if angles is None:
      return {}
    sound = footage.sound()
    sound_beats = np.zeros(0, int) if sound is None else beats.onsets(sound, footage.fps, len(angles))
    aligned = beats.align(sound_beats, beats.motion_beats(angles[:, None]))
    return {f'diversity{suffix}': pose.diversity(angles), f'beat_align{suffix}': aligned}

  def score(pair: Pair) -> dict[str, float]:
    both = (pair.generated, pair.reference)
    scores = moves(both[0], '') | moves(both[1], '_truth')
    tracks = [footage.faces for footage in both]
    if all(tracks):
      trembling = [stability.jitter(faces.landmarks) for faces in tracks]
      first = next(iter(pair.reference.frames()))
      where = stability.background(first.shape[:2], *tracks)
      changes = [stability.flicker(footage.frames(), where) for footage in both]
      scores |= {'jitter': stability.ratio(*trembling), 'flicker': stability.ratio(*changes)}
      scores |= {'flicker_pixels': changes[0], 'flicker_pixels_truth': changes[1]}
    return scores

  return score


def _start_identity(context: Context):
  from talkjax.metrics import identity

  face, expression = (context.networks.get(name) for name in ('face_embedding', 'deep3d'))

  def score(pair: Pair) -> dict[str, float | np.ndarray]:
    scores = {}
    if face:
      made, true = (identity.embeddings(footage, face) for footage in (pair.generated, pair.reference))
      if made is not None and true is not None:
        scores = {'f_sim': identity.similarity(made, true[0]), 'f_sim_truth': identity.similarity(true, true[0])}
        scores |= {f'similarity{k.removeprefix("f_sim")}': np.array([v]) for k, v in scores.items()}
    if expression:
      made, true = (identity.expressions(footage, expression) for footage in (pair.generated, pair.reference))
      if made is not None and true is not None:
        scores |= {'expression_generated': made, 'expression_reference': true}
    return scores

  return score


def _total_identity(features: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float]:
  from talkjax.metrics import identity

  scores = _frechet('e_fid', 'expression', features)
  if features.get('similarity'):
    scores['delta_face_sim'] = identity.delta(*(np.concatenate(features[f'similarity{s}']) for s in ('', '_truth')))
  return scores


def _start_joint(context: Context):
  from talkjax.metrics import captions, joint, sync

  judge = functools.cache(lambda: captions.make_judge(context.training()))
  i3d, expert = (context.networks.get(name) for name in ('i3d', 'lip_expert'))

  def measure(footage: Footage, caption: str, suffix: str, which: str) -> dict[str, float | np.ndarray | None]:
    opening, sound = joint.mouth(footage, context.mouth), footage.sound()
    scores = {f'{name}{suffix}': None for name in ('loudness_mouth', 'caption_sound', 'caption_picture')}
    scores[f'face_found{suffix}'] = float(opening is not None)
    count = sum(1 for _ in footage.frames()) if opening is None else len(opening)
    if sound is not None:
      sound = sound[: round(count / footage.fps * RATE)]
      scores[f'sound_{which}'] = joint.embed_sound(sound)
      if opening is not None:
        curves = np.stack([opening, joint.loudness(sound, footage.fps, count)])
        scores |= {f'loudness_mouth{suffix}': joint.correlation(*curves), f'curves_{which}': curves}
    if caption:
      heard = None if sound is None else captions.describe_sound(sound)
      seen = captions.describe_picture(footage)
      scores[f'caption_sound{suffix}'] = captions.is_right(judge().sound, heard, caption)
      scores[f'caption_picture{suffix}'] = captions.is_right(judge().picture, seen, caption)
    if expert:
      scores |= sync.by_expert(footage, expert, suffix)
    if i3d:
      scores[f'i3d_{which}'] = _i3d(i3d, footage)
    return scores

  def score(pair: Pair) -> dict[str, float | np.ndarray | None]:
    made = measure(pair.generated, pair.caption, '', 'generated') if pair.generated else {}
    return made | (measure(pair.reference, pair.caption, '_truth', 'reference') if pair.reference else {})

  return score


def _total_joint(features: Mapping[str, Sequence[np.ndarray]]) -> dict[str, float]:
  from talkjax.metrics import joint, stability

  made, true = (features.get(f'curves_{which}', ()) for which in ('generated', 'reference'))
  scores = {'loudness_mouth_shuffled': joint.shuffled(made), 'loudness_mouth_shuffled_truth': joint.shuffled(true)}
  for row, name in enumerate(('opening_deviation', 'loudness_deviation')):
    scores[name] = stability.ratio(joint.deviation(made, row), joint.deviation(true, row))
  halves = [list(features.get('sound_reference', ()))[i::2] for i in range(2)]
  scores |= _frechet('fad_log_mel_truth', 'sound', dict(zip(('sound_generated', 'sound_reference'), halves)))
  return scores | _frechet('fad_log_mel', 'sound', features) | _frechet('fvd', 'i3d', features)


IMAGE = Suite(
  ('sharpness_face', 'sharpness_mouth', 'lpips', 'fid', 'fvd'),
  _start_image,
  'image',
  _total_image,
  {'lpips': 'lpips', 'fid': 'inception', 'fvd': 'i3d'},
  pairs=True,
)
EXPERT = ('expert_in_sync', 'expert_confidence', 'expert_offset', 'expert_in_sync_truth', 'expert_confidence_truth')
SYNC = Suite(
  ('lse_c', 'lse_d', 'lse_offset', 'lse_c_truth', 'lse_d_truth', *EXPERT),
  _start_sync,
  'sync',
  networks={'lse_c': 'syncnet', 'lse_d': 'syncnet', **dict.fromkeys(EXPERT[:3], 'lip_expert')},
  pairs=True,
)
MOTION = Suite(
  ('diversity', 'diversity_truth', 'beat_align', 'beat_align_truth', 'jitter', 'flicker'),
  _start_motion,
  'motion',
  optional=('hopenet',),
  pairs=True,
)
IDENTITY = Suite(
  ('f_sim', 'f_sim_truth', 'delta_face_sim', 'e_fid'),
  _start_identity,
  'identity',
  _total_identity,
  {'f_sim': 'face_embedding', 'delta_face_sim': 'face_embedding', 'e_fid': 'deep3d'},
  pairs=True,
)
JOINT = Suite(
  (
    *('loudness_mouth', 'loudness_mouth_truth', 'loudness_mouth_shuffled', 'loudness_mouth_shuffled_truth'),
    *('opening_deviation', 'loudness_deviation', 'caption_sound', 'caption_sound_truth'),
    *('caption_picture', 'caption_picture_truth', 'face_found', 'fad_log_mel', 'fad_log_mel_truth', 'fvd', *EXPERT),
  ),
  _start_joint,
  'joint',
  _total_joint,
  {'fvd': 'i3d', **dict.fromkeys(EXPERT[:3], 'lip_expert')},
  pairs=True,
  sets=True,
)
SUITES = {suite.name: suite for suite in (IMAGE, SYNC, MOTION, IDENTITY, JOINT)}
