"""Scores a workdir on a held-out split, or any two folders of videos.

python -m talkjax.evaluate --workdir=runs/speech_edit --output=metrics.json
python -m talkjax.evaluate --generated=made/ --reference=true/

Of a workdir every clip is re-made twice, with its own speech and with that of another clip. `lip_score` correlates the
mouth opening of the first with the true video's, `lip_score_other_speech` that of the second. `lip_score_other_truth`
is what the other clip's true video scores, and so what a perfect system would get there: not 0 in a corpus whose clips
are all silent, speaking and silent again at the same times. `--other_speech=rotated` starts the other speech at a
random time and goes round, so that shared timing counts for nothing. `psnr_mask_identity` and `ssim_mask_identity` are
what repeating the first frame's mouth gets, the least that a system must beat.

Systems that start from a portrait have more: `identity`, the share of clips nearer to their own portrait than to those
of 19 other people by colours and landmarks; `in_region`, the share of frames whose face is where it was asked for;
`keypoint_distance`, how far eyes and nose are from the true video's, in widths of the frame; `seam_jump`, the mean
change of pixels between clips over that inside them. `..._truth` is what true videos get.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

import numpy as np
import scipy.stats
import tqdm
from absl import flags

from talkjax import cli, systems
from talkjax.corpora.records import Record
from talkjax.errors import UsageError
from talkjax.faces import landmarks
from talkjax.media import picture, video
from talkjax.media.segments import AUDIO_RATE
from talkjax.metrics import cpbd, folders, image, lips, portrait
from talkjax.systems import portraits
from talkjax.training import checkpoint, input_pipeline
from talkjax.training.workdir import read_config

_WORKDIR = cli.flag(flags.DEFINE_string, 'workdir', None, 'A workdir that talkjax.train or talkjax.convert made.')
_SPLIT = cli.flag(flags.DEFINE_string, 'split', 'test', "The split of the workdir's corpus to score on.")
_GENERATED = cli.flag(flags.DEFINE_string, 'generated', None, 'A folder of generated videos.')
_REFERENCE = cli.flag(flags.DEFINE_string, 'reference', None, 'A folder of true videos with the same names.')
_OUTPUT = cli.flag(flags.DEFINE_string, 'output', None, 'A JSON file for the scores.')
_STEPS = cli.flag(flags.DEFINE_integer, 'steps', None, "Denoising steps per frame (default: the config's).")
_SAMPLER = cli.flag(flags.DEFINE_string, 'sampler', None, "The sampler (default: the config's).")
_WEIGHTS = cli.flag(
  flags.DEFINE_enum, 'weights', 'ema', ['ema', 'params'], 'The averaged weights, or the last raw ones.'
)
_LIMIT = cli.flag(flags.DEFINE_integer, 'limit', None, 'Score only so many clips.')
_BATCH = cli.flag(flags.DEFINE_integer, 'batch_size', 10, 'Clips generated at once.')
_SEED = cli.flag(flags.DEFINE_integer, 'seed', 0, 'Of the noise and of the pairing with other speech.')
_OTHER = cli.flag(
  flags.DEFINE_enum, 'other_speech', 'plain', ['plain', 'rotated'], 'How the speech of another clip is laid.'
)
_SWEEP = cli.flag(
  flags.DEFINE_string,
  'sweep',
  None,
  'Also measure heads and mouths of the first batch over a setting, as speed=8,14,20 or audio_weight=0.5,1,2.',
)
_GUIDANCE = cli.flag(flags.DEFINE_float, 'guidance', None, 'Scale of classifier-free guidance; 1 is none.')
_REFERENCE_WEIGHT = cli.flag(
  flags.DEFINE_float, 'reference_weight', None, 'How much the portrait counts (1 as trained).'
)
_AUDIO_WEIGHT = cli.flag(flags.DEFINE_float, 'audio_weight', None, 'How much the sound counts (1 as trained).')
_MOTION = cli.flag(flags.DEFINE_bool, 'motion_frames', None, 'Whether clips go on from one another; portrait systems.')
_VIDEOS = cli.flag(
  flags.DEFINE_string, 'videos', None, 'A folder for the videos: source, true, generated, other_speech.'
)
_STRIP = cli.flag(flags.DEFINE_string, 'strip', None, 'A PNG file: truth above, generated below, of the first clip.')


SCORES = (
  'psnr',
  'ssim',
  'psnr_mask',
  'ssim_mask',
  'psnr_mask_identity',
  'ssim_mask_identity',
  'psnr_identity',
  'ssim_identity',
  'cpbd',
  'cpbd_reference',
  'lip_score',
  'lip_score_other_speech',
  'lip_score_other_truth',
  'identity',
  'identity_truth',
  'in_region',
  'keypoint_distance',
  'seam_jump',
  'seam_jump_truth',
)
PEOPLE = 20  # that a generated one is told from


def score_workdir(
  system, config, params, clips, *, batch_size: int, seed: int, rotate: bool = False, videos: str | None = None
) -> tuple[list[dict], dict, np.ndarray]:
  """Re-makes clips and scores them.

  Args:
    system, config, params: what was trained.
    clips: records.
    batch_size: clips at once.
    seed: of noise, pairing and rotation.
    rotate: other speech starts at a random time and goes round.
    videos: a folder; per clip its video as the corpus has it goes to `source/`, as the network sees it to `true/`, and
      what was made of it, with the sound that drove it, to `generated/` and `other_speech/`.

  Returns:
    (a row of scores per clip, their means, a strip of the first clip).
  """
  generator = np.random.default_rng(seed)
  others = [clips[i] for i in lips.other_speech([c.transcript or c.id for c in clips], seed)]
  if rotate:
    others = [_rotated(c, int(generator.integers(len(c.frames)))) for c in others]
  rows, first, people = [], None, {}
  bar = tqdm.tqdm(total=2 * len(clips), unit='clip')
  for start in range(0, len(clips), batch_size):
    batch, speech = clips[start : start + batch_size], others[start : start + batch_size]
    seeds = np.arange(seed + start, seed + start + len(batch), dtype=np.uint32)
    own = _make(system, params, batch, None, seeds)
    bar.update(len(batch))
    spoken = _make(system, params, batch, speech, seeds)
    bar.update(len(batch))
    for clip, voice, made, made_other in zip(batch, speech, own, spoken):
      first = first if first is not None else picture.strip([made.truth, made.frames])
      rows.append(_score(clip, voice, made, made_other, config))
      if made.region is not None:
        people = people or _people(system, config, clips)
        rows[-1] |= _score_portrait(clip.speaker, made, people, config)
      if videos:
        source = [clip.frame(i) for i in range(len(clip.frames))]
        kinds = {'source': source, 'true': made.truth, 'generated': made.frames, 'other_speech': made_other.frames}
        for kind, frames in kinds.items():
          sound = voice.audio if kind == 'other_speech' else clip.audio
          _write_video(pathlib.Path(videos) / kind / f'{clip.id}.mp4', frames, clip.fps, sound)
  bar.close()
  return rows, _means(rows), first


def _rotated(clip: Record, start: int) -> Record:
  """A clip that begins at frame `start` and goes round."""
  samples = round(start / clip.fps * AUDIO_RATE)
  return dataclasses.replace(
    clip,
    audio=np.roll(clip.audio, -samples),
    landmarks=np.roll(clip.landmarks, -start, 0),
    frames=_roll(clip.frames, start),
  )


def _roll(items: tuple, start: int) -> tuple:
  return items[start:] + items[:start]


@dataclasses.dataclass(frozen=True)
class Made:
  """One clip, made again: [f] pictures each, and the true landmarks [f, 68, 2] in them."""

  frames: list[np.ndarray]
  masks: list[np.ndarray] | None
  truth: list[np.ndarray]
  landmarks: np.ndarray
  region: np.ndarray | None  # [h, w, 1], where the face was asked to be


def _write_video(path: pathlib.Path, frames, fps: float, sound: np.ndarray) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  sound = sound[: round(len(frames) / fps * AUDIO_RATE)].astype(np.float32) / 32768
  with video.VideoWriter(path, fps, frames[0].shape[:2], sound, AUDIO_RATE) as writer:
    for frame in frames:
      writer.write(frame)


def _make(system, params, clips, speech, seeds) -> list[Made]:
  inputs = system.inputs(clips, speech=speech)
  made = list(system.generate(params, inputs, seeds))
  masks = inputs.masks or [None] * len(clips)
  regions = getattr(inputs, 'region', [None] * len(clips))
  return [
    Made([f[i] for f in made[: len(truth)]], shown, truth, points, region)
    for i, (truth, shown, points, region) in enumerate(zip(inputs.truth, masks, inputs.landmarks, regions))
  ]


def _describe(frames) -> tuple | None:
  found = portrait.track(frames)
  return portrait.describe(frames, found) if found else None


def _people(system, config, clips) -> dict[str, tuple]:
  """What portraits of PEOPLE people look like, by name: those of the clips, and others of the training split."""
  people = {}
  for record in (*clips, *input_pipeline.eval_records(config.data, config.data.split)):
    if record.speaker not in people:
      people[record.speaker] = _describe(system.inputs([record], num_frames=1).truth[0][:1])
    if len(people) >= PEOPLE and record.speaker not in {c.speaker for c in clips}:
      break
  return {name: person for name, person in people.items() if person}


def _score_portrait(speaker: str, made: Made, people: dict, config) -> dict:
  """Whether the portrait given is the nearest of PEOPLE, the face where it was asked for, and seams without jumps."""
  found = portrait.track(made.frames)
  others = [person for name, person in people.items() if name != speaker][: PEOPLE - 1]
  given = _describe(made.truth[:1])

  def kept(shown) -> float | None:
    return float(portrait.nearest(shown, [given, *others]) == 0) if shown and given and others else None

  values = {
    'identity': kept(portrait.describe(made.frames, found) if found else None),
    'identity_truth': kept(_describe(made.truth)),
    'in_region': float(portrait.in_region(found, made.region).mean()) if found else 0.0,
    'keypoint_distance': portrait.keypoint_distance(found, made.landmarks, made.frames[0].shape[1]) if found else None,
    'seam_jump': portrait.seam_jump(made.frames, config.frames),
    'seam_jump_truth': portrait.seam_jump(made.truth, config.frames),
    'head_speed': float(landmarks.head_speed(found.pose, 25.0).mean()) if found else None,
  }
  return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}


def sweep(system, config, params, clips, setting: str, values: Sequence[float], seed: int) -> dict[str, tuple]:
  """What a setting of generation does to heads and mouths, as speed=8,14,20 or audio_weight=1,2,3.

  Args:
    system, config, params: what was trained.
    clips: records, whose portraits and sound are used.
    setting: one of `portraits.SETTINGS`, or `speed` (degrees/s) where the system has it.
    values: of it.
    seed: of the noise.

  Returns:
    By name (`head_speed`, degrees/s; `mouth_opening` in the quarter of the frames whose true mouth is open widest; its
    standard deviation over time, `mouth_motion`): the clips' mean at each value, and the mean over clips of Spearman's
    rank correlation with the values.

  Raises:
    UsageError: the system has no such setting.
  """
  inputs = system.inputs(clips)
  _check_setting(inputs, setting, config)
  seeds = np.arange(seed, seed + len(clips), dtype=np.uint32)
  measured = {'head_speed': [], 'mouth_opening': [], 'mouth_motion': []}
  true = [mouth_opening(t, p, config.data.mouth) for t, p in zip(inputs.truth, inputs.landmarks)]
  for value in values:
    changed = portraits.with_setting(inputs, setting, np.full(len(clips), value))
    made = list(system.generate(params, changed, seeds))
    videos = [[f[i] for f in made[: len(truth)]] for i, truth in enumerate(inputs.truth)]
    tracks = [portrait.track(v) for v in videos]
    measured['head_speed'].append([landmarks.head_speed(t.pose, 25.0).mean() if t else np.nan for t in tracks])
    openings = [mouth_opening(v, p, config.data.mouth) for v, p in zip(videos, inputs.landmarks)]
    measured['mouth_opening'].append([o[t >= np.quantile(t, 0.75)].mean() for o, t in zip(openings, true)])
    measured['mouth_motion'].append([np.std(o) for o in openings])
  result = {}
  for name, rows in measured.items():
    table = np.array(rows)  # [values, clips]
    # Where no face was found, or nothing changes, there is no rank.
    table = table[:, np.isfinite(table).all(0)]
    ranks = [scipy.stats.spearmanr(values, column).statistic for column in table.T if np.ptp(column)]
    result[name] = (table.mean(1).tolist() if table.size else [], float(np.mean(ranks)) if ranks else None)
  return result


def _check_setting(inputs, setting: str, config) -> None:
  known = (*portraits.SETTINGS, 'speed') if hasattr(inputs, 'speed') else portraits.SETTINGS
  if not hasattr(inputs, 'settings') or setting not in known:
    raise UsageError(f'--sweep={setting}: {config.system} has no such setting')


def _pictures(truth, frames, masks) -> dict[str, float]:
  scores = image.video_scores(truth, frames, masks)
  return {k: v for k, v in scores.items() if k != 'identical_frames'}


def _score(clip: Record, voice: Record, made: Made, made_other: Made, config) -> dict:
  scores = _pictures(made.truth, made.frames, made.masks)
  still = [made.truth[0]] * len(made.truth)
  if made.masks:
    still = [np.where(m > 0, s, t) for m, s, t in zip(made.masks, still, made.truth)]
  identity = _pictures(made.truth, still, made.masks)
  opening = lambda frames: mouth_opening(frames, made.landmarks, config.data.mouth)
  true_opening = opening(made.truth)
  count = min(len(clip.frames), len(voice.frames))
  shapes = [lips.real_opening(r.landmarks[:count]) for r in (voice, clip)]
  values = {
    'name': clip.id,
    'frames': len(made.truth),
    **scores,
    # What repeating the first frame gets: in the mask where there is one, else on the whole frame.
    **{f'{k}_identity': v for k, v in identity.items() if k.endswith('_mask') or not made.masks},
    'cpbd': float(np.mean([cpbd.cpbd(f) for f in made.frames])),
    'cpbd_reference': float(np.mean([cpbd.cpbd(f) for f in made.truth])),
    'lip_score': lips.lip_score(opening(made.frames), true_opening),
    'lip_score_other_speech': lips.lip_score(opening(made_other.frames), true_opening),
    'lip_score_other_truth': lips.lip_score(*shapes),
  }
  # JSON has no nan: what is not defined (a still mouth, a picture too small for CPBD) is None.
  return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in values.items()}


def mouth_opening(frames, points: np.ndarray, kind: str) -> np.ndarray:
  """[f] mouth openings of uint8 frames.

  Args:
    frames: [h, w, 3] each.
    points: [f, 68, 2] the true landmarks.
    kind: 'pixels' (drawn puppets whose heads are where the true ones are: exact), 'found' (drawn puppets whose heads
      are found in these frames first) or 'landmarks' (filmed faces, found again in these frames).
  """
  if kind == 'pixels':
    return np.array([lips.puppet_opening(f, p) for f, p in zip(frames, points)])
  if kind == 'found':
    return portrait.drawn_opening(frames)
  return lips.real_opening(landmarks.find_faces(frames).landmarks)


def _means(rows: list[dict]) -> dict:
  names = [k for k in rows[0] if k not in ('name', 'frames')]
  values = {k: np.array([r[k] for r in rows], float) for k in names}
  means = {k: float(np.nanmean(v)) if np.isfinite(v).any() else None for k, v in values.items()}
  return {'clips': len(rows), 'frames': sum(r['frames'] for r in rows), **means}


def main(_):
  if bool(_WORKDIR.value) == bool(_GENERATED.value) or bool(_GENERATED.value) != bool(_REFERENCE.value):
    raise UsageError('give either --workdir, or both --generated and --reference')
  if _GENERATED.value:
    rows, means = folders.compare_folders(_GENERATED.value, _REFERENCE.value)
    print(folders.table(rows, means))
    about = {'generated': _GENERATED.value, 'reference': _REFERENCE.value}
  else:
    config = systems.with_options(
      read_config(_WORKDIR.value),
      sampler=_SAMPLER.value,
      steps=_STEPS.value,
      guidance=_GUIDANCE.value,
      reference_weight=_REFERENCE_WEIGHT.value,
      audio_weight=_AUDIO_WEIGHT.value,
      motion_frames=_MOTION.value,
    )
    swept = cli.parse_sweep(_SWEEP.value)
    clips = list(input_pipeline.eval_records(config.data, _SPLIT.value, _LIMIT.value))
    system = systems.build(config)
    if swept:  # before anything takes long
      _check_setting(system.inputs(clips[:1], num_frames=1), swept[0], config)
    _, params, step = checkpoint.load_params(_WORKDIR.value, _WEIGHTS.value)
    rows, means, strip = score_workdir(
      system,
      config,
      params,
      clips,
      batch_size=_BATCH.value,
      seed=_SEED.value,
      rotate=_OTHER.value == 'rotated',
      videos=_VIDEOS.value,
    )
    print(folders.table(rows, means, SCORES))
    about = {
      'workdir': _WORKDIR.value,
      'step': step,
      'weights': _WEIGHTS.value,
      'corpus': config.data.corpus,
      'split': _SPLIT.value,
      'other_speech': _OTHER.value,
      'sampler': config.sampler.to_dict(),
      'settings': {k: config.to_dict()[k] for k in ('guidance', 'weights') if k in config},
    }
    if swept:
      measured = sweep(system, config, params, clips[: _BATCH.value], *swept, _SEED.value)
      about |= {'sweep': {swept[0]: swept[1], **measured}}
      for name, (values, rank) in measured.items():
        shown = 'not defined' if rank is None else f'{rank:.2f}'
        print(f'{swept[0]} {list(swept[1])}: {name} {[round(v, 3) for v in values]}, Spearman {shown}')
    if _STRIP.value:
      picture.write(_STRIP.value, strip)
  if _OUTPUT.value:
    path = pathlib.Path(_OUTPUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**means, **about, 'rows': rows}, indent=2, allow_nan=False) + '\n')


if __name__ == '__main__':
  cli.run(main)
