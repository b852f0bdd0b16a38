"""Damaged and crafted media through every command that reads them."""

import os
import pathlib
import shutil

import cv2
import numpy as np
import pytest

from tests.hostile import media_files
from tests.media.test_files import REFERENCES

pytestmark = pytest.mark.large
MUTATED, CRAFTED, NAMES = 'mutated media', 'crafted media', 'odd names and places'

# By what a file is: the commands that read it, in which {} is the file and {NAME} a whole one.
READERS = {
  'video': (
    ('speech_edit', '--video={}', '--audio={sound.wav}'),
    ('autoencoder', '--video={}'),
    ('vexpress', '--image={portrait.png}', '--audio={sound.wav}', '--kps={}', '--retarget=naive'),
    ('fd2talk', '--image={portrait.png}', '--audio={sound.wav}', '--pose={}'),
    ('speech_edit', '--video={talk.mp4}', '--audio={}'),
    ('wav2lip', '--video={}', '--audio={sound.wav}'),
    ('super_resolution', '--video={}'),
  ),
  'sound': (
    ('speech_edit', '--video={talk.mp4}', '--audio={}'),
    ('emo', '--image={portrait.png}', '--audio={}'),
    ('joint_av', '--audio={}'),
    ('vexpress', '--image={portrait.png}', '--audio={}'),
    ('fd2talk', '--image={portrait.png}', '--audio={}'),
    ('wav2lip', '--image={portrait.png}', '--audio={}'),
  ),
  'picture': (
    ('emo', '--image={}', '--audio={sound.wav}'),
    ('speech_edit', '--video={talk.mp4}', '--audio={sound.wav}', '--identity={}'),
    ('autoencoder', '--image={}'),
    ('joint_av', '--image={}', '--audio={sound.wav}'),
    ('fd2talk', '--image={}', '--audio={sound.wav}'),
    ('vexpress', '--image={}', '--audio={sound.wav}'),
    ('wav2lip', '--image={}', '--audio={sound.wav}'),
  ),
  'keypoints': (('vexpress', '--image={portrait.png}', '--audio={sound.wav}', '--kps={}'),),
  'message': (('joint_av', '--request={}'),),
  'motion': (('fd2talk', '--image={portrait.png}', '--audio={sound.wav}', '--motion={}'),),
}
KINDS = {
  '.mp4': 'video', '.mkv': 'video', '.ts': 'video', '.mov': 'video', '.wav': 'sound', '.flac': 'sound',
  '.ogg': 'sound', '.mp3': 'sound', '.npy': 'keypoints', '.pth': 'keypoints', '.npz': 'motion', '.json': 'message',
}  # fmt: skip


@pytest.fixture(scope='module')
def read(attempts, models, media):
  """Has a command read a file; `number` chooses the command."""

  def one(kind: str, path, number: int = 0, works: bool | None = None, **how):
    readers = READERS[how.pop('of', None) or KINDS.get(pathlib.Path(path).suffix, 'picture')]
    system, *flags = readers[number % len(readers)]
    for name, whole in media.items():
      flags = [flag.replace(f'{{{name}}}', str(whole)) for flag in flags]
    output = '{out}/a.png' if flags[0].startswith('--image') and system == 'autoencoder' else '{out}/a.mp4'
    flags = [flag.replace('{}', os.fspath(path)) for flag in flags]
    return attempts.make(kind, 'generate', f'--workdir={models[system]}', *flags, f'--output={output}', works=works)

  return one


def test_whole_media_work(read, attempts, media):
  """So that refusals are not those of a slip in the attempts."""
  for number, path in enumerate(media.values()):
    read('whole media', path, number, works=True)
  attempts.check('whole media', len(media))


def test_mutated_media(read, attempts, media):
  generator, number = np.random.default_rng(0), 0
  folder = attempts.inputs / 'mutated'
  folder.mkdir()
  for name, path in sorted(media.items()):
    for _ in range(6):
      number += 1
      target = folder / f'{number}_{name}'
      target.write_bytes(media_files.mutate(path.read_bytes(), generator))
      read(MUTATED, target, number)
  attempts.check(MUTATED, 100)


def test_crafted_media(read, attempts, media):
  folder = attempts.inputs / 'crafted'
  folder.mkdir()
  shutil.copy(media['talk.mp4'], folder / 'secret.mp4')
  texts = {name: text.replace('{secret}', str(folder / 'secret')).encode() for name, text in REFERENCES.items()}
  files = {
    **texts,
    **dict(media_files.sounds()),
    **dict(media_files.pictures(media['portrait.jpg'].read_bytes())),
    **dict(media_files.keypoint_files()),
    **dict(media_files.messages()),
    **dict(media_files.motion_file_variants(media['motion.npz'].read_bytes())),
  }
  for number, (name, data) in enumerate(files.items()):
    (folder / name).write_bytes(data)
    of = 'video' if name in texts else None
    read(CRAFTED, folder / name, number, works=False if name in texts else None, of=of)
  face = cv2.cvtColor(cv2.imread(str(media['portrait.png'])), cv2.COLOR_BGR2RGB)
  for first, (name, write) in enumerate(media_files.videos(attempts.inputs, face)):
    write(folder / name)
    read(CRAFTED, folder / name, first)
  attempts.check(CRAFTED, 60)


def test_odd_names_and_places(read, attempts, models, media):
  folder = attempts.inputs / 'odd'
  folder.mkdir()
  odd_names = '10:30', 'a b', 'a,b', '-rf', '%03d', 'a\nb', '[1]', 'ü', 'n' * 240, '$(id)'
  for first, what in enumerate(('talk.mp4', 'sound.wav', 'portrait.png', 'points.npy', 'motion.npz')):
    suffix = pathlib.Path(what).suffix
    for number, name in enumerate((odd_names * 2)[4 * first : 4 * first + 4]):  # each name with two kinds of file
      shutil.copy(media[what], folder / (name + suffix))
      read(NAMES, folder / (name + suffix), number, works=True)
    odd = os.fsencode(folder) + b'/\xff\xfe' + suffix.encode()
    shutil.copy(media[what], odd)
    read(NAMES, os.fsdecode(odd), 0, works=True)
    os.mkfifo(folder / f'fifo{suffix}')
    (folder / f'nowhere{suffix}').symlink_to('nowhere')
    (folder / f'zero{suffix}').symlink_to('/dev/zero')
    (folder / f'itself{suffix}').symlink_to(f'itself{suffix}')
    (folder / f'folder{suffix}').mkdir()
    for name in ('fifo', 'nowhere', 'zero', 'itself', 'folder'):
      read(NAMES, folder / f'{name}{suffix}', 0, works=False)
  inputs = [f'--workdir={models["autoencoder"]}', f'--video={media["talk.mp4"]}']
  for name in (
    '10:30.mp4',
    'file:a.mp4',
    '%03d.mp4',
    '-o.mp4',
    'a b.mp4',
    'n' * 220 + '.mp4',
    'x/y/z.mp4',
    b'\xff.mp4',
  ):
    attempts.make(NAMES, 'generate', *inputs, f'--output={os.fsdecode(name)}', works=True)
  for name in ('', '.', '/', '/proc/a.mp4', '/dev/null', 'n' * 240 + '.mp4', 'a.avi', 'a', str(media['talk.mp4'])):
    attempts.make(NAMES, 'generate', *inputs, f'--output={name}', works=False)
  attempts.check(NAMES, 60)
