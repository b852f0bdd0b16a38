"""Scores of generated videos against the true ones: two videos, or two folders matched by file name."""

import itertools
import logging
import math
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from talkjax.errors import UserError
from talkjax.faces import landmarks as face_landmarks
from talkjax.media import video
from talkjax.metrics import cpbd, image, lips

VIDEOS = ('.mp4', '.m4v', '.mov', '.mpg', '.mpeg', '.avi', '.mkv', '.webm', '.flv', '.wmv', '.ts', '.ogv')
SCORES = ('psnr', 'ssim', 'cpbd', 'cpbd_reference', 'lip_score', 'lip_score_other_speech')
SAME_RATE = 0.01  # relative difference of frame rates below which frames are compared one to one


def compare_videos(generated: str | os.PathLike, reference: str | os.PathLike, faces: bool = True) -> dict:
  """Scores of one generated video against the true one, over the frames both have.

  Where the frame rates differ, the generated video is read at the reference's. The lip score needs a face in both.

  Args:
    generated, reference: video files of one picture size.
    faces: False leaves the lip score out (it takes most of the time).

  Returns:
    Values that JSON can hold: `name`, `frames` (compared), `frames_generated`, `frames_reference`, `psnr`, `ssim`,
    `identical_frames`, `cpbd` and `cpbd_reference` (sharpness of either), `lip_score`, and `notes`, a list of
    sentences. A score that has no value is None and a note says why.

  Raises:
    UserError: a file cannot be read, or the picture sizes differ.
  """
  return _compare(pathlib.Path(generated), pathlib.Path(reference), faces)[0]


def compare_folders(
  generated_dir: str | os.PathLike, reference_dir: str | os.PathLike, faces: bool = True
) -> tuple[list[dict], dict]:
  """Scores of every video in a folder against the one of the same name (endings may differ) in another.

  Returns:
    The rows, one `compare_videos` each with `lip_score_other_speech` added: the lip score against the reference of
    another pair, which says what lips that follow other speech get here. And the means over rows of every score that
    has a value, `lip_score_pooled`, `videos`, `frames`.

  Raises:
    UserError: a folder is missing or has no videos, a video has no counterpart, or whatever `compare_videos` raises.
  """
  folders = [pathlib.Path(generated_dir), pathlib.Path(reference_dir)]
  generated, reference = (_videos(folder) for folder in folders)
  for have, lack, folder in ((generated, reference, folders[1]), (reference, generated, folders[0])):
    missing = [have[name].name for name in have if name not in lack]
    if missing:
      listed = ', '.join(missing[:10]) + (f' and {len(missing) - 10} more' if len(missing) > 10 else '')
      raise UserError(
        f'{len(missing)} of {len(have)} videos have no counterpart of the same name in {folder}: {listed}; '
        f'add them there or take these away'
      )
  rows, made, true = [], [], []
  for name in generated:
    row, openings = _compare(generated[name], reference[name], faces)
    rows.append(row)
    made.append(openings[0])
    true.append(openings[1])
  for i, row in enumerate(rows):
    row['lip_score_other_speech'] = None
    if faces and len(rows) > 1 and made[i] is not None:
      row['lip_score_other_speech'] = _against_another(made, true, i)
  return rows, _means(rows, made, true)


def table(rows: list[dict], means: dict, scores: Sequence[str] = SCORES) -> str:
  """The rows and their means as text: fixed columns, names first, '-' where there is no value, notes below."""
  shown = [s for s in scores if any(row.get(s) is not None for row in rows)]
  lines = [['video', 'frames', *shown]]
  lines += [[row['name'], str(row['frames']), *(_cell(s, row.get(s)) for s in shown)] for row in rows]
  lines += [['mean', str(means['frames']), *(_cell(s, means.get(s)) for s in shown)]]
  widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
  text = ['  '.join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:]))]) for line in lines]
  rule = '-' * len(text[0])
  notes = [f'{row["name"]}: {note}' for row in rows for note in row.get('notes', ())]
  return '\n'.join([text[0], rule, *text[1:-1], rule, text[-1], *notes])


def _compare(generated: pathlib.Path, reference: pathlib.Path, faces: bool):
  infos = [video.probe(path) for path in (generated, reference)]
  sizes = [(info.width, info.height) for info in infos]
  if sizes[0] != sizes[1]:
    (w, h), (rw, rh) = sizes
    raise UserError(f'{generated} is {w}x{h} but its reference {reference} is {rw}x{rh}: make both the same size')
  notes, rate = [], None
  if abs(infos[0].fps - infos[1].fps) > SAME_RATE * infos[1].fps:
    rate = infos[1].fps
    notes.append(f'read at the {rate:g} frames/s of the reference instead of its own {infos[0].fps:g}')
  streams = [lambda: video.read_frames(generated, rate), lambda: video.read_frames(reference)]
  scores, counts = _picture_scores(*(stream() for stream in streams))
  frames = min(counts)
  if not frames:
    raise UserError(f'{(generated, reference)[counts.index(0)]} has no frames: expected a video')
  if counts[0] != counts[1]:
    notes.append(f'has {counts[0]} frames, its reference {counts[1]}: the first {frames} are compared')
  if scores['cpbd'] is None:
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
  counted = {'frames': frames, 'frames_generated': counts[0], 'frames_reference': counts[1]}
  return {'name': generated.stem} | counted | scores | {'notes': notes}, openings


def _picture_scores(generated: Iterable[np.ndarray], reference: Iterable[np.ndarray]) -> tuple[dict, list[int]]:
  counts = [0, 0]
  values: dict[str, list[float]] = {'psnr': [], 'ssim': [], 'cpbd': [], 'cpbd_reference': []}
  logger = logging.getLogger(cpbd.__name__)
  logger.disabled = True  # the reason is a note of the row, once, instead of a warning for every frame
  try:
    for made, true in itertools.zip_longest(generated, reference):
      counts = [counts[0] + (made is not None), counts[1] + (true is not None)]
      if made is None or true is None:
        continue
      values['psnr'].append(image.psnr(true, made))
      values['ssim'].append(image.ssim(true, made))
      values['cpbd'].append(cpbd.cpbd(made))
      values['cpbd_reference'].append(cpbd.cpbd(true))
  finally:
    logger.disabled = False
  scores = {k: _number(np.mean(v)) for k, v in values.items() if v}
  identical = int(np.isinf(values['psnr']).sum())
  return scores | {'psnr': _number(image.mean_psnr(values['psnr'])), 'identical_frames': identical}, counts


def _openings(path: pathlib.Path, frames: Iterable[np.ndarray]) -> np.ndarray:
  try:
    return lips.real_opening(face_landmarks.find_faces(frames).landmarks)
  except UserError as error:
    raise UserError(f'{path.name}: {error}') from error


def _against_another(made, true, i: int) -> float | None:
  # The next pair around the circle that has a face.
  for step in range(1, len(true)):
    other = true[(i + step) % len(true)]
    if other is not None:
      frames = min(len(other), len(made[i]))
      return _number(lips.lip_score(made[i][:frames], other[:frames]))
  return None


def _means(rows, made, true) -> dict:
  means = {'videos': len(rows), 'frames': sum(row['frames'] for row in rows)}
  for score in SCORES:
    values = [row[score] for row in rows if row.get(score) is not None]
    means[score] = float(np.mean(values)) if values else None
  faced = [i for i, opening in enumerate(made) if opening is not None]
  pooled = lips.summary([made[i] for i in faced], [true[i] for i in faced])['lip_score_pooled']
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
      raise UserError(f'{folder} has both {found[path.stem].name} and {path.name}: names without endings must differ')
    found[path.stem] = path
  if not found:
    raise UserError(f'{folder} has no videos: expected files ending in {", ".join(VIDEOS)}')
  return found


def _number(value: float) -> float | None:
  return float(value) if math.isfinite(value) else None


def _cell(score: str, value: float | None) -> str:
  if value is None:
    return '-'
  return f'{value:.2f}' if score == 'psnr' else f'{value:.3f}'
