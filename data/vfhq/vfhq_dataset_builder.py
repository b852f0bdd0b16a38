"""VFHQ: silent high-quality clips of faces, as folders of images or as videos (see data/README.md).

    python -m talkjax.build data/vfhq --manual_dir=DIR [--config=small]

Xie et al., VFHQ: A High-Quality Dataset and Benchmark for Video Face Super-Resolution, CVPR workshops 2022.
"""

import dataclasses
import pathlib
import re

import tensorflow_datasets as tfds

from talkjax.corpora import building, footage, records, shots
from talkjax.errors import UserError
from talkjax.media import files

VIDEOS = ('.mp4', '.mkv', '.webm', '.mov', '.avi')
# YouTube id, person, clip of that person, frames of the YouTube video (which some tools omit).
NAME = re.compile(r'Clip\+([\w-]+)\+P(\d+)\+C(\d+)(?:\+F(\d+)-(\d+))?')


@dataclasses.dataclass
class VfhqConfig(tfds.core.BuilderConfig):
  """How clips become records.

  Attributes:
    size: of the frames, pixels.
    fps: of folders of images without a meta file.
    test, validation: fractions of the YouTube ids.
  """

  size: int = 512
  fps: float = 25.0
  test: float = 0.1
  validation: float = 0.0


class Builder(tfds.core.GeneratorBasedBuilder):
  """Silent faces of VFHQ."""

  VERSION = tfds.core.Version('2.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'a folder with the clips of VFHQ: folders of images, or videos, named Clip+ID+Pn+Cn+Fa-b, optionally with the '
    'meta files of the same names (.txt)'
  )
  BUILDER_CONFIGS = [
    VfhqConfig(name='full', description='512 x 512.'),
    VfhqConfig(name='small', size=256, description='256 x 256.'),
    VfhqConfig(name='fd2talk', size=256, test=0.2, validation=0.1, description='256 x 256, videos split 70/10/20.'),
  ]

  def _info(self):
    return self.dataset_info_from_configs(
      features=records.features(), homepage='https://liangbinxie.github.io/projects/vfhq/'
    )

  def _split_generators(self, dl_manager):
    config = self.builder_config
    clips = find_clips(pathlib.Path(dl_manager.manual_dir), config.size, config.fps)
    splits = split_clips(clips, config.test, config.validation)
    return building.generate(self, shots.split(self, splits), footage.talking_record)

  def _generate_examples(self):
    raise NotImplementedError  # abstract in TFDS; building.generate makes the examples


def split_clips(
  clips: list[footage.Clip], test: float = VfhqConfig.test, validation: float = VfhqConfig.validation
) -> dict[str, dict[str, footage.Clip]]:
  """Clips by split and id. Fractions are of the YouTube videos, with all their people."""
  sources = {clip.id: dict(clip.attributes).get('youtube', '') for clip in clips}
  chosen = footage.split_names(filter(None, sources.values()), test, validation)
  splits = {'train': {}, **({'validation': {}} if validation else {}), 'test': {}}
  for clip in clips:
    splits[chosen.get(sources[clip.id], 'train')][clip.id] = clip
  return splits


def find_clips(folder: pathlib.Path, size: int = 512, fps: float = 25.0) -> list[footage.Clip]:
  """All clips in a folder, sorted by name; a folder of images is preferred to a video of the same name.

  An unexpected or repeated name is the `problem` of its clip.

  Raises:
    UserError: there are no clips, or a meta file is invalid.
  """
  paths = footage.find_picture_folders(folder) + footage.find_files(folder, VIDEOS)
  if not any(NAME.fullmatch(_stem(path)) for path in paths):
    raise UserError(f'{folder} has no clip of VFHQ: expected folders of images, or videos, named Clip+ID+Pn+Cn+Fa-b')
  meta_files = {path.stem: path for path in footage.find_files(folder, ['.txt']) if NAME.fullmatch(path.stem)}
  clips = {}
  for path in paths:
    stem, where = _stem(path), path.relative_to(folder).as_posix()
    name = NAME.fullmatch(stem)
    if name is None or stem in clips:
      problem = 'its name is not Clip+ID+Pn+Cn+Fa-b' if name is None else 'another folder or file has the same clip'
      clips[where] = footage.Clip(id=where, video=str(path), problem=problem)
      continue
    source, person, number, _, _ = name.groups()
    clips[stem] = footage.Clip(
      id=stem,
      video=str(path),
      size=size,
      window=footage.Window(),
      fps=read_rate(meta_files[stem]) if stem in meta_files else fps,
      speaker=f'{source}+P{person}',
      caption=footage.caption_of(''),
      attributes=(('clip', number), ('youtube', source)),
      silent_ok=True,
    )
  return sorted(clips.values(), key=lambda clip: clip.id)


def read_rate(path: pathlib.Path) -> float:
  """Frames per second from a clip's meta file, in a line that starts with FPS and ends with the number.

  Raises:
    UserError: there is no such line.
  """
  for line in files.read_bytes(path, 'a meta file').decode(errors='replace').splitlines():
    if line.startswith('FPS'):
      try:
        rate = float(line.split()[-1])
      except ValueError:
        break
      if rate > 0:
        return rate
  raise UserError(f'{path} has no frame rate: expected a line with FPS and a number')


def _stem(path: pathlib.Path) -> str:
  # A dot in a folder's name does not start a suffix.
  return path.stem if path.suffix.lower() in VIDEOS else path.name
