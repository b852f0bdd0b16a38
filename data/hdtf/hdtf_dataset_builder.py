"""HDTF, the High-Definition Talking Face dataset: lists of videos, times and crops, as published (see data/README.md).

    python -m talkjax.build data/hdtf --manual_dir=DIR [--config=small]

Zhang et al., Flow-guided One-shot Talking Face Generation with a High-resolution Audio-visual Dataset, CVPR 2021. Its
clips are cut at the published times and cropped in the first of the two published ways: to a window in pixels.
"""

import dataclasses
import pathlib
import re

import tensorflow_datasets as tfds

from talkjax.corpora import building, footage, records, shots
from talkjax.errors import UserError
from talkjax.media import files

TIMES = '_annotion_time.txt'  # the authors' spelling
VIDEOS = ('.mp4', '.mkv', '.webm', '.mov', '.avi')
NUMBERED = 'RD'  # radio interviews, whose videos are numbered; the other lists use people's names


@dataclasses.dataclass
class HdtfConfig(tfds.core.BuilderConfig):
  """How clips become records.

  Attributes:
    size: of the frames, pixels.
    max_seconds: longer clips are split.
    test, validation: fractions of the people; by default as in section 4.2 of EMO, "no overlap of character IDs".
  """

  size: int = 512
  max_seconds: float | None = 10.0
  test: float = 0.1
  validation: float = 0.0


class Builder(tfds.core.GeneratorBasedBuilder):
  """Talking faces of HDTF."""

  VERSION = tfds.core.Version('2.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'a folder with the lists of HDTF (RD_annotion_time.txt, RD_crop_wh.txt, RD_resolution.txt, the same of WDA and '
    'WRA) and the videos, named as in the lists (Radio1.mp4)'
  )
  BUILDER_CONFIGS = [
    HdtfConfig(name='full', description='512 x 512, as published.'),
    HdtfConfig(name='small', size=256, description='256 x 256.'),
    HdtfConfig(name='fd2talk', size=256, test=0.2, validation=0.1, description='256 x 256, people split 70/10/20.'),
  ]

  def _info(self):
    return self.dataset_info_from_configs(
      features=records.features(), homepage='https://github.com/MRzzm/HDTF', license='CC BY 4.0'
    )

  def _split_generators(self, dl_manager):
    config = self.builder_config
    clips = find_clips(pathlib.Path(dl_manager.manual_dir), config.size)
    splits = split_clips(clips, config.test, config.validation)
    return building.generate(self, shots.split(self, splits, config.max_seconds), footage.talking_record)

  def _generate_examples(self):
    raise NotImplementedError  # abstract in TFDS; building.generate makes the examples


def split_clips(
  clips: list[footage.Clip], test: float = HdtfConfig.test, validation: float = HdtfConfig.validation
) -> dict[str, dict[str, footage.Clip]]:
  """Clips by split and id. Fractions are of the people in the lists, with or without videos."""
  chosen = footage.split_names((clip.speaker for clip in clips), test, validation)
  splits = {'train': {}, **({'validation': {}} if validation else {}), 'test': {}}
  for clip in clips:
    splits[chosen[clip.speaker]][clip.id] = clip
  return splits


def find_clips(folder: pathlib.Path, size: int = 512) -> list[footage.Clip]:
  """All clips of the lists in a folder, in list order, with ids such as 'WDA_AdamSchiff_0'.

  A missing video or crop is the `problem` of its clip.

  Raises:
    UserError: there is no list, a list of times has no lists of crops and resolutions, or a line is invalid.
  """
  lists = footage.find_files(folder, [TIMES])
  if not lists:
    raise UserError(f'{folder} has no list of HDTF: expected RD{TIMES}, WDA{TIMES} or WRA{TIMES}, in subfolders too')
  videos = {}
  for path in reversed(footage.find_files(folder, VIDEOS)):
    videos[path.stem] = path  # the first by name if there are several
  clips = {}
  for path in lists:
    subset = path.name.removesuffix(TIMES)
    for clip in _clips_of(path, subset, videos, size):
      if clip.id in clips:
        raise UserError(f'{path} has {clip.id} a second time: expected every list and every video once')
      clips[clip.id] = clip
  return list(clips.values())


def identity_of(subset: str, name: str) -> str:
  """Speaker of a video: 'AdamKinzinger0' and 'AdamKinzinger1' are one person, 'Radio1' and 'Radio2' unknown people."""
  return name if subset == NUMBERED else name.rstrip('0123456789') or name


def _clips_of(path: pathlib.Path, subset: str, videos: dict[str, pathlib.Path], size: int):
  crop_path, height_path = (path.with_name(f'{subset}_{kind}.txt') for kind in ('crop_wh', 'resolution'))
  crops = {name: _crop(crop_path, *line) for name, line in _read(crop_path).items()}
  heights = {name: _height(height_path, *line) for name, line in _read(height_path).items()}
  for name, (number, words) in _read(path).items():
    # Common download scripts prefix names with that of the list.
    video = videos.get(name) or videos.get(f'{subset}_{name}')
    if not words:
      raise _malformed(path, number, name, 'NAME.mp4 MM:SS-MM:SS ...')
    for index, word in enumerate(words):
      start, end = _span(path, number, word)
      crop = crops.get(f'{name}_{index}')
      problem = ''
      if video is None:
        problem = 'its video is not in the folder'
      elif crop is None:
        problem = 'no crop is published for it'
      x, y, side = crop or (0, 0, 0)
      yield footage.Clip(
        id=f'{subset}_{name}_{index}',
        video='' if video is None else str(video),
        size=size,
        window=footage.Window(x, y, side, heights.get(name, 0)),
        start=start,
        end=end,
        speaker=identity_of(subset, name),
        caption=footage.caption_of(''),
        attributes=(('list', subset), ('video', name)),
        problem=problem,
      )


def _read(path: pathlib.Path) -> dict[str, tuple[int, list[str]]]:
  """Reads a list: first word of each line, without '.mp4' -> (line number, the other words)."""
  if not path.exists():
    raise UserError(f'{path} is missing: expected the lists of times, crops and resolutions in the same folder')
  lines = {}
  text = files.read_bytes(path, 'a list').decode('utf-8-sig', errors='replace')
  for number, line in enumerate(text.splitlines(), 1):
    name, *words = line.split() or ['']
    name = name.removesuffix('.mp4')
    if name in lines:
      raise UserError(f'{path}, line {number}: {name} is already in the list; expected one line each')
    if name:
      lines[name] = (number, words)
  return lines


def _span(path: pathlib.Path, number: int, word: str) -> tuple[float, float]:
  """'00:20-01:35' -> (20.0, 95.0) seconds; hours may precede the minutes."""
  if not re.fullmatch(r'(\d+:)?\d+:\d\d-(\d+:)?\d+:\d\d', word):
    raise _malformed(path, number, word, 'MM:SS-MM:SS')
  start, end = (
    sum(60.0**power * int(part) for power, part in enumerate(reversed(time.split(':')))) for time in word.split('-')
  )
  if end <= start:
    raise _malformed(path, number, word, 'an end after the start')
  return start, end


def _crop(path: pathlib.Path, number: int, words: list[str]) -> tuple[int, int, int]:
  """'483 390 0 390' (left edge, width, upper edge, height) -> (x, y, side)."""
  if len(words) != 4 or not all(word.isdecimal() for word in words):
    raise _malformed(path, number, ' '.join(words), 'NAME_INDEX.mp4 LEFT WIDTH TOP HEIGHT')
  x, width, y, height = map(int, words)
  if width != height or not width:
    raise _malformed(path, number, ' '.join(words), 'a square: LEFT SIDE TOP SIDE')
  return x, y, width


def _height(path: pathlib.Path, number: int, words: list[str]) -> int:
  """Height of the video in which the crop was chosen; one published entry is 0 (unknown)."""
  if len(words) != 1 or not words[0].isdecimal():
    raise _malformed(path, number, ' '.join(words), 'NAME.mp4 HEIGHT')
  return int(words[0])


def _malformed(path: pathlib.Path, number: int, found: str, expected: str) -> UserError:
  return UserError(f'{path}, line {number}: found {found!r}, expected {expected}')
