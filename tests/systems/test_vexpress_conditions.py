"""V-Express from files: portraits, voices, keypoints, and the command's options."""

import json
import pathlib
import types

import numpy as np
import pytest
import soundfile

from talkjax import options, systems
from talkjax.errors import UsageError, UserError
from talkjax.media import picture, video
from talkjax.systems.portrait.reading import face_points
from talkjax.systems.vexpress import OPTIONS, conditions
from talkjax.training import checkpoint
from tests import micro
from tests.commands import call


@pytest.fixture(scope='module')
def files(vexpress, tmp_path_factory):
  """A folder with two portraits, voices of 9 and 12 frames, and keypoints."""
  folder = tmp_path_factory.mktemp('files')
  for i, record in enumerate(vexpress.records):
    picture.write(folder / f'face{i}.png', record.frame(0))
    soundfile.write(folder / f'voice{i}.wav', record.audio[: (9 + 3 * i) * 640], 16_000)
  np.save(folder / 'kps.npy', face_points(vexpress.records[1], types.SimpleNamespace(size=512, framing=0.0)))
  return folder


@pytest.fixture(scope='module')
def render(vexpress, files):
  defaults = {'image': (str(files / 'face0.png'),), 'audio': (str(files / 'voice0.wav'),)}
  return lambda output, **inputs: micro.render(vexpress, output, **{**defaults, **inputs})


read = lambda path: np.stack(list(video.read_frames(path))).astype(int)


def test_as_many_frames_as_the_sound_with_keypoints_or_without(render, files, tmp_path):
  path = tmp_path / 'still.mp4'
  assert render(path) == {str(path): 9} and len(read(path)) == 9
  for retarget in ({}, {'retarget': 'offset'}):
    counts = render(tmp_path / 'moved.mp4', kps=str(files / 'kps.npy'), **retarget)
    assert list(counts.values()) == [9]
  half = tmp_path / 'half.wav'
  soundfile.write(half, np.zeros(8000, np.float32), 16_000)
  assert list(render(tmp_path / 'a.mp4', audio=(str(half),)).values()) == [12]  # 12.5 frames


def test_every_portrait_with_every_voice_and_value(render, files, tmp_path):
  faces, voices = (tuple(str(files / f'{name}{i}.{kind}') for i in (0, 1)) for name, kind in PARTS)
  sweep = ('audio_weight', (0.5, 2.0))
  counts = render(tmp_path / 'all', image=faces, audio=voices, batch_size=6, sweep=sweep)
  assert {pathlib.Path(p).stem: n for p, n in counts.items()} == {
    f'face{i}_voice{j}_audio_weight={w}': 9 + 3 * j for i in (0, 1) for j in (0, 1) for w in ('0.5', '2')
  }
  assert all(len(read(path)) == count for path, count in counts.items())
  alone = render(tmp_path / 'alone', image=faces[1:], sweep=('audio_weight', (2.0, 3.0)))
  (path,) = (p for p in alone if p.endswith('audio_weight=2.mp4'))
  same = tmp_path / 'all' / 'face1_voice0_audio_weight=2.mp4'
  assert np.abs(read(path) - read(same)).max() <= 8  # the codec's loss


PARTS = (('face', 'png'), ('voice', 'wav'))


def test_wrong_requests_get_one_sentence(render, files, vexpress, tmp_path):
  out = tmp_path / 'a.mp4'
  with pytest.raises(UsageError, match='--retarget=naive moves keypoints of --kps, which is missing'):
    render(out, retarget='naive')
  with pytest.raises(UsageError, match='--retarget=nearest: expected one of fix_face'):
    render(out, retarget='nearest', kps=str(files / 'kps.npy'))
  with pytest.raises(UserError, match=r'^no file .*nothing\.npy: check the path'):
    render(out, kps=str(tmp_path / 'nothing.npy'))
  with pytest.raises(UserError, match='no face was found'):
    picture.write(tmp_path / 'grey.png', np.full((64, 64, 3), 128, np.uint8))
    render(out, image=(str(tmp_path / 'grey.png'),))
  with pytest.raises(UsageError, match='vexpress does not take --speed'):
    render(out, speed=3.0)
  with pytest.raises(UsageError, match='--sweep=speed: vexpress can sweep guidance'):
    options.parse_sweep('speed=1,2', 'vexpress', OPTIONS)
  with pytest.raises(UsageError, match='2 videos are asked for: name a folder'):
    render(out, sweep=('guidance', (1.0, 2.0)))
  assert not out.exists()
  config = vexpress.config.copy_and_resolve_references()
  config.update(compat='published')
  config.windows.update(frames=24, overlap=4)
  with pytest.raises(UserError, match='fewer than a window of 24'):
    conditions.read_voice(str(files / 'voice0.wav'), config)


def test_keypoints_of_a_video_are_those_published_with_it(vexpress, samples):
  config = vexpress.config.copy_and_resolve_references()
  config.update(fps=30.0, size=512)
  folder = samples / 'vexpress'
  found = conditions.read_driving(str(folder / 'triple_gt.mp4'), 20, config)
  given = conditions.read_driving(str(folder / 'triple_kps.pth'), 20, config)
  assert found.shape == (20, 3, 2) and len(given) == 137
  assert np.linalg.norm(found - given[:20], axis=-1).mean() < 0.03 * 512


def test_the_command_takes_every_option_with_the_published_sample(vexpress, samples, tmp_path):
  """Its portrait, its voice (4.57 s at 30 frames per second) and its keypoints, a pickle of arrays."""
  config = vexpress.config.copy_and_resolve_references()
  config.update(fps=30.0)
  checkpoint.save_params(tmp_path / 'workdir', config, vexpress.params, 0)
  folder, out = samples / 'vexpress', tmp_path / 'out.mp4'
  files = (f'--image={folder}/triple_ref.jpg', f'--audio={folder}/triple_aud.mp3', f'--kps={folder}/triple_kps.pth')
  windows = ('--window=12', '--overlap=4', '--window_batch_size=4', '--compat=published', '--retarget=none')
  weights = ('--reference_weight=0.9', '--audio_weight=2', '--guidance=2', '--sampler=ddim', '--steps=1')
  workdir = f'--workdir={tmp_path}/workdir'
  done = call('talkjax.generate', workdir, *files, *windows, *weights, f'--output={out}')
  assert f'{out}: 132 frames' in done.stdout  # of 137, those of whole windows
  config = json.loads(video.read_metadata(out)['comment'])['config']
  assert config['windows'] | {'frames': 12, 'overlap': 4, 'batch_size': 4} == config['windows']
  assert config['context_scales'] == {'reference': 0.9, 'audio': 2.0} and config['compat'] == 'published'
  wrong = call('talkjax.generate', workdir, *files[:2], '--window=3', '--overlap=3', f'--output={out}', check=False)
  assert wrong.returncode == 1 and 'must be at least 0 and less than config.windows.frames=3' in wrong.stderr


def test_the_published_sample_has_137_frames(vexpress, samples):
  config = vexpress.config.copy_and_resolve_references()
  config.update(fps=30.0)
  folder = samples / 'vexpress'
  inputs = {'image': (str(folder / 'triple_ref.jpg'),), 'audio': (str(folder / 'triple_aud.mp3'),)}
  (batch,) = conditions.from_files(
    vexpress.params,
    systems.Request('out.mp4', {**inputs, 'kps': str(folder / 'triple_kps.pth'), 'retarget': 'none'}),
    config=config,
  )
  (file,) = batch.videos
  assert file.num_frames == 137 and file.fps == 30.0 and file.sound == inputs['audio'][0]
  given = batch.conditions()
  assert given.keypoints[0].shape == (137, 3, 2) and len(given.sound[0].waveform) == round(137 / 30 * 16_000)


def test_a_sweep_of_the_command_is_compared_in_one_image(vexpress, files, tmp_path):
  checkpoint.save_params(tmp_path / 'workdir', vexpress.config, vexpress.params, 0)
  arguments = (f'--workdir={tmp_path}/workdir', f'--image={files}/face0.png', f'--audio={files}/voice0.wav')
  done = call('talkjax.generate', *arguments, '--sweep=audio_weight=0.5,2', f'--output={tmp_path}/sweep')
  assert f'{tmp_path}/sweep/comparison.png' in done.stdout
  compared = picture.read(tmp_path / 'sweep' / 'comparison.png')
  assert compared.shape[0] == 2 * 32 + picture.GAP and compared.shape[1] > 9 * (32 + picture.GAP)
  wrong = call('talkjax.generate', *arguments, '--sweep=reference_weight=a', f'--output={tmp_path}/no', check=False)
  assert wrong.returncode == 2 and 'expected an option and two numbers or more' in wrong.stderr


def test_sound_shorter_than_a_published_window_is_refused():
  assert conditions.published_length(16_000 * 2, 24, 4, 30.0) == (60, 2, 44)
  with pytest.raises(UserError, match='the sound has 15 frames .* fewer than a window of 24'):
    conditions.published_length(8000, 24, 4, 30.0)
