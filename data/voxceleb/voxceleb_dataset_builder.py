"""VoxCeleb1 and VoxCeleb2: people in interviews, as clips or as downloaded videos with the lists (see data/README.md).

    python -m talkjax.build data/voxceleb --manual_dir=DIR

Nagrani et al., VoxCeleb: a large-scale speaker identification dataset, Interspeech 2017; Chung et al., VoxCeleb2: Deep
Speaker Recognition, Interspeech 2018. FD2Talk is evaluated on the first (section 4.1).
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable

import tensorflow_datasets as tfds

from talkjax.corpora import building, footage, records, shots
from talkjax.errors import UserError
from talkjax.media import files

VIDEOS = ('.mp4', '.mkv', '.webm', '.mov', '.avi')
SOUNDS = ('.m4a', '.wav', '.aac')
META = '_meta.csv'
PERSON, CLIP = re.compile(r'id\d{5}'), re.compile(r'\d{5}')
TEST_PEOPLE = range(10270, 10310)  # of VoxCeleb1; those of VoxCeleb2 are in vox2_meta.csv
HEIGHT = 360  # of the pictures whose pixels the boxes of VoxCeleb1 are in; those of VoxCeleb2 are fractions
AROUND = 0.5  # sides of a box that are kept around it: the crop is of the whole head
SETS = {'dev': 'train', 'train': 'train', 'test': 'test'}  # by the names of sets and folders
GENDERS = {'m': 'male', 'f': 'female'}

Key = tuple[str, str, str]  # person, YouTube id, clip


@dataclasses.dataclass
class VoxcelebConfig(tfds.core.BuilderConfig):
  """`size`: of the frames, pixels. `max_seconds`: longer clips are split."""

  size: int = 256
  max_seconds: float | None = 10.0


class Builder(tfds.core.GeneratorBasedBuilder):
  """Talking people of VoxCeleb1 and VoxCeleb2."""

  VERSION = tfds.core.Version('1.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'a folder of clips PERSON/VIDEO/CLIP.mp4 (id10270/5r0dWxy17C8/00001.mp4), or of the lists PERSON/VIDEO/CLIP.txt '
    'with the downloaded videos VIDEO.mp4'
  )
  BUILDER_CONFIGS = [VoxcelebConfig(name='full', description='256 x 256, a fixed crop around the head.')]

  def _info(self):
    return self.dataset_info_from_configs(
      features=records.features(), homepage='https://www.robots.ox.ac.uk/~vgg/data/voxceleb/', license='CC BY 4.0'
    )

  def _split_generators(self, dl_manager):
    config, folder = self.builder_config, pathlib.Path(dl_manager.manual_dir)
    splits = shots.split(self, find_clips(folder, config.size), config.max_seconds)
    return building.generate(self, splits, footage.talking_record)

  def _generate_examples(self):
    raise NotImplementedError  # abstract in TFDS; building.generate makes the examples


def find_clips(folder: pathlib.Path, size: int = 256) -> dict[str, dict[str, footage.Clip]]:
  """All clips in a folder, sorted, by split and id, such as 'id10270+5r0dWxy17C8+00001'.

  A clip that is there is preferred to its place in a downloaded video. A video that is missing and a list that is not
  one are the `problem` of their clip. The split is that of the lists of people, else that of a folder dev or test, else
  that of VoxCeleb1.

  Raises:
    UserError: there are neither clips nor lists.
  """
  paths, others = footage.find_files(folder, VIDEOS), footage.find_files(folder, (*SOUNDS, '.txt'))
  videos, lists = _by_key(paths), _by_key(path for path in others if path.suffix.lower() == '.txt')
  sounds = _by_key(path for path in others if path.suffix.lower() in SOUNDS)
  if not videos and not lists:
    raise UserError(
      f'{folder} has no clip of VoxCeleb: expected PERSON/VIDEO/CLIP.mp4 (id10270/5r0dWxy17C8/00001.mp4), or lists of '
      'such names (.txt) and the downloaded videos, in subfolders too'
    )
  whole = {path.stem: path for path in reversed(paths) if _key_of(path) not in videos}
  people = read_people(folder)
  splits = {'train': {}, 'test': {}}
  for key in sorted(videos | lists):
    person, video, number = key
    path = videos.get(key) or lists[key]
    gender, chosen = people.get(person, ('', ''))
    clip = footage.Clip(
      id='+'.join(key),
      video=str(path),
      size=size,
      window=footage.FaceWindow(),
      audio=str(sounds.get(key, '')),
      speaker=person,
      gender=gender,
      attributes=(('clip', number), ('video', video)),
    )
    if key not in videos:
      clip = _cut(clip, path, whole.get(video))
    folders = (name for name in reversed(path.relative_to(folder).parts) if name in SETS)
    known = 'test' if int(person.removeprefix('id')) in TEST_PEOPLE else 'dev'
    splits[SETS.get(chosen) or SETS[next(folders, known)]][clip.id] = clip
  return splits


def read_people(folder: pathlib.Path) -> dict[str, tuple[str, str]]:
  """By id, the gender and the set ('dev' or 'test') of the people in vox1_meta.csv and vox2_meta.csv, where they are.

  Raises:
    UserError: a file has other columns.
  """
  people = {}
  for path in footage.find_files(folder, [META]):
    text = files.read_bytes(path, 'a list of people').decode('utf-8-sig', errors='replace')
    header, *rows = [[word.strip() for word in re.split('[\t,]', line)] for line in text.splitlines()] or [[]]
    if not {'Gender', 'Set'} <= set(header):
      raise UserError(f'{path} has the columns {", ".join(header)}: expected Gender and Set among them')
    for row in rows:
      found = dict(zip(header, row))
      if row[0] and 'Set' in found:
        people[row[0]] = (GENDERS.get(found['Gender'], ''), found['Set'])
  return people


def _cut(clip: footage.Clip, path: pathlib.Path, video: pathlib.Path | None) -> footage.Clip:
  """The clip as a part of a downloaded video, in time and in the picture, as its list says."""
  if video is None:
    return dataclasses.replace(clip, problem='its video is not in the folder')
  found = read_list(path)
  if found is None:
    return dataclasses.replace(clip, problem='its list has no lines FRAME X Y W H')
  start, end, region = found
  return dataclasses.replace(clip, video=str(video), audio='', start=start, end=end, region=region)


def read_list(path: pathlib.Path) -> tuple[float, float, footage.Region] | None:
  """(start and end in seconds, the part of the picture around the face) of a list; None if it has no such lines.

  Numbers of frames are at 25 a second.

  Raises:
    UserError: it cannot be read.
  """
  lines = files.read_bytes(path, 'a list').decode('utf-8-sig', errors='replace').splitlines()
  rows = [line.split() for line in lines if re.match(r'\d+\s', line)]
  try:
    frames, x, y, w, h = zip(*([float(word) for word in row] for row in rows), strict=True)
  except ValueError:
    return None
  right, bottom = (max(map(sum, zip(*pair))) for pair in ((x, w), (y, h)))
  a, b = AROUND * max(w), AROUND * max(h)
  box = (min(x) - a, min(y) - b, right + a, bottom + b)
  height = 0 if max(*w, *h) <= 1 else HEIGHT
  return frames[0] / footage.FPS, (frames[-1] + 1) / footage.FPS, footage.Region(*box, height)


def _key_of(path: pathlib.Path) -> Key | None:
  """(person, video, clip) of a path that ends in PERSON/VIDEO/CLIP.suffix."""
  *_, person, video, _ = ('', '', *path.parts)
  return (person, video, path.stem) if PERSON.fullmatch(person) and CLIP.fullmatch(path.stem) else None


def _by_key(paths: Iterable[pathlib.Path]) -> dict[Key, pathlib.Path]:
  """Paths of clips by key, the first of each."""
  found = {}
  for path in paths:
    if key := _key_of(path):
      found.setdefault(key, path)
  return found
