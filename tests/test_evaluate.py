"""Scores of a workdir and of folders, and the benchmark's figures, as the commands give them."""

import dataclasses
import gc
import json
import os
import shutil
import subprocess
import sys
import weakref

import jax
import numpy as np
import pytest

from configs import speech_edit
from talkjax import benchmark, evaluate, pipeline
from talkjax.media import picture, video
from talkjax.metrics import suites
from talkjax.systems import scoring
from talkjax.training import input_pipeline
from tests import micro
from tests.commands import ROOT, call
from tests.micro import ENCODER
from tests.systems import toy


@pytest.fixture(scope='module')
def workdir(micro_workdir, tmp_path_factory):
  """The run after two steps, when the network has learnt next to nothing."""
  folder = tmp_path_factory.mktemp('runs') / 'micro'
  return shutil.copytree(micro_workdir, folder, ignore=shutil.ignore_patterns('4', '6'))


@pytest.fixture(scope='module')
def scores(workdir, tmp_path_factory):
  out = tmp_path_factory.mktemp('scores')
  done = call(
    'talkjax.evaluate',
    f'--workdir={workdir}',
    '--limit=2',
    f'--output={out / "metrics.json"}',
    f'--strip={out / "strip.png"}',
    f'--videos={out / "videos"}',
  )
  return out, done


def test_a_workdirs_scores(scores):
  out, done = scores
  metrics = json.loads((out / 'metrics.json').read_text())
  assert metrics['clips'] == 2 and len(metrics['rows']) == 2 and metrics['step'] == 2
  assert metrics['true_conditions'] == []
  for name in (
    'psnr',
    'ssim',
    'psnr_mask',
    'ssim_mask',
    'lip_score',
    'lip_score_other_speech',
    'lip_score_other_truth',
  ):
    assert name in metrics and name in done.stdout
  # An untrained network repeats the identity frame, and that is what its baseline does.
  assert abs(metrics['psnr_mask'] - metrics['psnr_mask_identity']) < 1
  assert -1 <= metrics['lip_score_other_truth'] <= 1
  assert picture.read(out / 'strip.png').shape[0] > 32


class Reader:
  """Records that are read when they are asked for; `most` is how many clips and truths were alive at once."""

  def __init__(self, records, count):
    self.records, self.count, self.alive, self.most = records, count, 0, 0

  def __len__(self):
    return self.count

  def __getitem__(self, i):
    if not 0 <= i < self.count:
      raise IndexError(i)
    return self.watch(dataclasses.replace(self.records[i % len(self.records)], id=str(i), transcript=str(i)))

  def watch(self, value):
    weakref.finalize(value, self._gone)
    self.alive += 1
    if self.alive > self.most:
      gc.collect()  # what only cycles of references hold is not in use
      self.most = max(self.most, self.alive)
    return value

  def _gone(self):
    self.alive -= 1


@pytest.mark.slow
def test_no_more_clips_are_held_than_those_of_a_batch(puppets):
  config = toy.get_config()
  config.data.update(dir=str(puppets), mouth='pixels')
  records = [micro.cut(r, 4) for r in input_pipeline.eval_records(config.data, 'test', 2)]
  system = dataclasses.replace(toy.build(config), scores=(suites.IMAGES, suites.LIPS, suites.PORTRAIT))
  params = {'image': np.zeros((16, 16, 3), np.float32)}
  most, rows = [], {}
  for count in (4, 12):
    clips = Reader(records, count)

    def from_records(records, clips=clips, **how):
      batch = system.from_records(records, **how)
      return dataclasses.replace(batch, truth=tuple(map(clips.watch, batch.truth)))

    watched = dataclasses.replace(system, from_records=from_records)
    settings = scoring.Settings(batch_size=2, rotate=True)
    rows[count] = scoring.score_workdir(watched, config, params, clips, settings).rows
    gc.collect()
    assert clips.alive == 0
    most.append(clips.most)
  assert [len(r) for r in rows.values()] == [4, 12]
  assert most[0] == most[1] <= 8  # two clips, the speech of two others, and their truths, with each speech


def watch_devices() -> None:
  """Runs `evaluate` with the arguments of this process, and prints over how many devices images are split."""
  split, build = set(), evaluate.systems.build

  def watched(config):
    system = build(config)

    def generate(*args):
      for chunk in system.generate(*args):
        images = [a for a in jax.live_arrays() if a.shape[1:] == (32, 32, 3)]
        split.add(max(len(a) // len(a.addressable_shards[0].data) for a in images))
        yield chunk

    return dataclasses.replace(system, generate=generate)

  evaluate.systems.build = watched
  assert evaluate.main(['evaluate', *sys.argv[1:]]) == 0
  print('split over', split)


@pytest.mark.slow
def test_the_same_scores_on_one_device_and_on_eight(workdir, tmp_path):
  arguments = (f'--workdir={workdir}', '--limit=3', '--batch_size=2')
  call('talkjax.evaluate', *arguments, f'--output={tmp_path}/1.json')
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
  script = 'from tests import test_evaluate; test_evaluate.watch_devices()'
  done = subprocess.run(
    [sys.executable, '-c', script, *arguments, f'--output={tmp_path}/8.json'],
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags},
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-2000:]
  assert 'split over {8}' in done.stdout
  one, eight = (json.loads((tmp_path / f'{n}.json').read_text()) for n in (1, 8))
  assert [r['name'] for r in one['rows']] == [r['name'] for r in eight['rows']] and len(one['rows']) == 3
  for a, b in zip(one['rows'], eight['rows']):
    assert {k: v for k, v in a.items() if k != 'name'} == pytest.approx({k: b[k] for k in a if k != 'name'}, abs=1e-3)


def test_videos_for_every_clip_can_be_compared(scores):
  out, _ = scores
  folders = {k: sorted((out / 'videos' / k).iterdir()) for k in ('source', 'true', 'generated', 'other_speech')}
  assert {len(v) for v in folders.values()} == {2}
  assert video.probe(folders['source'][0]).width == 128 and video.probe(folders['true'][0]).width == 32
  done = call(
    'talkjax.evaluate',
    f'--generated={out / "videos" / "source"}',
    f'--reference={out / "videos" / "source"}',
    f'--output={out / "same.json"}',
  )
  same = json.loads((out / 'same.json').read_text())
  assert same['ssim'] == 1 and same['lip_score'] > 0.999 and 'mean' in done.stdout


def test_suites_of_a_workdir(workdir, tmp_path):
  """The scores of these suites and no others, by person too; what needs a network that is missing is said."""
  done = call(
    'talkjax.evaluate',
    f'--workdir={workdir}',
    '--limit=3',
    '--suites=image,motion',
    f'--output={tmp_path}/metrics.json',
    f'--strip={tmp_path}/strip.png',
  )
  metrics = json.loads((tmp_path / 'metrics.json').read_text())
  assert {'psnr', 'sharpness_face', 'sharpness_mouth', 'diversity', 'diversity_truth'} <= metrics.keys()
  assert not {'lip_score', 'fid', 'fvd'} & metrics.keys()
  assert metrics['pose'] == 'landmarks' and metrics['networks'] == {}
  assert any('no fid without inception: `python -m talkjax.convert --source=inception' in m for m in metrics['missing'])
  assert all(m in done.stdout for m in metrics['missing'])
  speakers = {row['person'] for row in metrics['rows']}
  assert metrics['people'].keys() == (speakers if len(speakers) > 1 else set())
  # Without a lip score the strip shows the first clip: truth above generated.
  assert picture.read(tmp_path / 'strip.png').shape[0] == 2 * 32 + picture.GAP


def test_the_strip_shows_the_best_and_the_worst():
  frames = lambda value: [np.full((4, 4, 3), value, np.uint8)] * 3
  extremes = scoring.Extremes()
  for value, score in ((10, None), (20, 0.5), (30, 0.9), (40, -0.1), (50, None)):
    extremes.add(frames(value), frames(value + 1), score)
  assert [entry[0] for entry in (extremes.best, extremes.worst)] == [0.9, -0.1]
  strip = extremes.strip()
  shown = [strip[i * (4 + picture.GAP), -1, 0] for i in range(4)]
  assert shown == [30, 31, 40, 41]
  one = scoring.Extremes()
  assert one.strip() is None
  one.add(frames(1), frames(2), 0.3)
  assert one.strip().shape[0] == 2 * 4 + picture.GAP


@pytest.mark.parametrize(
  ('arguments', 'code', 'sentence'),
  [
    (('--workdir={micro}', '--suites=image,lips'), 2, '--suites=image,lips: expected a list of image, sync, motion'),
    (
      ('--workdir={micro}', '--suites=image', '--metric_weights=nowhere'),
      1,
      '--metric_weights=nowhere: no such folder',
    ),
    (('--workdir={micro}', '--suites=identity', '--face_embedding=a.onnx'), 1, '--face_embedding=a.onnx: no such file'),
    ((), 2, 'give either --workdir, or both'),
    (('--workdir={micro}', '--output=scores.txt'), 2, '--output=scores.txt: expected a file name that ends in .json'),
    (('--workdir={micro}', '--strip='), 2, '--strip is empty'),
    (('--workdir={micro}', '--videos='), 2, '--videos is empty'),
    (('--workdir={micro}', '--seed=-1'), 2, '--seed=-1: expected 0 or more'),
    (('--generated=here',), 2, 'give either --workdir, or both'),
    (('--workdir=nowhere',), 1, 'nowhere is not a workdir'),
    (('--generated=nowhere', '--reference=nowhere'), 1, 'nowhere'),
    (('--generated=here', '--reference=there', '--workdir={micro}'), 2, 'give either --workdir, or both'),
    (('--workdir={micro}', '--split=trian'), 1, "has no split 'trian'"),
    (('--workdir={micro}', '--limit=0'), 2, '--limit=0: expected 1 or more'),
    (('--workdir={micro}', '--other_speech=none'), 2, '--other_speech=none: expected one of plain, rotated'),
    (('--workdir={micro}', '--steps=0'), 2, '--steps=0: expected 1 or more'),
    (('--workdir={micro}', '--sampler=ddimm'), 1, "sampler 'ddimm' is not one of"),
    (
      ('--workdir={micro}', '--motion_frames=False'),
      2,
      'speech_edit does not take --motion_frames: it takes --sampler, --steps',
    ),
    (('--workdir={micro}', '--sweep=audio_weight=1,2'), 2, '--sweep=audio_weight: speech_edit can sweep nothing'),
    (('--workdir={micro}', '--video=a.mp4'), 2, 'video'),
    (('--workdir={micro}', '--oracle'), 2, '--oracle: speech_edit has no conditions'),
  ],
)
def test_errors(arguments, code, sentence, micro_workdir):
  done = call('talkjax.evaluate', *(a.format(micro=micro_workdir) for a in arguments), check=False)
  assert done.returncode == code and sentence in done.stderr and done.stderr.count('\n') == 1


def test_benchmark_figures(micro, tmp_path):
  output = tmp_path / 'benchmark.json'
  call('talkjax.benchmark', *micro, '--repeats=2', f'--output={output}')
  figures = json.loads(output.read_text())
  for name in (
    'step_seconds',
    'frames_per_second',
    'gflops',
    'matmul_gflops',
    'compile_seconds',
    'create_seconds',
    'sampler_over_bare_steps',
    'input_frames_per_second',
    'peak_host_bytes',
  ):
    assert figures[name] > 0, name


def test_benchmark_needs_no_weights(puppets, tmp_path):
  """As `paper` of the portrait systems, whose wav2vec 2.0 must be given to training."""
  config = speech_edit.get_config('tiny,size=32,model.multipliers=(1,),model.width=32,batch_size=8')
  config.audio.update(kind='wav2vec2', wav2vec2=ENCODER)
  # A corpus of its own: in the shared one, other tests cache states of such weights.
  shutil.copytree(puppets / 'puppets', tmp_path / 'puppets', ignore=shutil.ignore_patterns('wav2vec2*'))
  config.data.update(corpus='puppets/tiny', dir=str(tmp_path))
  before = sorted(tmp_path.rglob('*'))
  figures = benchmark.compile_only(config)
  assert figures['parameters'] > 0 and figures['weights'] == 'random'
  assert sorted(tmp_path.rglob('*')) == before  # no states are computed


def test_only_files_of_evaluate_are_replaced(tmp_path):
  folders = '--generated=made', '--reference=true'  # which do not exist
  for flag, name in (('output', 'a.json'), ('strip', 'a.png')):
    (tmp_path / name).write_text('{"rows": 3}')
    done = call('talkjax.evaluate', *folders, f'--{flag}={tmp_path}/{name}', check=False)
    assert done.returncode == 1 and 'was not made by talkjax: choose another name\n' in done.stderr
    assert (tmp_path / name).read_text() == '{"rows": 3}'
  (tmp_path / 'a.json').write_text('{"rows": [], "suites": null}')
  picture.write(tmp_path / 'a.png', np.zeros((8, 8, 3), np.uint8), {'title': pipeline.TITLE})
  outputs = f'--output={tmp_path}/a.json', f'--strip={tmp_path}/a.png'
  done = call('talkjax.evaluate', *folders, *outputs, check=False)
  assert done.returncode == 1 and 'there is no folder made' in done.stderr
