"""Suites of scores for clips that a system generated from corpus records.

A system lists the suites that apply to it and may bring its own; `talkjax.evaluate` runs them clip by clip. What a
score needs is imported when its suite starts, as training imports the systems too.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

PEOPLE = 20  # that a generated person is distinguished from


@dataclasses.dataclass(frozen=True)
class Truth:
  """The video of a record, in the form a system generates it.

  Attributes:
    frames: uint8 [h, w, 3] each.
    landmarks: [f, 68, 2] in pixels of these frames.
    masks: per frame [h, w, 1], 1 where it is generated; None: everywhere.
    region: [h, w, 1], 1 where the face was asked to be; None: not asked.
    curves: values per frame [f] by name, which helper networks predict instead of frames.
  """

  frames: Sequence[np.ndarray]
  landmarks: np.ndarray
  masks: Sequence[np.ndarray] | None = None
  region: np.ndarray | None = None
  curves: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Generated:
  """What a system generated for one record.

  Attributes:
    frames: uint8 [h, w, 3] each.
    fps: frames per second.
    seams: the frames at which a separately generated clip begins.
    sound: float32 [s], or None where the system generates none.
    sound_rate: samples per second.
    curves: as in `Truth`.
  """

  frames: Sequence[np.ndarray]
  fps: float
  seams: Sequence[int] = ()
  sound: np.ndarray | None = None
  sound_rate: int = 16_000
  curves: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Clip:
  """A record, its truth, and what was generated for it.

  Attributes:
    record: a `talkjax.corpora.records.Record`.
    other: the record whose speech drives `with_other_speech`.
    truth: the true video.
    generated: with its own speech.
    with_other_speech: with the speech of `other`.
  """

  record: Any
  other: Any
  truth: Truth
  generated: Generated
  with_other_speech: Generated

  @functools.cached_property
  def pair(self):
    """What is generated and its truth, as `talkjax.metrics.footage.Pair`: what scores of any two videos take."""
    import soxr

    from talkjax.metrics import footage

    record, made = self.record, self.generated
    own = record.audio.astype(np.float32) / 32768 if len(record.audio) else None
    sound = made.sound
    if sound is not None and made.sound_rate != footage.RATE:
      sound = soxr.resample(sound, made.sound_rate, footage.RATE)
    videos = (
      footage.from_frames(record.id, made.frames, made.fps, own if sound is None else sound),
      footage.from_frames(record.id, self.truth.frames, made.fps, own),
    )
    return footage.Pair(record.id, record.speaker, *videos, record.caption)


@dataclasses.dataclass(frozen=True)
class Context:
  """What suites may use besides a clip.

  Attributes:
    mouth: how a mouth opening is measured, see `mouth_opening`.
    speakers: of the clips that are scored.
    people: records of other people, those of the clips first.
    first_frame: a record -> the first frame of its truth.
    training: records of the training split, each with the `Truth` of its first frame.
    networks: that scores are computed with, by name; a score whose network is missing is left out.
  """

  mouth: str = ''
  speakers: frozenset[str] = frozenset()
  people: Callable[[], Iterable[Any]] = tuple
  first_frame: Callable[[Any], np.ndarray] | None = None
  training: Callable[[], Iterable[tuple[Any, Truth]]] = tuple
  networks: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Suite:
  """Scores that belong together.

  Attributes:
    scores: their names, in the order they are printed. A suite may give others, which only go into the JSON file.
    start: context -> (clip -> scores by name; None or nan: not defined for this clip). What is an array is no score
      but a feature, see `total`.
    name: by which `evaluate --suites` selects it.
    total: the features of all clips by name -> scores of the whole set, such as a Fréchet distance.
    networks: which network each of the scores needs, those that need none left out.
    optional: networks that some scores use where they are given.
    pairs: it takes `Clip.pair` instead of a clip, and so any two videos.
    sets: it takes pairs and compares no frame with another: a video counts alone, so the generated and the reference
      videos can be different in number and content. Of a pair one may be None.
  """

  scores: tuple[str, ...]
  start: Callable[[Context], Callable[[Any], Mapping[str, float | np.ndarray | None]]]
  name: str = ''
  total: Callable[[Mapping[str, Sequence[np.ndarray]]], Mapping[str, float]] | None = None
  networks: Mapping[str, str] = dataclasses.field(default_factory=dict)
  optional: tuple[str, ...] = ()
  pairs: bool = False
  sets: bool = False


class SuiteRun:
  """Suites on their way through the clips of a set.

  Args:
    suites: which are run.
    context: what they may use.
  """

  def __init__(self, suites: Sequence[Suite], context: Context):
    self._suites = suites
    self._scorers = [suite.start(context) for suite in suites]
    self._features: list[dict[str, list[np.ndarray]]] = [{} for _ in suites]

  def score(self, clip: Any) -> dict[str, float | None]:
    """The scores of a clip, or of a pair if all suites take pairs; None: not defined for it."""
    row = {}
    for suite, scorer, features in zip(self._suites, self._scorers, self._features):
      for name, value in scorer(clip.pair if suite.pairs and isinstance(clip, Clip) else clip).items():
        if isinstance(value, np.ndarray):
          features.setdefault(name, []).append(value)
        else:
          row[name] = _defined(value)
    return row

  def total(self) -> dict[str, float | None]:
    """The scores of the whole set."""
    totals = [suite.total(features) for suite, features in zip(self._suites, self._features) if suite.total]
    return {name: _defined(value) for scores in totals for name, value in scores.items()}


def _defined(value: float | None) -> float | None:
  # JSON has no nan: a score that is not defined (a still mouth, an image too small for CPBD) is None.
  return None if isinstance(value, float) and not np.isfinite(value) else value


def mouth_opening(frames: Sequence[np.ndarray], points: np.ndarray, kind: str) -> np.ndarray:
  """[f] mouth openings of uint8 frames.

  Args:
    frames: [h, w, 3] each.
    points: [f, 68, 2] the true landmarks.
    kind: 'pixels' (drawn puppets whose heads are where the true ones are: exact), 'found' (drawn puppets whose heads
      are first detected in these frames) or 'landmarks' (filmed faces, detected in these frames).
  """
  from talkjax.faces import landmarks
  from talkjax.metrics import lips, portrait

  if kind == 'pixels':
    return np.array([lips.puppet_opening(f, p) for f, p in zip(frames, points)])
  if kind == 'found':
    return portrait.drawn_opening(frames)
  return lips.real_opening(landmarks.find_faces(frames).landmarks)


def _start_images(context: Context):
  from talkjax.metrics import cpbd, image

  def compare(truth: Truth, frames) -> dict[str, float]:
    scores = image.video_scores(truth.frames, frames, truth.masks)
    return {k: v for k, v in scores.items() if k != 'identical_frames'}

  def score(clip: Clip) -> dict[str, float]:
    truth, frames = clip.truth, clip.generated.frames
    # The baseline repeats the first frame: inside the mask where there is one, else the whole frame.
    still = [truth.frames[0]] * len(truth.frames)
    if truth.masks:
      still = [np.where(m > 0, s, t) for m, s, t in zip(truth.masks, still, truth.frames)]
    baseline = compare(truth, still)
    return {
      **compare(truth, frames),
      **{f'{k}_identity': v for k, v in baseline.items() if k.endswith('_mask') or not truth.masks},
      'cpbd': float(np.mean([cpbd.cpbd(f) for f in frames])),
      'cpbd_reference': float(np.mean([cpbd.cpbd(f) for f in truth.frames])),
    }

  return score


def _start_lips(context: Context):
  from talkjax.metrics import lips

  def score(clip: Clip) -> dict[str, float]:
    opening = lambda frames: mouth_opening(frames, clip.truth.landmarks, context.mouth)
    true = opening(clip.truth.frames)
    count = min(len(clip.record.frames), len(clip.other.frames))
    other, own = (lips.real_opening(r.landmarks[:count]) for r in (clip.other, clip.record))
    return {
      'lip_score': lips.lip_score(opening(clip.generated.frames), true),
      'lip_score_other_speech': lips.lip_score(opening(clip.with_other_speech.frames), true),
      'lip_score_other_truth': lips.lip_score(other, own),
    }

  return score


def _start_portrait(context: Context):
  from talkjax.faces import landmarks, measures
  from talkjax.metrics import portrait

  def describe(frames):
    track = landmarks.track(frames)
    return portrait.describe(frames, track) if track else None

  people: dict[str, Any] = {}

  def find_people() -> None:
    for record in context.people():
      if record.speaker not in people:
        people[record.speaker] = describe([context.first_frame(record)])
      if len(people) >= PEOPLE and record.speaker not in context.speakers:
        return

  def score(clip: Clip) -> dict[str, float | None]:
    if not people:
      find_people()
    truth, frames = clip.truth, clip.generated.frames
    track = clip.pair.generated.faces
    others = [d for name, d in people.items() if d and name != clip.record.speaker][: PEOPLE - 1]
    given = describe(truth.frames[:1])

    def kept(shown) -> float | None:
      return float(portrait.nearest(shown, [given, *others]) == 0) if shown and given and others else None

    width = frames[0].shape[1]
    return {
      'identity': kept(portrait.describe(frames, track) if track else None),
      'identity_truth': kept(describe(truth.frames)),
      'in_region': float(portrait.in_region(track, truth.region).mean()) if track else 0.0,
      'keypoint_distance': portrait.keypoint_distance(track, truth.landmarks, width) if track else None,
      'seam_jump': portrait.seam_jump(frames, clip.generated.seams),
      'seam_jump_truth': portrait.seam_jump(truth.frames, clip.generated.seams),
      'head_speed': float(measures.head_speed(track.pose, clip.generated.fps).mean()) if track else None,
    }

  return score


def curves(names: Sequence[str]) -> Suite:
  """Pearson's correlation of predicted with true curves, `pearson_NAME`; and with another clip's speech, of the first.

  A curve that does not move in a clip has no score there, see `talkjax.metrics.lips`.
  """

  def start(context: Context):
    from talkjax.metrics import lips

    def score(clip: Clip) -> dict[str, float]:
      true, count = clip.truth.curves, len(clip.truth.curves[names[0]])
      other = clip.with_other_speech.curves[names[0]][:count]
      return {
        **{f'pearson_{n}': lips.lip_score(clip.generated.curves[n], true[n]) for n in names},
        f'pearson_{names[0]}_other_speech': lips.lip_score(other, true[names[0]]),
      }

    return score

  return Suite((*(f'pearson_{n}' for n in names), f'pearson_{names[0]}_other_speech'), start)


IMAGES = Suite(
  (
    *('psnr', 'ssim', 'psnr_mask', 'ssim_mask', 'psnr_mask_identity', 'ssim_mask_identity'),
    *('psnr_identity', 'ssim_identity', 'cpbd', 'cpbd_reference'),
  ),
  _start_images,
  'image',
)
LIPS = Suite(('lip_score', 'lip_score_other_speech', 'lip_score_other_truth'), _start_lips, 'sync')
PORTRAIT = Suite(
  ('identity', 'identity_truth', 'in_region', 'keypoint_distance', 'seam_jump', 'seam_jump_truth'),
  _start_portrait,
  'identity',
)
