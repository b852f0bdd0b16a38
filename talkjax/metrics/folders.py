"""Scores of generated videos against reference videos: two videos, two folders matched by file name, or two sets."""

import itertools
import logging
import math
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from talkjax.errors import UserError
from talkjax.faces import landmarks as face_landmarks
from talkjax.media import video
from talkjax.metrics import cpbd, image, lips
from talkjax.metrics.footage import Cache, Pair, from_file
from talkjax.metrics.suites import Context, Suite, SuiteRun

VIDEOS = ('.mp4', '.m4v', '.mov', '.mpg', '.mpeg', '.avi', '.mkv', '.webm', '.flv', '.wmv', '.ts', '.ogv')
SCORES = ('psnr', 'psnr_identity', 'ssim', 'cpbd', 'cpbd_reference', 'lip_score', 'lip_score_other_speech')
SAME_RATE = 0.01  # relative difference of frame rates up to which frames are compared one to one


def compare_videos(generated: str | os.PathLike, reference: str | os.PathLike, faces: bool = True) -> dict:
  """Scores of a generated video against its reference, over their common length.

  If the frame rates differ, the generated video is resampled to that of the reference. The lip score needs a face in
  both.

  Args:
    generated, reference: video files with the same frame size.
    faces: False omits the lip score (which takes most of the time).

  Returns:
    JSON-serialisable values: `name`, `frames` (compared), `frames_generated`, `frames_reference`, `psnr`, `ssim`,
    `psnr_identity` (of the reference's first frame repeated), `identical_frames`, `cpbd` and `cpbd_reference`
    (sharpness of each), `lip_score`, `resampled_to` (a rate or None), and `notes`, a list of sentences.
    An undefined score is None, and a note says why.

  Raises:
    UserError: a file cannot be read, or the frame sizes differ.
  """
  return _compare(pathlib.Path(generated), pathlib.Path(reference), faces)[0]


def compare_folders(
  generated_dir: str | os.PathLike,
  reference_dir: str | os.PathLike,
  faces: bool = True,
  pictures: bool = True,
  suites: Sequence[Suite] = (),
  networks: Mapping[str, Any] | None = None,
  mouth: str = 'landmarks',
) -> tuple[list[dict], dict]:
  """Scores of every video in a folder against the one of the same name (suffixes may differ) in another folder.

  Args:
    generated_dir, reference_dir: the folders.
    faces: with the lip score.
    pictures: with PSNR, SSIM and CPBD.
    suites: further scores, suites of `talkjax.metrics.pairs`. Features of networks are kept, see `footage.Cache`.
    networks: that these need, by name.
    mouth: `Context.mouth` of the suites.

  Returns:
    (rows, means). A row is the result of `compare_videos` plus `lip_score_other_speech`, the lip score against the
    reference of another pair: the baseline of lips that follow other speech; and the scores of the suites. The means
    are those of every defined score, with `lip_score_pooled`, `videos` and `frames` and the scores of the whole set.

  Raises:
    UserError: a folder is missing or has no videos, a video has no counterpart, or as in `compare_videos`.
  """
  folders = [pathlib.Path(generated_dir), pathlib.Path(reference_dir)]
  generated, reference = (_videos(folder) for folder in folders)
  _check_names(folders, generated, reference)
  caches = [Cache(folder.resolve()) for folder in folders]
  run = SuiteRun(suites, Context(mouth, networks=networks or {}))
  rows, generated_openings, true_openings = [], [], []
  for name in tqdm.tqdm(generated, unit='video'):
    row, openings = _compare(generated[name], reference[name], faces, pictures)
    if suites:
      rate = row['resampled_to']
      videos = (from_file(generated[name], rate, caches[0]), from_file(reference[name], None, caches[1]))
      row |= run.score(Pair(name, '', *videos))
    rows.append(row)
    generated_openings.append(openings[0])
    true_openings.append(openings[1])
  for i, row in enumerate(rows):
    row['lip_score_other_speech'] = None
    if faces and len(rows) > 1 and generated_openings[i] is not None:
      row['lip_score_other_speech'] = _score_other_speech(generated_openings[i], true_openings, i)
  return rows, _means(rows, generated_openings, true_openings) | run.total()


def compare_sets(
  generated_dir: str | os.PathLike,
  reference_dir: str | os.PathLike,
  suites: Sequence[Suite],
  networks: Mapping[str, Any] | None = None,
  mouth: str = 'landmarks',
) -> tuple[list[dict], dict]:
  """Scores of the videos in a folder as a set, against those in another; names, numbers, sizes and rates may differ.

  Args:
    generated_dir, reference_dir: the folders.
    suites: of sets, see `Suite.sets`.
    networks: that these need, by name.
    mouth: `Context.mouth` of the suites.

  Returns:
    (rows, means). A row is a video: its name with that of its folder, its number of frames, its scores. The means are
    those of every defined score, with `videos`, `videos_reference` and `frames` and the scores of the whole sets.

  Raises:
    UserError: a folder is missing or has no videos, or a video cannot be read.
  """
  folders = [pathlib.Path(generated_dir), pathlib.Path(reference_dir)]
  videos = [_videos(folder) for folder in folders]
  run, rows = SuiteRun(suites, Context(mouth, networks=networks or {})), []
  bar = tqdm.tqdm(total=sum(map(len, videos)), unit='video')
  for folder, files, place in zip(folders, videos, ('generated', 'reference')):
    cache = Cache(folder.resolve())
    for name, path in files.items():
      footage = from_file(path, None, cache)
      row = run.score(Pair(name, '', **{'generated': None, 'reference': None, place: footage}))
      rows.append({'name': f'{folder.name}/{name}', 'frames': sum(1 for _ in footage.frames())} | row)
      bar.update()
  bar.close()
  means = {'videos': len(videos[0]), 'videos_reference': len(videos[1]), 'frames': sum(r['frames'] for r in rows)}
  for score in dict.fromkeys(k for row in rows for k in row if k not in ('name', 'frames')):
    values = [row[score] for row in rows if row.get(score) is not None]
    means[score] = float(np.mean(values)) if values else None
  return rows, means | run.total()


def _check_names(folders, generated, reference) -> None:
  """Raises UserError unless both folders have the same names."""
  if not generated.keys() & reference.keys():
    some = lambda videos: ', '.join(list(videos)[:3]) + (', ...' if len(videos) > 3 else '')
    raise UserError(
      f'no name of a video is in both folders: {folders[0]} has {some(generated)} and {folders[1]} has '
      f'{some(reference)}: a generated video and its reference need the same name'
    )
  for videos, others, folder in ((generated, reference, folders[1]), (reference, generated, folders[0])):
    missing = [videos[name].name for name in videos if name not in others]
    if missing:
      listed = ', '.join(missing[:10]) + (f' and {len(missing) - 10} more' if len(missing) > 10 else '')
      raise UserError(
        f'{len(missing)} of {len(videos)} videos have no counterpart of the same name in {folder}: {listed}; '
        f'add them there or remove these'
      )


def table(rows: list[dict], means: dict, scores: Sequence[str] = SCORES) -> str:
  """The rows and their means as a text table, with '-' for undefined scores and the notes below."""
  shown = [s for s in dict.fromkeys(scores) if any(row.get(s) is not None for row in (*rows, means))]
  lines = [['video', 'frames', *shown]]
  lines += [[row['name'], str(row['frames']), *(_cell(s, row.get(s)) for s in shown)] for row in rows]
  lines += [['mean', str(means['frames']), *(_cell(s, means.get(s)) for s in shown)]]
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  text = ['  '.join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]) for line in lines]
  rule = '-' * len(text[0])
  notes = [f'{row["name"]}: {note}' for row in rows for note in row.get('notes', ())]
  return '\n'.join([text[0], rule, *text[1:-1], rule, text[-1], *notes])


def _compare(generated: pathlib.Path, reference: pathlib.Path, faces: bool, pictures: bool = True):
  infos = [video.probe(path) for path in (generated, reference)]
  sizes = [(info.width, info.height) for info in infos]
  if sizes[0] != sizes[1]:
    (w, h), (rw, rh) = sizes
    raise UserError(f'{generated} is {w}x{h} but its reference {reference} is {rw}x{rh}: make both the same size')
  notes, rate = [], None
  if abs(infos[0].fps - infos[1].fps) > SAME_RATE * infos[1].fps:
    rate = infos[1].fps
    notes.append(f'resampled to the {rate:g} frames/s of the reference (its own rate is {infos[0].fps:g})')
  streams = [lambda: video.read_frames(generated, rate), lambda: video.read_frames(reference)]
  scores, counts = _picture_scores(*(stream() for stream in streams), pictures)
  frames = min(counts)
  if not frames:
    raise UserError(f'{(generated, reference)[counts.index(0)]} has no frames: expected a video')
  if counts[0] != counts[1]:
    notes.append(f'has {counts[0]} frames, its reference {counts[1]}: the first {frames} are compared')
  if pictures and scores['cpbd'] is None:
    notes.append(f'cpbd needs pictures of at least {cpbd.BLOCK}x{cpbd.BLOCK} pixels')
  openings = (None, None)
  scores['lip_score'] = None
  if faces:
    try:
      openings = tuple(
        _openings(path, itertools.islice(s(), frames)) for path, s in zip((generated, reference), streams)
      )
      scores['lip_score'] = _number(lips.lip_score(*openings))
      if scores['lip_score'] is None:
        notes.append('no lip score: the mouth of the reference does not move')
    except UserError as error:
      notes.append(f'no lip score: {error}')
  about = {'name': generated.stem, 'frames': frames, 'frames_generated': counts[0], 'frames_reference': counts[1]}
  return about | {'resampled_to': rate} | scores | {'notes': notes}, openings


def _picture_scores(
  generated: Iterable[np.ndarray], reference: Iterable[np.ndarray], pictures: bool
) -> tuple[dict, list[int]]:
  """(scores, numbers of frames); without `pictures` frames are only counted."""
  counts, first = [0, 0], None
  values: dict[str, list[float]] = {'psnr': [], 'psnr_identity': [], 'ssim': [], 'cpbd': [], 'cpbd_reference': []}
  logger = logging.getLogger(cpbd.__name__)
  logger.disabled = True  # a note of the row gives the reason once, instead of a warning per frame
  try:
    for frame, reference_frame in itertools.zip_longest(generated, reference):
      counts = [counts[0] + (frame is not None), counts[1] + (reference_frame is not None)]
      if frame is None or reference_frame is None or not pictures:
        continue
      first = reference_frame if first is None else first
      values['psnr'].append(image.psnr(reference_frame, frame))
      values['psnr_identity'].append(image.psnr(reference_frame, first))
      values['ssim'].append(image.ssim(reference_frame, frame))
      values['cpbd'].append(cpbd.cpbd(frame))
      values['cpbd_reference'].append(cpbd.cpbd(reference_frame))
  finally:
    logger.disabled = False
  if not values['psnr']:
    return {}, counts
  scores = {k: _number(image.mean_psnr(v) if k.startswith('psnr') else np.mean(v)) for k, v in values.items()}
  return scores | {'identical_frames': int(np.isinf(values['psnr']).sum())}, counts


def _openings(path: pathlib.Path, frames: Iterable[np.ndarray]) -> np.ndarray:
  try:
    return lips.real_opening(face_landmarks.find_faces(frames).landmarks)
  except UserError as error:
    raise UserError(f'{path.name}: {error}') from error


def _score_other_speech(generated, true, i: int) -> float | None:
  # Against the next pair, cyclically, that has a face.
  for step in range(1, len(true)):
    other = true[(i + step) % len(true)]
    if other is not None:
      frames = min(len(other), len(generated))
      return _number(lips.lip_score(generated[:frames], other[:frames]))
  return None


def _means(rows, generated, true) -> dict:
  means = {'videos': len(rows), 'frames': sum(row['frames'] for row in rows)}
  about = ('name', 'frames', 'frames_generated', 'frames_reference', 'resampled_to', 'notes', 'identical_frames')
  for score in dict.fromkeys((*SCORES, *(k for row in rows for k in row if k not in about))):
    values = [row[score] for row in rows if row.get(score) is not None]
    means[score] = float(np.mean(values)) if values else None
  with_face = [i for i, opening in enumerate(generated) if opening is not None]
  pooled = lips.summary([generated[i] for i in with_face], [true[i] for i in with_face])['lip_score_pooled']
  return means | {
    'lip_score_pooled': _number(pooled),
    'lip_score_videos': sum(r['lip_score'] is not None for r in rows),
  }


def _videos(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  if not folder.is_dir():
    raise UserError(f'there is no folder {folder}: expected a folder of videos')
  found: dict[str, pathlib.Path] = {}
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() not in VIDEOS or path.name.startswith('.'):
      continue
    if path.stem in found:
      raise UserError(f'{folder} has both {found[path.stem].name} and {path.name}: names without suffixes must differ')
    found[path.stem] = path
  if not found:
    raise UserError(f'{folder} has no videos: expected files ending in {", ".join(VIDEOS)}')
  return found


def _number(value: float) -> float | None:
  return float(value) if math.isfinite(value) else None


def _cell(score: str, value: float | None) -> str:
  if value is None:
    return '-'
  return f'{value:.2f}' if score.startswith('psnr') else f'{value:.3f}'
